"""A run's metrics in a tracker: Weights & Biases, trackio or MLflow (`--track`). Never the reason that a run fails.

Each tracker is a `Session`: a function that takes the figures of a step, and one that ends the session. A run that
continues goes on in the tracked run whose id is in WORKDIR/tracker.json.
"""

import logging
import re
import sys
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tqdm import tqdm
from typing_extensions import TypedDict

from dense_jax.config import Config, Track
from dense_jax.config.settings import settings_of
from dense_jax.config.tree import without_folders
from dense_jax.io import read_json, write_json

FILE, PROJECT = "tracker.json", "dense_jax"
_DATABASE = "mlflow.db"  # where no server is named by MLFLOW_TRACKING_URI
_NOT_OF_MLFLOW = re.compile(r"[^\w\-. :/]")  # in the name of a metric

Log = Callable[[int, Mapping[str, float]], None]  # step, figures


class TrackedRun(TypedDict):
    """Content of tracker.json."""

    tracker: str
    run: str


class Session(NamedTuple):
    """A run in a tracker."""

    run: str  # its id
    log: Log
    finish: Callable[[], None]


class Tracker:
    """The tracker of a run. Its first error is printed as a note, and ends the tracking; `Track.NONE` does nothing."""

    def __init__(self, config: Config, workdir: Path) -> None:
        """Start a tracked run, or go on with that of `workdir`, and send the settings without private ones."""
        self._kind, self._session = config.track, None
        if config.track is Track.NONE:
            return
        public = {setting.name: str(setting.value) for setting in settings_of(without_folders(config))}
        try:
            self._session = _STARTS[config.track](workdir.absolute(), public, _known_run(workdir, config.track))
            write_json(workdir / FILE, TrackedRun(tracker=config.track.value, run=self._session.run))
        except ImportError as error:
            self._give_up(f"{error}; pip install 'dense_jax[{config.track.value}]'")
        except Exception as error:
            self._give_up(error)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Send the figures of a step."""
        if self._session:
            try:
                self._session.log(step, values)
            except Exception as error:
                self._give_up(error)

    def close(self) -> None:
        """End the session; what a tracker holds back is sent."""
        session, self._session = self._session, None
        if session:
            try:
                session.finish()
            except Exception as error:
                self._give_up(error)

    def _give_up(self, error: object) -> None:
        self._session = None
        words = " ".join(str(error).split()) or type(error).__name__
        tqdm.write(f"note: track={self._kind.value} tracks no more of this run: {words}", file=sys.stderr)


def _known_run(workdir: Path, kind: Track) -> str | None:
    """The id of the tracked run of `workdir`; None for a new one."""
    if not (workdir / FILE).is_file():
        return None
    known = read_json(workdir / FILE, TrackedRun)
    return known["run"] if known["tracker"] == kind.value else None


def _start_wandb(workdir: Path, settings: Mapping[str, str], known: str | None) -> Session:
    import wandb  # pyright: ignore[reportMissingImports]

    run = wandb.init(
        project=PROJECT, name=workdir.name, id=known or _new_id(), resume="allow", config={**settings}, dir=str(workdir)
    )
    run.define_metric("*", step_metric="step")  # wandb's own steps may not be sent twice, as a restart does
    return Session(run.id, lambda step, values: run.log({"step": step, **values}), run.finish)


def _start_trackio(workdir: Path, settings: Mapping[str, str], known: str | None) -> Session:
    import trackio  # pyright: ignore[reportMissingImports]

    name = known or f"{workdir.name}-{_new_id()}"
    run = trackio.init(project=PROJECT, name=name, resume="allow", config={**settings})
    return Session(name, lambda step, values: run.log({**values}, step=step), run.finish)


def _start_mlflow(workdir: Path, settings: Mapping[str, str], known: str | None) -> Session:
    import mlflow  # pyright: ignore[reportMissingImports]
    from mlflow.entities import Metric, Param  # pyright: ignore[reportMissingImports]

    logging.getLogger("mlflow").setLevel(logging.WARNING)
    client = mlflow.MlflowClient(None if mlflow.is_tracking_uri_set() else f"sqlite:///{workdir}/{_DATABASE}")
    run = known or _new_mlflow_run(client, workdir.name)
    if not known:
        client.log_batch(run, params=[Param(name, value) for name, value in settings.items() if value])

    def log(step: int, values: Mapping[str, float]) -> None:
        now = int(1_000 * time.time())
        named = ((_NOT_OF_MLFLOW.sub("_", name), value) for name, value in values.items())
        client.log_batch(run, metrics=[Metric(name, value, now, step) for name, value in named])

    client.update_run(run, status="RUNNING")
    return Session(run, log, lambda: client.set_terminated(run))


def _new_mlflow_run(client: Any, name: str) -> str:
    experiment = client.get_experiment_by_name(PROJECT)
    number = experiment.experiment_id if experiment else client.create_experiment(PROJECT)
    return client.create_run(number, run_name=name).info.run_id


def _new_id() -> str:
    return uuid.uuid4().hex[:8]


_STARTS = {Track.WANDB: _start_wandb, Track.TRACKIO: _start_trackio, Track.MLFLOW: _start_mlflow}
