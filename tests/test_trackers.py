"""Metrics in a tracker: what is sent, in which run, and that no tracker ends a training."""

import contextlib
import dataclasses
import json
import sys
from types import ModuleType, SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from dense_jax.config import Track
from dense_jax.configs import ict
from dense_jax.train.metrics import MetricsLog
from dense_jax.train.restart import move_aside
from dense_jax.train.trackers import FILE, Tracker


def config(track: Track):
    return dataclasses.replace(ict.get_config("tiny"), track=track, init_from="/home/me/runs/earlier")


class StandIn(ModuleType):
    """wandb or trackio: notes what it is called with."""

    def __init__(self, name: str, fails: str = "") -> None:
        super().__init__(name)
        self.called, self.fails, self.finished = [], fails, 0

    def init(self, **given):
        self.given = given
        return SimpleNamespace(
            id=given.get("id"), log=self._log, define_metric=lambda *_, **__: None, finish=self._finish
        )

    def _log(self, values, step=None):
        if self.fails == "log":
            raise ConnectionError("no route\nto host")
        self.called.append((step or values["step"], {name: of for name, of in values.items() if name != "step"}))

    def _finish(self):
        if self.fails == "finish":
            raise TimeoutError
        self.finished += 1


@pytest.fixture(params=[Track.WANDB, Track.TRACKIO])
def tracker(request, monkeypatch):
    """A kind of tracker and the module in its place."""
    module = StandIn(request.param.value)
    monkeypatch.setitem(sys.modules, request.param.value, module)
    return request.param, module


def trained(folder, track: Track) -> None:
    """The metrics of three steps, of which the second is due and the third is the last."""
    tracker = Tracker(config(track), folder)
    log = MetricsLog(folder, first=0, last=3, every=2, batch=8, names=str, tracker=tracker)
    with contextlib.closing(log):
        for step in (1, 2, 3):
            metrics = {"loss": jnp.float32(step), "gradient_norm": jnp.float32(1), "tokens": jnp.float32(30)}
            log.record(step, metrics, np.arange(8))
        log.add(3, {"validation/nDCG@10": 0.5}, "validated")


def test_a_tracker_is_sent_the_figures_that_tensorboard_is(tmp_path, tracker):
    kind, module = tracker
    trained(tmp_path, kind)
    assert [(step, values.get("loss"), values.get("validation/nDCG@10")) for step, values in module.called] == [
        (2, 2.0, None), (3, 3.0, None), (3, None, 0.5)
    ]  # fmt: skip
    assert module.finished == 1
    assert module.given["project"] == "dense_jax"
    sent = module.given["config"]
    assert (sent["batch"], sent["init_from"]) == ("128", "earlier")  # of a path the last part


def test_a_continued_run_is_the_same_run_of_the_tracker_until_it_is_started_over(tmp_path, tracker):
    kind, module = tracker
    names = []
    for restart in (False, False, True):
        if restart:
            (tmp_path / "metrics.jsonl").touch()
            move_aside(tmp_path)
        Tracker(config(kind), tmp_path).close()
        assert module.given["resume"] == "allow"
        names.append(module.given["id" if kind is Track.WANDB else "name"])
    assert names[0] == names[1] != names[2]


@pytest.mark.parametrize(("fails", "words"), [("log", "no route to host"), ("finish", "TimeoutError")])
def test_an_error_of_a_tracker_is_one_note_and_the_run_goes_on(tmp_path, tracker, fails, words, capsys):
    kind, module = tracker
    module.fails = fails
    trained(tmp_path, kind)
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert notes == [f"note: track={kind.value} tracks no more of this run: {words}"]
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize("kind", [Track.WANDB, Track.TRACKIO, Track.MLFLOW])
def test_a_tracker_that_is_not_installed_is_a_note_with_the_command(tmp_path, kind, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, kind.value, None)
    trained(tmp_path, kind)
    assert f"pip install 'dense_jax[{kind.value}]'" in capsys.readouterr().err
    assert not (tmp_path / FILE).exists()


def test_a_damaged_file_of_the_tracked_run_is_a_note(tmp_path, tracker, capsys):
    (tmp_path / FILE).write_text("{")
    trained(tmp_path, tracker[0])
    assert f"{FILE}: " in capsys.readouterr().err


def test_the_files_of_the_workdir_are_written_before_a_tracker_is_sent_anything(tmp_path, tracker, monkeypatch):
    def refuse(*_):
        raise OSError("full")

    monkeypatch.setattr("dense_jax.train.metrics_files._scalar", refuse)
    with pytest.raises(OSError, match="full"):
        trained(tmp_path, tracker[0])
    assert tracker[1].called == []


def test_without_a_tracker_nothing_is_imported_and_nothing_written(tmp_path, monkeypatch):
    for kind in ("wandb", "trackio", "mlflow"):
        monkeypatch.setitem(sys.modules, kind, None)
    trained(tmp_path, Track.NONE)
    assert not (tmp_path / FILE).exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_mlflow_keeps_the_metrics_of_both_parts_of_a_run_in_the_workdir(tmp_path, monkeypatch, capsys):
    mlflow = pytest.importorskip("mlflow")
    pytest.importorskip("sqlalchemy")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    trained(tmp_path, Track.MLFLOW)
    again = Tracker(config(Track.MLFLOW), tmp_path)
    again.log(4, {"loss": 0.25})
    again.close()
    assert "note:" not in capsys.readouterr().err
    run = json.loads((tmp_path / FILE).read_text())["run"]
    client = mlflow.MlflowClient(f"sqlite:///{tmp_path}/mlflow.db")
    assert [(point.step, point.value) for point in client.get_metric_history(run, "loss")] == [
        (2, 2),
        (3, 3),
        (4, 0.25),
    ]
    found = client.get_run(run)
    assert found.data.metrics["validation/nDCG_10"] == 0.5
    assert found.data.params["batch"] == "128"
    assert found.info.status == "FINISHED"
