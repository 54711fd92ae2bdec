"""REALM as a user runs it: a trainer, and beside it a second process that makes the index; either may be killed."""

import json
import random
import signal
import time

import pytest

from dense_jax.__main__ import run
from tests.test_end_to_end import ROOT, process

NAMES = [
    "Ada Love",
    "Karl Benz",
    "Marie Curie",
    "Joan Arc",
    "Isaac Newton",
    "Emmy Noether",
    "Alan Turing",
    "Niels Bohr",
]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A folder with prepared passages of two sentences, each about a name and a year."""
    folder, rng = tmp_path_factory.mktemp("realm"), random.Random(0)
    with (folder / "documents.jsonl").open("w") as file:
        for i in range(120):
            said = [f"In {rng.randrange(1500, 1999)} the letter went to {rng.choice(NAMES)} at last." for _ in range(2)]
            file.write(json.dumps({"_id": f"d{i}", "title": f"Letter {i}", "text": " ".join(said)}) + "\n")
    assert run(["prepare", *arguments(folder, folder / "run")]) == 0
    return folder


def arguments(folder, workdir, *more: str) -> list[str]:
    small = {
        "corpus.source": folder / "documents.jsonl",
        "corpus.held_out": 0,
        "passages.workdir": folder / "data",
        "passages.length": 32,
        "tokenizer.vocab_size": 150,
        "objective.encoder.bert.width": 16,
        "objective.encoder.bert.feed_forward": 32,
        "objective.passage_length": 32,
        "batch": 8,
        "steps": 60,
        "diagnose_every": 0,
        "log_every": 1,
        "embed.batch": 64,
        "embed.shard_size": 40,
        "neighbours.every": 10,
    }
    flags = [f"--{key}={value}" for key, value in small.items()]
    return [f"--config={ROOT / 'configs' / 'realm.py'}:tiny", f"--workdir={workdir}", *flags, *more]


def rows(workdir) -> list[dict]:
    found = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [row for row in found if "loss" in row]


@pytest.mark.slow
def test_show_prints_a_masked_sentence_and_the_spans_of_its_passage(prepared, capsys):
    assert run(["show", *arguments(prepared, prepared / "run"), "--full"]) == 0
    said = capsys.readouterr().out
    assert "[MASK]" in said
    assert "[[" in said
    assert "read/ids" in said


def test_a_method_that_looks_nothing_up_has_no_index_to_refresh(prepared, capsys):
    argv = [arg for arg in arguments(prepared, prepared / "run") if "passage_length" not in arg]
    argv[0] = f"--config={ROOT / 'configs' / 'mlm.py'}:tiny"
    assert run(["refresh", *argv]) == 2
    assert "MLM looks no passages up while it trains" in capsys.readouterr().err


@pytest.fixture
def started():
    """Starts verbs as processes, which the end of the test ends."""
    running = []

    def start(*argv):
        running.append(process(*argv))
        return running[-1]

    yield start
    for each in running:
        if each.poll() is None:
            each.kill()
            each.communicate()


@pytest.mark.slow
def test_trainer_and_refresher_may_both_be_killed_and_nothing_is_mixed(prepared, started, tmp_path):
    beside = ("--neighbours.refresh=asynchronous", "--neighbours.max_staleness=20")
    argv = arguments(prepared, tmp_path, *beside)
    trainer, refresher = started("train", *argv), started("refresh", *argv)
    wait_for(lambda: (tmp_path / "neighbours").is_dir() and made(tmp_path) >= 2)
    refresher.kill()
    refresher.communicate()
    refresher = started("refresh", *argv)
    wait_for(lambda: made(tmp_path) >= 3)
    trainer.send_signal(signal.SIGKILL)
    trainer.communicate()
    trainer = started("train", *argv)
    errors = trainer.communicate(timeout=200)[1]
    assert trainer.returncode == 0, errors
    said = refresher.communicate(timeout=100)[1]
    assert refresher.returncode == 0, said
    steps = [row["step"] for row in rows(tmp_path)]
    assert steps == list(range(1, 61))
    assert all(0 <= row["index/staleness"] <= 20 for row in rows(tmp_path))
    assert max(row["index/step"] for row in rows(tmp_path)) >= 20


def made(workdir) -> int:
    """Versions complete so far; three at most are kept."""
    return len(list((workdir / "neighbours").glob("*/manifest.json")))


def wait_for(holds) -> None:
    deadline = time.monotonic() + 150
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.05)
