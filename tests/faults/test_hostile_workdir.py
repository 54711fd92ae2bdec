"""A workdir, a corpus and a test set whose names mean something to shells, globs, URLs, formats and charts."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from dense_jax.__main__ import run
from dense_jax.data.beir_folder import write_beir
from dense_jax.errors import ConfigError
from dense_jax.types import Document
from tests.sources import sentence

ROOT = Path(__file__).parent.parent.parent
CONFIG = f"--config={ROOT / 'configs' / 'ict.py'}:tiny"
NAME = "-a $x^2$ %20%s {0} #c | <b>'\" ü\nz"


@pytest.mark.parametrize("character", "\\*?[]")
def test_a_workdir_that_checkpoints_could_not_be_read_from_is_refused_at_once(tmp_path, capsys, character):
    folder = tmp_path / f"a{character}b" / "run"
    assert run(["prepare", CONFIG, f"--workdir={folder}"]) == ConfigError.code
    assert f"--workdir={folder}: {character} in the path would be read as a pattern" in capsys.readouterr().err
    assert not folder.exists()


@pytest.mark.slow
def test_every_verb_works_in_a_folder_of_any_name(tmp_path, capsys):
    root = tmp_path / NAME
    documents = [Document(f"d{i}", f"title {i}", " ".join(sentence(10 * i + j) for j in range(4))) for i in range(40)]
    queries = {f"q{i}": sentence(10 * i) for i in range(10)}
    write_beir(root / NAME, documents, queries, {f"q{i}": {f"d{i}": 1} for i in range(10)}, "test")
    settings = {
        "corpus.source": root / NAME,
        "corpus.held_out": 0,
        "tokenizer.vocab_size": 80,
        "objective.encoder.bert.layers": 1,
        "objective.encoder.bert.width": 16,
        "objective.encoder.bert.heads": 2,
        "objective.encoder.bert.feed_forward": 16,
        "batch": 8,
        "steps": 1,
        "evaluate.folder": root / NAME,
        "validation.every": 1,
        "validation.folder": root / NAME,
        "validation.split": "test",
        "passages.length": 48,
    }
    given = [CONFIG, f"--workdir={root / 'run'}{NAME}", *(f"--{key}={value}" for key, value in settings.items())]
    assert run(["prepare", *given]) == 0, capsys.readouterr().err
    training = [sys.executable, "-m", "dense_jax", "train", *given]  # in a process of its own, which it joins to others
    done = subprocess.run(training, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for verb, words in (("index", []), ("search", ["light"]), ("evaluate", []), ("export", [])):
        assert run([verb, *given, *words]) == 0, (verb, capsys.readouterr().err)
    card = (root / f"run{NAME}" / "export" / "README.md").read_text().split("---\n", 2)[2]
    assert "<b>" not in card.split("## Settings")[0]
    capsys.readouterr()  # paths are printed as they are
    assert run(["compare", str(root / f"run{NAME}"), f"--workdir={root / NAME / 'out'}"]) == 0
    assert "<b>" not in (root / NAME / "out" / "comparison.md").read_text()
    assert json.loads((root / NAME / "out" / "comparison.json").read_text())
