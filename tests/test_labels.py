"""The order of work of launch/labels.sh, by a program in the place of dense-jax that only notes what it was asked."""

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
def labels(tmp_path):
    """Runs the script on two starts, two shares and two seeds; the calls that it made."""
    program = tmp_path / "bin" / "dense-jax"
    program.parent.mkdir()
    program.write_text(NOTING)
    program.chmod(0o755)
    calls = tmp_path / "calls"

    def run(fails: str = "nothing") -> tuple[int, list[str]]:
        calls.write_text("")
        environment = {"PATH": f"{program.parent}:{os.environ['PATH']}", "CALLS": str(calls), "FAILS": fails}
        arguments = ["runs", "config.py:tiny", "0.1 1.0", "0 1", "pre/ict", "--config.batch=8"]
        done = subprocess.run([ROOT / "launch" / "labels.sh", *arguments], env=environment, cwd=tmp_path, check=False)
        return done.returncode, calls.read_text().splitlines()

    return run


def test_every_start_learns_from_every_share_of_the_mined_queries_under_every_seed(labels):
    status, calls = labels()
    assert status == 0
    assert [call.split()[0] for call in calls[:2]] == ["prepare", "mine"]
    trained = [call for call in calls if call.startswith("train")]
    assert len(trained) == 2 * 2 * 2
    (one,) = (call for call in trained if "--workdir=runs/ict-0.1-1 " in call)
    for setting in ("corpus.query_share=0.1", "seed=1", "init_from=pre/ict", "batch=8",
                    "corpus.queries=runs/words/mined/bm25.jsonl", "passages.workdir=runs/data-0.1"):  # fmt: skip
        assert f"--config.{setting}" in one.split()
    assert all("init_from" not in call for call in trained if "none-" in call)
    assert calls[-1] == (
        "compare runs/none-1.0-0 runs/none-1.0-1 runs/ict-1.0-0 runs/ict-1.0-1 --against=none-1.0 "
        "--workdir=runs/compared-1.0"
    )


def test_what_is_finished_is_not_done_again(labels):
    status, _ = labels(fails="runs/ict-0.1-0")
    assert status != 0
    status, calls = labels()
    assert status == 0
    assert not [call for call in calls if call.startswith("mine")]
    again = [call.split("--workdir=")[1].split()[0] for call in calls if call.startswith("train")]
    assert again[0] == "runs/ict-0.1-0"
    assert len(again) == 8 - 2
