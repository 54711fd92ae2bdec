"""SIGKILL in a save loses at most what was done since the last one, and nothing that is not this run's is deleted."""

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from dense_jax.train import loop
from dense_jax.train.checkpoint import Checkpoints
from dense_jax.train.loop import make_program
from tests.faults.train_and_die import STEPS, toy
from tests.programs import train_workdir
from tests.toys import VOCABULARY, MemoryStore

pytestmark = pytest.mark.slow  # each kill takes a process of its own
ROOT = Path(__file__).parent.parent.parent


def killed(folder: Path, point: str, step: int, keep: int = 3) -> None:
    """Trains in another process, which is killed at `point` of the save of `step`."""
    folder.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "tests.faults.train_and_die", folder, keep, point, step]
    ended = subprocess.run(list(map(str, command)), cwd=ROOT, env=os.environ, capture_output=True, text=True)
    assert ended.returncode == -signal.SIGKILL, ended.stderr


def resumed(folder: Path, keep: int = 3) -> None:
    train_workdir(toy(keep), MemoryStore(), VOCABULARY, folder)


def final(folder: Path):
    state, _ = opened(folder).restore(STEPS, make_program(toy()).like)
    return jax.tree.map(np.asarray, state)


def steps(folder: Path) -> list[int]:
    return opened(folder).steps()


def opened(folder: Path) -> Checkpoints:
    return Checkpoints(folder / "checkpoints", toy().checkpoint, read_only=True)


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    folder = tmp_path_factory.mktemp("straight")
    resumed(folder)
    return final(folder)


@pytest.fixture(scope="module")
def cut_off(tmp_path_factory) -> Path:
    """A run of which at most one checkpoint is kept, killed while it wrote that of step 15."""
    folder = tmp_path_factory.mktemp("cut_off")
    killed(folder, "writing", 15, keep=1)
    return folder


def test_t01_a_kill_while_a_checkpoint_is_written_leaves_the_one_before_it_even_where_one_is_kept(
    cut_off, straight, tmp_path, capsys
):
    folder = shutil.copytree(cut_off, tmp_path / "run")
    assert not (folder / "checkpoints" / "15" / "commit_success.txt").exists()
    assert steps(folder) == [0, 10]
    resumed(folder, keep=1)
    said = capsys.readouterr().err
    assert "the save of step 15" in said and "was cut off" in said
    assert "continuing from step 10" in said
    assert steps(folder) == [0, STEPS]
    jax.tree.map(np.testing.assert_array_equal, final(folder), straight)


@pytest.mark.parametrize("point", ["committed", "sealed"])
def test_t01_a_kill_after_a_checkpoint_is_committed_loses_nothing(point, straight, tmp_path, capsys):
    folder = tmp_path / "run"
    killed(folder, point, 15, keep=1)
    resumed(folder, keep=1)
    assert "continuing from step 15" in capsys.readouterr().err
    assert steps(folder) == [0, STEPS]
    jax.tree.map(np.testing.assert_array_equal, final(folder), straight)


def test_t02_a_folder_that_no_save_of_the_run_wrote_is_put_aside_and_not_deleted(cut_off, tmp_path, capsys):
    """The same half-written folder, but nothing proves that it is this run's."""
    folder = shutil.copytree(cut_off, tmp_path / "run")
    (folder / "checkpoints" / "saving.json").unlink()
    resumed(folder)
    assert f"{folder / 'checkpoints' / '15'} is no complete checkpoint" in capsys.readouterr().err
    assert (folder / "checkpoints" / "quarantine" / "15").is_dir()


def test_a_kill_before_step_0_is_sealed_starts_again_from_nothing(straight, tmp_path):
    killed(tmp_path / "run", "writing", 0)
    resumed(tmp_path / "run")
    jax.tree.map(np.testing.assert_array_equal, final(tmp_path / "run"), straight)


@pytest.fixture
def compiling(tmp_path, monkeypatch) -> Path:
    """A run that was broken off while its first step was compiled."""

    def step(*args):
        raise KeyboardInterrupt

    (tmp_path / "run").mkdir()
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(loop, "make_program", lambda config: replace(make_program(config), step=step))
        patched.setattr(Checkpoints, "close", lambda self: None)  # what a kill leaves undone
        resumed(tmp_path / "run")
    return tmp_path / "run"


def test_step_0_is_sealed_before_the_first_step_is_compiled(compiling):
    digests = json.loads((compiling / "checkpoints" / "digests-0.json").read_text())
    assert "commit_success.txt" in digests


def test_a_checkpoint_of_step_0_without_digests_is_no_obstacle_where_nothing_was_trained(compiling, straight):
    (compiling / "checkpoints" / "digests-0.json").unlink()
    resumed(compiling)
    jax.tree.map(np.testing.assert_array_equal, final(compiling), straight)
