"""T1: SIGKILL at each boundary of start, step, save and seal; the next start ends with the same parameters."""

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from dense_jax.__main__ import run
from dense_jax.config import CheckpointConfig
from dense_jax.train.checkpoint import Checkpoints
from tests.faults.command_line import ROOT, arguments

pytestmark = pytest.mark.slow  # each kill takes a process of its own
FILES, SAVES = "dense_jax.train.checkpoint_files CheckpointFiles", "dense_jax.train.checkpoint Checkpoints"
METRICS = "dense_jax.train.metrics_files MetricsFiles"
# What is called next, the number of its call, and the step that the next start may at worst go on from
BOUNDARIES = {
    "before the folder of checkpoints": (f"{FILES}.recover", 1, 0),
    "before the settings are recorded": ("dense_jax.run record", 1, 0),
    "before step 0 is saved": (f"{FILES}.begin", 1, 0),
    "while step 0 is written": (f"{SAVES}.finish", 2, 0),
    "before step 0 is sealed": (f"{FILES}.seal", 1, 0),
    "after the first step": (f"{SAVES}.preempted", 1, 0),
    "before the metrics of step 1 are written": (f"{METRICS}.write", 1, 0),
    "before the metrics up to step 2 are on the disk": (f"{METRICS}.sync", 1, 0),
    "before step 2 is saved": (f"{FILES}.begin", 2, 0),
    "before step 2 is sealed": (f"{FILES}.seal", 2, 2),
    "after step 2 is sealed": (f"{FILES}.delete_all_but", 2, 2),
    "before the last step is saved": (f"{FILES}.begin", 4, 4),
    "before the last step is sealed": (f"{FILES}.seal", 4, 6),
}


@pytest.mark.parametrize(("place", "call", "at_worst"), BOUNDARIES.values(), ids=BOUNDARIES)
def test_t01_a_kill_at_a_boundary_changes_no_bit_of_what_is_learned(made, tmp_path, capsys, place, call, at_worst):
    workdir = shutil.copytree(
        made / "run", tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints", "config.json", "metrics*", "tens*")
    )
    argv = arguments(made / "documents.jsonl", workdir)
    command = [sys.executable, "-m", "tests.faults.killed_at", *place.split(), str(call), "train", *argv]
    killed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=250, check=False)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert run(["train", *argv]) == 0
    said = capsys.readouterr().err
    assert "Traceback" not in said and "quarantine" not in said
    if at_worst:
        assert f"continuing from step {at_worst} of 6" in said
    jax.tree.map(np.testing.assert_array_equal, learned(workdir), learned(made / "run"))
    assert losses(workdir) == losses(made / "run")


def losses(workdir: Path) -> list[tuple[int, float]]:
    lines = map(json.loads, (workdir / "metrics.jsonl").read_text().splitlines())
    return [(line["step"], line["loss"]) for line in lines]


def learned(workdir: Path) -> Any:
    return Checkpoints(workdir / "checkpoints", CheckpointConfig(), read_only=True).restore_params_as_saved(6)
