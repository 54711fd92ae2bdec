"""configs/pretrained.py through the verbs: a folder whose tokenizer has no mask token."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dense_jax.__main__ import run
from dense_jax.data.tokenizer import Tokenizer
from dense_jax.hf import tensors
from tests.bert_folders import SMALL, fresh_params, subtrees

ROOT = Path(__file__).parents[1]
TEXTS = ["The keeper of the lighthouse lit the light.", "A ship passed the lighthouse at night."]


@pytest.fixture
def arguments(tmp_path):
    """Of a model folder, a corpus and a workdir; the piece [MASK] is called by another name in the folder."""
    folder = tmp_path / "model"
    subtree = {name: part for name, part in subtrees(fresh_params()).items() if name != "mlm"}
    tensors.save_params(subtree, SMALL, folder, pad=0)
    Tokenizer.train(TEXTS * 5, vocab_size=SMALL.vocab_size, lowercase=True).save(folder)
    for name, change in {"tokenizer.json": {}, "tokenizer_config.json": {"mask_token": None}}.items():
        raw = json.loads((folder / name).read_text().replace("[MASK]", "zzz")) | change
        (folder / name).write_text(json.dumps(raw))
    rows = [json.dumps({"_id": f"d{i}", "text": " ".join(TEXTS)}) for i in range(4)]
    (tmp_path / "corpus.jsonl").write_text("\n".join(rows))
    settings = {"corpus.source": tmp_path / "corpus.jsonl", "passages.length": 10, "batch": 8}
    flags = [f"--{key}={value}" for key, value in settings.items()]
    return [f"--config={ROOT / 'configs/pretrained.py'}:{folder}", f"--workdir={tmp_path / 'run'}", *flags]


@pytest.mark.slow
def test_a_model_without_a_mask_token_is_used_and_not_trained_by_masking(arguments, capsys):
    assert run(["prepare", *arguments]) == 0
    assert run(["show", *arguments]) == 0
    assert run(["show", *arguments, "--steps=2"]) == 2
    assert "the tokenizer has no mask token, and this objective masks tokens" in capsys.readouterr().err
    command = [sys.executable, "-m", "dense_jax", "train", *arguments]
    done = subprocess.run(command, cwd=ROOT, text=True, capture_output=True, timeout=200)
    assert done.returncode == 0, done.stderr
