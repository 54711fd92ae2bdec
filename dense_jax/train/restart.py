"""A deliberate new start in a workdir that was trained: what the old run wrote is moved aside, not deleted."""

import shutil
import sys
from pathlib import Path

from dense_jax.augmented.versions import VERSIONS
from dense_jax.io import naming_storage_errors
from dense_jax.multihost import on_process_0
from dense_jax.train.metrics_files import EVENTS, METRICS, SKIPPED
from dense_jax.train.validation import FILE as PROBES

# What training writes, but for locks and what it only makes once of the data.
_WRITTEN = ("checkpoints", "config.json", METRICS, SKIPPED, EVENTS, PROBES, VERSIONS)


def move_aside(workdir: Path) -> None:
    """Moves what training wrote in `workdir` to a new folder `before-restart-N` there; the first process does so."""
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
