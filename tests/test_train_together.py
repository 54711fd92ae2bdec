"""Several real processes do what one does: the same examples in the same rows, the same noise, the same losses.

And they end together, or are ended, and go on in any number.
"""

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from dense_jax.config import CheckpointConfig
from dense_jax.train.checkpoint import Checkpoints
from tests import train_together
from tests.processes import Processes


def ended(task: str, count: int, folder: Path, *arguments: str) -> list[tuple[int, str]]:
    """Exit status of each of some processes that are started for this task, and what it said."""
    folder.mkdir(exist_ok=True)
    return Processes(count).end_with(f"tests.train_together.{task}", folder, *arguments)


@pytest.fixture
def done(together) -> Callable[..., list[Any]]:
    """The results of a task of this process, of two or of four: one of each process."""

    def do(task: str, count: int, folder: Path, *arguments: str) -> list[Any]:
        folder.mkdir(exist_ok=True)
        if count == 1:
            getattr(train_together, task)(folder, *arguments)
        else:
            together(count).do(f"tests.train_together.{task}", folder, *arguments)
        return [json.loads(path.read_text()) for path in sorted(folder.glob("process-*.json"))]

    return do


@pytest.mark.slow
def test_each_process_builds_its_own_rows_of_the_same_batches_for_every_method(done, tmp_path):
    (one,), two, four = (done("batches_of_all", count, tmp_path / str(count)) for count in (1, 2, 4))
    assert len(one) == 10
    for processes in (two, four):
        for name, alone in one.items():
            own = [found[name] for found in processes]
            for step, rows in enumerate(alone["rows"]):
                assert sorted(row for found in own for row in found["rows"][step]) == rows, name
            for found in own:
                held = [8 * step + row for step, rows in enumerate(found["rows"]) for row, _ in rows]
                assert found["built"] == held, name  # and of other rows nothing


@pytest.mark.slow
def test_loss_and_gradient_norm_are_those_of_one_process_dropout_included(done, tmp_path):
    two = "ICT", "Contriever"  # with negatives in the batch, and in a queue
    (one,), *others = (done("learn", count, tmp_path / str(count), *two) for count in (1, 2, 4))
    for found in (found for processes in others for found in processes):
        for name, steps in one.items():
            # float32 sums over the network in another order, though here they came out the same to the last bit
            np.testing.assert_allclose(found[name], steps, rtol=1e-5, err_msg=name)


@pytest.mark.slow
def test_a_process_that_fails_ends_at_once_with_its_own_status_and_the_others_are_told(tmp_path):
    (waited, of_other), (failed, of_own) = ended("fails", 2, tmp_path)
    assert failed == 3
    assert "dense-jax train: passages-00007: damaged" in of_own
    assert waited == -signal.SIGABRT
    assert "The following tasks are unhealthy (stopped sending heartbeats):\n1\n" in of_other


def losses(workdir: Path) -> list[tuple[int, float, float]]:
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [(row["step"], row["loss"], row["gradient_norm"]) for row in rows]


def assert_same_to_the_last_bit(a: Path, b: Path) -> None:
    assert losses(a) == losses(b)
    last = [Checkpoints(at / "checkpoints", CheckpointConfig(), read_only=True) for at in (a, b)]
    assert [one.steps()[-1] for one in last] == [20, 20]
    jax.tree.map(np.testing.assert_array_equal, *(one.restore_params_as_saved(20) for one in last))


@pytest.fixture(scope="module")
def straight(together, tmp_path_factory) -> Path:
    """The workdir of four processes that nothing disturbed."""
    workdir = tmp_path_factory.mktemp("straight")
    together(4).do("tests.train_together.toy", workdir)
    return workdir


@pytest.fixture(scope="module")
def stopped(tmp_path_factory) -> Path:
    """The workdir of four, one of which was sent SIGTERM."""
    workdir = tmp_path_factory.mktemp("stopped")
    of_each = ended("toy", 4, workdir, "2", "stopped", "4")
    assert [status for status, _ in of_each] == [75] * 4, of_each
    assert len({text.splitlines()[-1] for _, text in of_each}) == 1  # stopped at step N of 20, saved; ...
    return workdir


@pytest.mark.slow
def test_t07_t12_sigterm_to_one_of_four_stops_all_at_one_step_and_two_and_then_one_or_four_go_on(
    straight, stopped, together, tmp_path
):
    two, one, four = (tmp_path / name for name in ("two", "one", "four"))
    shutil.copytree(stopped, two)
    saved = len(losses(two))
    assert 0 < saved < 15
    assert [status for status, _ in ended("toy", 2, two, "1", "stopped", "3")] == [75, 75]
    assert saved < len(losses(two)) < 20
    shutil.copytree(two, one)
    assert [status for status, _ in ended("toy", 1, one)] == [0]
    shutil.copytree(two, four)
    together(4).do("tests.train_together.toy", four)
    for workdir in (one, four):
        np.testing.assert_allclose(losses(workdir), losses(straight), rtol=1e-5)  # as above


@pytest.mark.slow
def test_t09_one_of_four_that_is_killed_amid_a_save_takes_the_others_along_and_nothing_is_lost(
    straight, stopped, together, tmp_path
):
    shutil.copytree(stopped, tmp_path, dirs_exist_ok=True)
    of_each = ended("toy", 4, tmp_path, "1", "killed", "15")
    assert of_each[1][0] == -signal.SIGKILL
    assert all(status not in (0, 75) for status, _ in of_each), of_each
    lost = "The following tasks are unhealthy (stopped sending heartbeats):\n1\n"
    assert all(lost in text for number, (_, text) in enumerate(of_each) if number != 1), of_each
    together(4).do("tests.train_together.toy", tmp_path)
    assert_same_to_the_last_bit(tmp_path, straight)
