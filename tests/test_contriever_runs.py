"""Contriever through the training loop: restarts, warm starts, and what is written down on the way."""

import functools
import json
import shutil

import jax
import numpy as np
import pytest

from dense_jax.config import CheckpointConfig, Config, OptimizerConfig
from dense_jax.errors import ConfigError
from dense_jax.train.checkpoint import Checkpoints
from dense_jax.train.loop import initial_state, make_program
from dense_jax.train.warm_start import initial_weights
from tests.programs import train_workdir
from tests.test_contriever import Texts, contriever
from tests.toys import VOCABULARY

pytestmark = pytest.mark.slow


def config(**settings) -> Config:
    method = contriever(queue=48, momentum=0.9, packing=0.75)
    fixed = {"objective": method, "steps": 4, "batch": 16, "log_every": 1, "diagnose_every": 2}
    return Config(**(fixed | {"optimizer": OptimizerConfig(0.01), "checkpoint": CheckpointConfig(every=2)} | settings))


def run(workdir, **settings):
    workdir.mkdir(exist_ok=True)
    train_workdir(config(**settings), Texts(), VOCABULARY, workdir)


def state(workdir, step):
    """All arrays of a checkpoint."""
    found, _ = Checkpoints(workdir / "checkpoints", CheckpointConfig(), read_only=True).restore(
        step, make_program(config()).like
    )
    return found


def logged_rows(workdir):
    """Logged rows without timings."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if "second" not in k and not k.startswith("time/")} for row in rows]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("finished")
    run(workdir)
    return workdir


def test_a_restart_keeps_queue_pointer_momentum_encoder_and_data_order_to_the_last_bit(finished, tmp_path):
    restarted = tmp_path / "restarted"
    shutil.copytree(finished, restarted)
    shutil.rmtree(restarted / "checkpoints" / "4")
    run(restarted)
    a, b = state(finished, 4), state(restarted, 4)
    assert (int(a.carry["next"]), int(a.carry["filled"])) == (1, 3)  # four batches into a queue of three
    jax.tree.map(np.testing.assert_array_equal, a, b)
    assert logged_rows(finished) == logged_rows(restarted)


def test_diagnostics_are_logged_every_diagnose_every_steps(finished):
    found = {row["step"]: {name for name in row if name.startswith("collapse/")} for row in logged_rows(finished)}
    assert found[1] == found[3] == set()
    assert (
        found[2]
        == found[4]
        >= {"collapse/rank_me", "collapse/alignment", "collapse/queue_age", "collapse/encoder_distance"}
    )
    assert [row["collapse/queue_age"] for row in logged_rows(finished)[1::2]] == [
        2,
        3,
    ]  # steps; three is the whole queue


def test_diagnostics_between_log_steps_are_logged_separately(tmp_path):
    run(tmp_path, steps=3, log_every=3)
    assert [row["step"] for row in logged_rows(tmp_path)] == [2, 3]


def test_diagnostics_can_be_turned_off(tmp_path):
    run(tmp_path, steps=2, diagnose_every=0)
    assert not any(name.startswith("collapse/") for row in logged_rows(tmp_path) for name in row)


def test_the_momentum_encoder_starts_as_a_copy_of_what_init_from_gave(finished):
    asked = config(init_from=str(finished), seed=5)
    started = initial_state(make_program(asked), functools.partial(initial_weights, asked))
    trained = state(finished, 4).params
    jax.tree.map(np.testing.assert_array_equal, started.params, trained)
    jax.tree.map(np.testing.assert_array_equal, started.carry["encoder"], trained["encoder"])


def test_a_batch_whose_rows_do_not_divide_over_the_devices_is_refused(tmp_path):
    method = contriever(queue=48, packing=0.5)
    with pytest.raises(ConfigError, match="batch=16 makes 4 rows of several texts here, which 8 devices do not"):
        run(tmp_path, objective=method)


def test_a_run_of_no_steps_saves_its_start(tmp_path):
    run(tmp_path, steps=0)
    assert {path.name for path in (tmp_path / "checkpoints").iterdir() if path.is_dir()} == {"0"}
