"""The process that accompanies an asynchronous training: it makes the index of the newest snapshot, in a loop.

The trainer saves a checkpoint every `neighbours.every` steps, which is the snapshot; this process reads nothing else of
it, and the trainer reads nothing of this one but complete versions. Either may be killed and started again.
"""

import sys
import time
from collections.abc import Callable
from pathlib import Path

from dense_jax.augmented.versions import Versions
from dense_jax.config.training import CheckpointConfig
from dense_jax.errors import StorageError
from dense_jax.processes.multihost import is_process_0, on_process_0
from dense_jax.terminal.progress import format_duration
from dense_jax.train.checkpoint import Checkpoints
from dense_jax.train.restore import Trained
from dense_jax.train.validation import read_history

_PAUSE = 2.0  # seconds between looks for a newer snapshot


def refresh(
    versions: Versions,
    workdir: Path,
    last: int,
    trained: Callable[[int], Trained],
    *,
    pause: Callable[[float], None] = time.sleep,
) -> None:
    """Make a version of the workdir's newest checkpoint, in a loop, until that is of step `last`.

    Several processes work together; process 0 reads the disk for all. `trained` opens the checkpoint of a step. It may
    start before, with or after the training.

    Raises:
        DataError: a vector is NaN or infinite.
        StorageError: the disk refuses.
    """
    while True:
        step = on_process_0(lambda: _newest(workdir))
        if step == last:
            return
        if step is None or on_process_0(lambda made=step: _is_made(versions, workdir, made)):
            if on_process_0(lambda: _ended(workdir)):
                return
            pause(_PAUSE)
            continue
        began = time.monotonic()
        try:
            snapshot = trained(step)
        except StorageError:
            if on_process_0(lambda: _newest(workdir)) == step:
                raise
            continue  # the trainer has deleted it meanwhile: there is a newer one
        versions.make(step, snapshot.towers.passage, snapshot.fingerprint)
        if is_process_0():
            versions.prune(_checkpoints(workdir).fingerprints(versions.begun()))
            print(
                f"index of step {step:,} made in {format_duration(time.monotonic() - began)}",
                file=sys.stderr,
                flush=True,
            )


def _newest(workdir: Path) -> int | None:
    """The step of the newest complete checkpoint."""
    steps = _checkpoints(workdir).steps() if (workdir / "checkpoints").is_dir() else []
    return steps[-1] if steps else None


def _is_made(versions: Versions, workdir: Path, step: int) -> bool:
    """Return whether the version of this run's checkpoint of `step` is complete."""
    return step in versions.committed() and versions.belongs(step, _checkpoints(workdir).fingerprint(step))


def _checkpoints(workdir: Path) -> Checkpoints:
    return Checkpoints(workdir / "checkpoints", CheckpointConfig(), read_only=True)


def _ended(workdir: Path) -> bool:
    """Return whether the training has stopped early."""
    history = read_history(workdir)
    return history is not None and bool(history.ended)
