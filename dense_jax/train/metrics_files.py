"""The one place that writes metrics: metrics.jsonl, skipped.jsonl and TensorBoard's events.

A line is with the system at once, so that a kill loses none. Before a checkpoint is saved, the disk is waited for:
after a power cut the lines up to the newest checkpoint are whole, and the run does the later steps again.
"""

import contextlib
import json
import math
import socket
import struct
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from typing_extensions import TypedDict

from dense_jax.errors import StorageError
from dense_jax.io import Count, check_kind, naming_storage_errors, sync, text_lines, whole_file
from dense_jax.train.trackers import Tracker

METRICS, SKIPPED, EVENTS = "metrics.jsonl", "skipped.jsonl", "tensorboard"


class StepLine(TypedDict):
    """A line of skipped.jsonl."""

    step: Count


class MetricsLine(StepLine):
    """A line of metrics.jsonl."""

    tokens: float
    seconds: float


class MetricsFiles:
    """Metrics files of a run that continues from step `first`; writes are flushed, so that a full disk is noticed."""

    def __init__(self, workdir: Path, first: int, tracker: Tracker | None = None) -> None:
        """Open the files and drop what they hold of steps after `first`. A `tracker` is sent what TensorBoard is.

        Raises:
            StorageError: the disk is full or refuses the write; the other methods raise it too.
        """
        self.workdir, self._tracker = workdir, tracker
        _cut(workdir / SKIPPED, first, StepLine)
        with naming_storage_errors(workdir / METRICS):
            self._lines = _cut(workdir / METRICS, first, MetricsLine).open("a", encoding="utf-8")
        with naming_storage_errors(workdir / EVENTS):
            self._events = _events_file(workdir / EVENTS, first)

    def write(self, step: int, values: Mapping[str, float], more: Mapping[str, float]) -> None:
        """Write a line with all figures, and those of `values` as events."""
        with naming_storage_errors(self.workdir / METRICS):
            self._lines.write(json.dumps({"step": step, **values, **more}) + "\n")
            self._lines.flush()
        with naming_storage_errors(self.workdir / EVENTS):
            for name, value in values.items():
                self._events.write(_scalar(step, name, value))
            self._events.flush()
        if self._tracker:
            self._tracker.log(step, values)

    def write_skipped(self, step: int, figures: Mapping[str, str], examples: Sequence[str]) -> None:
        """Write a line about a skipped step, with the ids of its examples."""
        path, line = self.workdir / SKIPPED, {"step": step, **figures, "examples": [*examples]}
        with naming_storage_errors(path), path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def sync(self) -> None:
        """Wait until the disk has all that was written: a power cut keeps the lines up to here."""
        with naming_storage_errors(self.workdir / METRICS):
            for path in (self.workdir / METRICS, Path(self._events.name)):
                sync(path)
                sync(path.parent)
            if (self.workdir / SKIPPED).is_file():
                sync(self.workdir / SKIPPED)

    def close(self) -> None:
        with naming_storage_errors(self.workdir / METRICS), contextlib.ExitStack() as files:
            files.callback(self._lines.close)
            files.callback(self._events.close)
            if self._tracker:
                files.callback(self._tracker.close)


def has_trained(workdir: Path) -> bool:
    """Return True if metrics.jsonl has a line of a trained step."""
    path = workdir / METRICS
    return path.is_file() and any(0 < _step(line, StepLine) < math.inf for line in text_lines(path))


def read_metrics(workdir: Path) -> list[dict[str, float]]:
    """The numbers of each whole line of metrics.jsonl, in the order of the file; none without the file."""
    lines = text_lines(workdir / METRICS) if (workdir / METRICS).is_file() else []
    found = [json.loads(line) for line in lines if _step(line, MetricsLine) < math.inf]
    return [{name: float(value) for name, value in line.items() if isinstance(value, int | float)} for line in found]


def totals_until(workdir: Path, first: int) -> dict[str, float]:
    """Real tokens and seconds of training up to step `first`, extrapolated from the last line before it."""
    path = workdir / METRICS
    lines = text_lines(path)
    last = json.loads(lines[-1]) if lines else {"step": 0}  # `_cut` has dropped incomplete lines
    if not last["step"]:
        return {"tokens": 0.0, "seconds": 0.0}
    check_kind(last, MetricsLine, f"{path}:{len(lines)}")
    return {name: last[name] * first / last["step"] for name in ("tokens", "seconds")}


def _cut(path: Path, first: int, kind: Any) -> Path:
    """Remove lines of steps after `first`, which the run repeats, and lines that are not of the type `kind`."""
    before = path.read_bytes() if path.exists() else b""
    kept = b"".join(line + b"\n" for line in before.split(b"\n") if _step(line, kind) <= first)
    if kept != before:
        with whole_file(path) as partial:
            partial.write_bytes(kept)
    return path


def _step(line: str | bytes, kind: Any) -> float:
    """Step of a line; infinity if the line is empty or not of `kind`, such as one that a crash truncated."""
    try:
        value = json.loads(line)
        check_kind(value, kind, "a line")
        return float(value["step"])
    except (ValueError, RecursionError, StorageError):
        return math.inf


def _events_file(folder: Path, first: int) -> IO[bytes]:
    """Open a file of events for synchronous writes: tensorboardX writes on a thread, where errors are lost.

    The session start in it makes TensorBoard drop later steps of earlier files. The suffix separates two runs that
    start within the same second.
    """
    # Slow: imports torch if it is installed.
    from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore[reportAttributeAccessIssue]

    folder.mkdir(parents=True, exist_ok=True)
    now = time.time()
    file = (folder / f"events.out.tfevents.{int(now)}.{socket.gethostname()}.{first:08}").open("ab")
    start = SessionLog(status=SessionLog.START)
    for event in (
        Event(wall_time=now, file_version="brain.Event:2"),
        Event(wall_time=now, step=first + 1, session_log=start),
    ):
        file.write(_record(event.SerializeToString()))
    return file


def _scalar(step: int, name: str, value: float) -> bytes:
    """Encode an event with one scalar as a record."""
    from tensorboardX.proto.event_pb2 import Event  # pyright: ignore[reportAttributeAccessIssue]
    from tensorboardX.summary import scalar

    return _record(Event(wall_time=time.time(), step=step, summary=scalar(name, value)).SerializeToString())


def _record(data: bytes) -> bytes:
    """Encode `data` as a TFRecord: length with checksum, then data with checksum."""
    from tensorboardX.record_writer import masked_crc32c

    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked_crc32c(length)) + data + struct.pack("<I", masked_crc32c(data))
