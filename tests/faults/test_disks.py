"""A full disk ends training with one message and leaves the checkpoints before it; a read-only one can be read."""

import contextlib
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dense_jax.config import CheckpointConfig
from dense_jax.errors import StorageError
from dense_jax.train.checkpoint import Checkpoints
from dense_jax.train.metrics import MetricsLog
from dense_jax.train.restore import load_trained
from tests.faults.full_disk import largest_file, make_read_only, mounted
from tests.faults.train_and_die import toy
from tests.programs import train_workdir
from tests.test_checkpoint import saved, started, state
from tests.toys import VOCABULARY, MemoryStore

# Orbax raises the first error of a checkpoint that does not fit; those of its other files surface in a later test.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def test_t05_a_checkpoint_that_does_not_fit_on_the_disk_is_an_error_and_the_one_before_is_intact(tmp_path):
    checkpoints = saved(tmp_path, 1)
    noise = jax.random.normal(jax.random.key(0), (256, 64))  # cannot be compressed
    broken = state(2)
    broken.params["layer"]["kernel"] = noise
    with (
        largest_file(20_000),
        pytest.raises(StorageError, match=r"2: the disk is full; earlier checkpoints are intact"),
    ):
        checkpoints.save(2, broken, {})
        checkpoints.finish()
    assert checkpoints.steps() == [1]
    checkpoints.verify(1)


def test_t05_no_first_checkpoint_is_begun_where_two_do_not_fit(tmp_path):
    with mounted(tmp_path / "disk", 200_000) as disk:
        checkpoints = Checkpoints(disk / "checkpoints", CheckpointConfig())
        checkpoints.check_space(state(0), copies=1)
        with pytest.raises(StorageError, match=r"2 more checkpoints may take 0\.29 MB, and 0\.20 MB are free"):
            checkpoints.check_space(state(0), copies=2)
        (disk / "other").write_bytes(bytes(100_000))
        with pytest.raises(StorageError, match=r"1 more checkpoint may take 0\.15 MB"):
            checkpoints.save(1, state(1), {})
        assert [path.name for path in (disk / "checkpoints").iterdir()] == []


def record(log: MetricsLog, step: int) -> None:
    metrics = {"loss": jnp.float32(step), "gradient_norm": jnp.float32(1), "tokens": jnp.float32(30)}
    log.record(step, metrics, np.arange(8))


@pytest.mark.parametrize("written", ["metrics.jsonl", "tensorboard"])
def test_metrics_that_do_not_fit_on_the_disk_are_an_error_that_names_the_file(tmp_path, written):
    if written == "metrics.jsonl":
        (tmp_path / written).write_text(json.dumps({"step": 0, "notes": "-" * 3_000, "tokens": 0, "seconds": 0}) + "\n")
    log = MetricsLog(tmp_path, first=0, last=99, every=1, batch=8, names=str)
    with largest_file(3_500), pytest.raises(StorageError, match=f"{written}: the disk is full"):
        for step in range(1, 99):
            record(log, step)
    with contextlib.suppress(StorageError):
        log.close()


def test_metrics_of_before_stay_where_a_continued_run_finds_no_room_for_them(tmp_path):
    lines = "".join(json.dumps({"step": step, "tokens": 1, "seconds": 1}) + "\n" for step in range(200))
    (tmp_path / "metrics.jsonl").write_text(lines)
    with largest_file(500), pytest.raises(StorageError, match=r"metrics\.jsonl: the disk is full"):
        MetricsLog(tmp_path, first=150, last=300, every=1, batch=8, names=str)
    assert (tmp_path / "metrics.jsonl").read_text() == lines


@pytest.mark.slow
def test_a_run_whose_metrics_find_no_room_ends_with_that_error_alone(tmp_path, capsys):
    with largest_file(9_000), pytest.raises(StorageError, match="the disk is full") as error:
        train_workdir(toy(steps=60), MemoryStore(), VOCABULARY, tmp_path)
    assert "metrics.jsonl" in str(error.value) or "tensorboard" in str(error.value)
    assert "warning" not in capsys.readouterr().err
    assert started(tmp_path / "checkpoints") > 0


@pytest.mark.slow
def test_a_checkpoint_is_read_from_a_disk_that_cannot_be_written(tmp_path):
    config = toy(steps=2)
    (tmp_path / "run").mkdir()
    train_workdir(config, MemoryStore(), VOCABULARY, tmp_path / "run")
    with mounted(tmp_path / "disk", 10_000_000) as disk:
        shutil.copytree(tmp_path / "run", disk / "run")
        make_read_only(disk)
        with pytest.raises(OSError, match="Read-only"):
            (disk / "run" / "new").touch()
        assert load_trained(config, disk / "run", -1).step == 2
        with pytest.raises(StorageError, match="may not be written"):
            Checkpoints(disk / "run" / "elsewhere", CheckpointConfig())
