"""Several vectors a passage through all verbs, on a collection of a few dozen texts."""

import json
from pathlib import Path

import numpy as np
import orjson
import pytest

from dense_jax.__main__ import run
from tests.test_end_to_end import process
from tests.test_two_rounds import collection

__all__ = ["collection"]  # a fixture
ROOT = Path(__file__).parent.parent
DOCUMENTS, VIEWS = 120, 3


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_multi_view_model_is_trained_searched_mined_with_evaluated_and_exported(collection, tmp_path, capsys):
    workdir = tmp_path / "run"
    small = {
        "corpus.source": collection,
        "evaluate.folder": collection,
        "tokenizer.vocab_size": 100,
        "objective.encoder.views": VIEWS,
        "objective.encoder.bert.width": 32,
        "objective.encoder.bert.feed_forward": 64,
        "objective.negatives": 0,
        "batch": 8,
        "steps": 8,
        "diagnose_every": 8,
        "mine.negatives": 4,
        "mine.depth": 20,
        "search.k": 7,
    }
    config = f"--config={ROOT / 'configs' / 'mvr.py'}:tiny"
    arguments = [config, f"--workdir={workdir}", *(f"--{key}={value}" for key, value in small.items())]
    assert run(["prepare", *arguments]) == 0
    training = process("train", *arguments)
    _, errors = training.communicate(timeout=200)
    assert training.returncode == 0, errors
    looked_at = json.loads((workdir / "metrics.jsonl").read_text().splitlines()[-1])
    assert 1 <= looked_at["collapse/view_perplexity"] <= VIEWS

    capsys.readouterr()
    for verb in ("index", "mine", "evaluate", "export"):
        assert run([verb, *arguments]) == 0, capsys.readouterr().err
    said = capsys.readouterr().out
    assert f"exact index: {DOCUMENTS * VIEWS} vectors of width 32" in said
    assert all(row in said for row in ("| BM25", "| before training", "| after training", "| BM25 + dense"))
    mined = [orjson.loads(line) for line in (workdir / "mined" / "dense-00000008.jsonl").read_bytes().splitlines()]
    for query in mined:
        assert len({*query["negative_document_ids"], *query["positive_document_ids"]}) == 5  # none twice, no positive

    assert run(["search", *arguments, "a river"]) == 0
    shown = [line for line in capsys.readouterr().out.splitlines() if line[:4].strip().isdecimal()]
    assert len(shown) == 7
    scores = np.array([float(line.split()[1]) for line in shown])
    assert (np.diff(scores) <= 0).all()
