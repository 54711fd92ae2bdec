"""T20: a run that diverges ends with status 5, and what it saved is sound, on the command line."""

import shutil

import jax
import numpy as np
import pytest

from dense_jax.__main__ import run
from dense_jax.config import CheckpointConfig
from dense_jax.train.checkpoint import Checkpoints
from tests.faults.command_line import arguments


@pytest.mark.slow
@pytest.mark.parametrize("skip", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_t20_a_diverged_run_ends_with_status_5_and_no_checkpoint_that_is_not_finite(made, tmp_path, capsys, skip):
    workdir = shutil.copytree(made / "run", tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints", "metrics*"))
    (workdir / "config.json").unlink()
    more = ("--optimizer.learning_rate=1e38", "--optimizer.warmup_share=0", f"--optimizer.skip_nonfinite={skip}")
    argv = arguments(made / "documents.jsonl", workdir, *more, "--steps=40")
    for _ in range(2):  # a restart ends so too, and not with a state that is worse
        assert run(["train", *argv]) == 5
        said = capsys.readouterr().err
        assert "Traceback" not in said and "the last good checkpoint is of step" in said
    checkpoints = Checkpoints(workdir / "checkpoints", CheckpointConfig(), read_only=True)
    for step in checkpoints.steps():
        checkpoints.verify(step)
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(checkpoints.restore_params_as_saved(step)))
