"""A deliberate new start in a trained workdir: the files of the old run are moved aside, not deleted."""

import shutil
import sys
from pathlib import Path

from dense_jax.augmented.versions import VERSIONS
from dense_jax.io import naming_storage_errors
from dense_jax.processes.multihost import on_process_0
from dense_jax.train.metrics_files import EVENTS, METRICS, SKIPPED
from dense_jax.train.trackers import FILE as TRACKED
from dense_jax.train.validation import FILE as PROBES

# The files of training, without locks and without data that any run would make again.
_WRITTEN = ("checkpoints", "config.json", METRICS, SKIPPED, EVENTS, TRACKED, PROBES, VERSIONS)


def move_aside(workdir: Path) -> None:
    """Move the files of training to a new folder `before-restart-N` of `workdir`. All processes call it."""
    on_process_0(lambda: _moved(workdir))


def _moved(workdir: Path) -> None:
    written = [workdir / name for name in _WRITTEN if (workdir / name).exists()]
    if not written:
        return
    target = next(path for i in range(1, 10**6) if not (path := workdir / f"before-restart-{i}").exists())
    with naming_storage_errors(target):
        target.mkdir()
        for path in written:
            shutil.move(path, target / path.name)  # a mounted bucket may rename no folder
    print(f"the old state, {', '.join(path.name for path in written)}, is moved to {target}", file=sys.stderr)
