"""Fine-tuning in two rounds by its script, as a user runs it, on a collection of a few dozen texts."""

import json
import os
import subprocess
import sys
from pathlib import Path

import orjson
import pytest

from tests.query_files import write
from tests.sources import rows, sentence

ROOT = Path(__file__).parent.parent


@pytest.fixture
def collection(tmp_path):
    """Query i is a sentence of document i, which answers it: every second one to learn from, the others to test."""
    path = tmp_path / "collection"
    write(path / "corpus.jsonl", rows(120))
    write(path / "queries.jsonl", [{"_id": f"q{i}", "text": sentence(10 * i)} for i in range(120)])
    for split, first in (("train", 0), ("test", 1)):
        write(path / "qrels" / f"{split}.tsv", "".join(f"q{i}\td{i}\t1\n" for i in range(first, 120, 2)))
    return path


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_second_round_learns_from_what_the_first_one_mined(collection, tmp_path):
    config = f"{ROOT / 'configs' / 'finetune_cocondenser.py'}:tiny"
    small = {
        "corpus.source": collection,
        "evaluate.folder": collection,
        "evaluate.before": "false",
        "tokenizer.vocab_size": 100,
        "objective.encoder.bert.width": 32,
        "objective.encoder.bert.feed_forward": 64,
        "batch": 8,
        "steps": 8,
        "mine.negatives": 4,
        "mine.depth": 20,
    }
    command = [ROOT / "launch" / "two_rounds.sh", tmp_path / "runs", config, config]
    environment = os.environ | {
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [*map(str, command), *(f"--{key}={value}" for key, value in small.items())],
        env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3_000:]
    assert "| round1 " in done.stdout
    assert "| round2 " in done.stdout
    by_words, by_meaning = (
        {
            row["query_id"]: set(row["negative_document_ids"])
            for row in map(orjson.loads, path.read_bytes().splitlines())
        }
        for path in (tmp_path / "runs/words/mined/bm25.jsonl", tmp_path / "runs/round1/mined/dense-00000008.jsonl")
    )
    assert by_words.keys() == by_meaning.keys() == {f"q{i}" for i in range(0, 120, 2)}
    assert all(f"d{query[1:]}" not in by_words[query] | by_meaning[query] for query in by_words)
    for page in ("round2/report.html", "comparison.html"):
        assert "round2" in (tmp_path / "runs" / page).read_text()
    learned = json.loads((tmp_path / "runs/round2/config.json").read_text())["corpus"]["queries"]
    assert [Path(path).name for path in learned] == ["bm25.jsonl", "dense-00000008.jsonl"]
    (united,) = {
        notes["negatives"]
        for path in (tmp_path / "runs/data").glob("queries-train-*/manifest.json")
        if (notes := json.loads(path.read_text())["notes"])["negatives"] > 240  # 60 queries with 4 of one miner
    }
    assert united == sum(len(by_words[query] | by_meaning[query]) for query in by_words)
