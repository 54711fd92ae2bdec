"""The order of work of launch/*.sh, by a program in the place of dense-jax that notes its calls."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NOTING = """#!/usr/bin/env bash
echo "$@" >> "$CALLS"
for argument; do case $argument in --workdir=*) workdir=${argument#*=} ;; esac; done
mkdir -p "$workdir/mined"
if [ "$1" = mine ]; then touch "$workdir/mined/bm25.jsonl"; fi
[ "$1 $workdir" != "train $FAILS" ]
"""


@pytest.fixture
def recipe(tmp_path):
    """Runs a script; its status, and the calls that it made."""
    program = tmp_path / "bin" / "dense-jax"
    program.parent.mkdir()
    program.write_text(NOTING)
    program.chmod(0o755)
    calls = tmp_path / "calls"

    def run(script: str, arguments: list[str], fails: str) -> tuple[int, list[str]]:
        calls.write_text("")
        environment = {"PATH": f"{program.parent}:{os.environ['PATH']}", "CALLS": str(calls), "FAILS": fails}
        done = subprocess.run([ROOT / "launch" / script, *arguments], env=environment, cwd=tmp_path, check=False)
        return done.returncode, calls.read_text().splitlines()

    return run


@pytest.mark.parametrize(
    ("script", "arguments", "page"),
    [
        ("local.sh", ["config.py:tiny", "runs"], "report --workdir=runs"),
        ("compare.sh", ["runs", "9", "0 1", "a.py:tiny", "b.py:tiny"], "compare "),
        ("labels.sh", ["runs", "config.py:tiny", "1.0", "0", "pre/ict"], "compare "),
        ("questions.sh", ["runs", "config.py:tiny", "0", "pre/ict"], "compare "),
        ("two_rounds.sh", ["runs", "a.py:tiny", "b.py:tiny"], "compare "),
    ],
)
def test_every_script_ends_with_a_page(recipe, tmp_path, script, arguments, page):
    table = tmp_path / "runs" / "results" / "toy-test" / "table.md"
    table.parent.mkdir(parents=True)
    table.touch()
    status, calls = recipe(script, arguments, fails="nothing")
    assert status == 0
    assert [call for call in calls if not call.startswith("search")][-1].startswith(page)


@pytest.fixture
def labels(recipe):
    """Two starts, one of them none, on two shares of the queries under two seeds."""
    arguments = ["runs", "config.py:tiny", "0.1 1.0", "0 1", "pre/ict", "--batch=8"]
    return lambda fails="nothing": recipe("labels.sh", arguments, fails)


@pytest.fixture
def questions(recipe):
    """Two starts, one of them with a reader, under two seeds."""
    arguments = ["runs", "config.py:tiny", "0 1", "pre/ict,pre/mlm", "pre/realm", "--answer.questions=dev.json"]
    return lambda fails="nothing": recipe("questions.sh", arguments, fails)


def test_every_start_learns_from_every_share_of_the_mined_queries_under_every_seed(labels):
    status, calls = labels()
    assert status == 0
    assert [call.split()[0] for call in calls[:2]] == ["prepare", "mine"]
    trained = [call for call in calls if call.startswith("train")]
    assert len(trained) == 2 * 2 * 2
    (one,) = (call for call in trained if "--workdir=runs/ict-0.1-1 " in call)
    for setting in ("corpus.query_share=0.1", "seed=1", "init_from=pre/ict", "batch=8",
                    "corpus.queries=runs/words/mined/bm25.jsonl", "passages.workdir=runs/data-0.1"):  # fmt: skip
        assert f"--{setting}" in one.split()
    assert all("init_from" not in call for call in trained if "none-" in call)
    assert calls[-1] == (
        "compare runs/none-1.0-0 runs/none-1.0-1 runs/ict-1.0-0 runs/ict-1.0-1 --against=none-1.0 "
        "--workdir=runs/compared-1.0"
    )


def test_a_share_that_is_finished_is_not_done_again(labels):
    status, _ = labels(fails="runs/ict-0.1-0")
    assert status != 0
    status, calls = labels()
    assert status == 0
    assert not [call for call in calls if call.startswith("mine")]
    again = [call.split("--workdir=")[1].split()[0] for call in calls if call.startswith("train")]
    assert again[0] == "runs/ict-0.1-0"
    assert len(again) == 8 - 2


def test_every_start_is_asked_as_it_is_and_after_it_has_learned_to_answer(questions):
    status, calls = questions()
    assert status == 0
    assert [call.split()[0] for call in calls[:5]] == ["prepare", "train", "embed", "index", "answer"]
    asked = [call.split() for call in calls if call.startswith("answer")]
    assert all("--answer.questions=dev.json" in call for call in asked)
    runs = ["ict-as-it-is", "realm-as-it-is", "ict-0", "realm-0", "ict-1", "realm-1"]
    assert [call[2] for call in asked] == [f"--workdir=runs/{run}" for run in runs]
    assert ["--steps=0" in call for call in asked] == [True, True, False, False, False, False]
    assert {"--init_from=pre/ict", "--init_reader_from=pre/mlm", "--seed=1"} <= {*asked[-2]}
    assert {"--init_from=pre/realm", "--seed=1"} <= {*asked[-1]}
    assert not any("init_reader_from" in argument for argument in asked[-1])
    assert ["--answer.read=false" in call for call in asked] == [True, True, False, False, False, False]
    assert [call for call in calls if call.startswith("compare")] == [
        "compare runs/ict-as-it-is runs/realm-as-it-is --against=ict-as-it-is --workdir=runs/compared-as-it-is",
        "compare runs/ict-0 runs/realm-0 runs/ict-1 runs/realm-1 --against=ict --workdir=runs/compared",
    ]


def test_a_start_that_was_asked_is_not_asked_again(questions):
    status, _ = questions(fails="runs/realm-0")
    assert status != 0
    status, calls = questions()
    assert status == 0
    asked = [call.split("--workdir=")[1].split()[0] for call in calls if call.startswith("answer")]
    assert asked == ["runs/realm-0", "runs/ict-1", "runs/realm-1"]
