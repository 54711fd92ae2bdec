"""Metrics of a run: metrics.jsonl, TensorBoard, and a line or a bar on standard error."""

import contextlib
import math
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from dense_jax.arrays import Int, Metrics
from dense_jax.errors import NonFiniteError
from dense_jax.terminal.progress import format_duration, progress_bar
from dense_jax.train.metrics_files import SKIPPED, MetricsFiles, totals_until
from dense_jax.train.step_times import StepTimes, format_times
from dense_jax.train.trackers import Tracker

COLLAPSE = "collapse/"  # before the names of collapse metrics
_NAMED = 10  # examples of a broken batch


@dataclass(frozen=True)
class SkippedSteps:
    """Count of steps that were skipped because their loss or gradient was not finite."""

    limit: int = 0  # skipped steps in a row that end training (optimizer.skip_nonfinite); 0: the first one does
    in_a_row: int = 0
    total: int = 0


class MetricsLog:
    """Reader of the metrics of finished steps: writes every k-th step, and stops the run on a non-finite loss.

    A step with collapse metrics (train/diagnosis.py) is written too. Call `record` one step late, when the device works
    on the next step, so that reading does not stall it.
    """

    def __init__(
        self,
        workdir: Path,
        *,
        first: int,
        last: int,
        every: int,
        batch: int,
        names: Callable[[int], str],
        silent: bool = False,
        skipped: SkippedSteps = SkippedSteps(),
        tracker: Tracker | None = None,
    ) -> None:
        """Log the steps after `first` up to `last`; `names` maps a row to its document id, for error messages.

        A `silent` log checks the losses but writes nothing: that of all processes but process 0.
        """
        self.silent, self._skipped, self.times = silent, skipped, StepTimes()
        self.last, self.every, self.batch, self.names = last, every, batch, names
        if not silent:
            self._files = MetricsFiles(workdir, first, tracker)
        self._bar = progress_bar("train", last, "steps", initial=first) if sys.stderr.isatty() and not silent else None
        self._since = (first, time.monotonic())  # step and time of the last line, to measure speed
        self._tokens = 0.0  # tokens since then
        self._total = {} if silent else totals_until(workdir, first)

    @property
    def state(self) -> dict[str, Any]:
        """State for a checkpoint, as JSON values."""
        skipped = self._skipped
        return {"skipped": {"in_a_row": skipped.in_a_row, "total": skipped.total}} if skipped.limit else {}

    def record(self, step: int, metrics: Metrics, rows: Int[np.ndarray, " b"]) -> None:
        """Record the metrics of `step`, whose batch came from the passages `rows`.

        Raises:
            NonFiniteError: loss or gradient is NaN or infinite, too often in a row to be skipped.
            StorageError: the disk is full or refuses the write.
        """
        values = {name: float(value) for name, value in metrics.items()}
        broken = {name: values[name] for name in ("loss", "gradient_norm") if not math.isfinite(values[name])}
        if broken:
            self._skip(step, broken, rows)
            values = {name: value for name, value in values.items() if math.isfinite(value)}
        else:
            self._skipped = replace(self._skipped, in_a_row=0)
        if self.silent:
            return
        tokens = values.pop("tokens")
        if step > self._since[0]:
            self._tokens += tokens
        else:  # before the clock was restarted
            self._total["tokens"] += tokens
        if self._bar is not None:
            self._bar.update()
        if step % self.every == 0 or step == self.last or any(name.startswith(COLLAPSE) for name in values):
            counted = {"skipped_steps": float(self._skipped.total)} if self._skipped.limit else {}
            self._write(step, values | counted)

    def _skip(self, step: int, broken: dict[str, float], rows: Int[np.ndarray, " b"]) -> None:
        skipped = replace(self._skipped, in_a_row=self._skipped.in_a_row + 1, total=self._skipped.total + 1)
        self._skipped = skipped
        found = " and ".join(f"{name} {value}" for name, value in broken.items())
        documents = ", ".join(self.names(int(row)) for row in rows[:_NAMED])
        reason = f"step {step}: {found}; its examples come from {documents}, ..."
        if skipped.in_a_row >= skipped.limit:
            in_a_row = f"\n{skipped.in_a_row} such steps in a row, and optimizer.skip_nonfinite={skipped.limit}"
            raise NonFiniteError(reason + (in_a_row if skipped.limit else ""))
        if not self.silent:
            figures = {name: str(value) for name, value in broken.items()}
            self._files.write_skipped(step, figures, [self.names(int(row)) for row in rows])
            self.say(f"warning: {reason} Its update is skipped; all of its examples are listed in {SKIPPED}")

    def add(self, step: int, values: dict[str, float], event: str) -> None:
        """Write further metrics of the state after `step`, and print the `event` that they measure."""
        if self.silent:
            return
        passed = {"tokens": self._tokens, "seconds": time.monotonic() - self._since[1]}
        self._files.write(step, values, {name: self._total[name] + more for name, more in passed.items()})
        self.say(f"step {step:,}/{self.last:,}  {event}")

    def say(self, text: str) -> None:
        """Print a line, above the bar if there is one."""
        if not self.silent:
            tqdm.write(text, file=sys.stderr)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Exclude the block from speed and training time."""
        began = time.monotonic()
        yield
        seconds = time.monotonic() - began
        self._since = (self._since[0], self._since[1] + seconds)
        self.times.exclude(seconds)

    def restart_clock(self, step: int) -> None:
        """Exclude the steps until `step` and their time, such as compilation, from the speed."""
        self._since = (step, time.monotonic())
        self.times.restart()

    def sync(self) -> None:
        """Wait until the disk has all metrics so far."""
        if not self.silent:
            self._files.sync()

    def close(self) -> None:
        """Close the files, and print the summary of a run that trained."""
        if self.silent:
            return
        if self._bar is not None:
            self._bar.close()
        if self.times.steps:
            self.say(self.times.summary())
        self._files.close()

    def _write(self, step: int, values: dict[str, float]) -> None:
        (before, then), now = self._since, time.monotonic()
        if step <= before:  # of no measured time
            self._files.write(step, values, self._total)
            self._show(step, values)
            return
        rate = (step - before) / max(now - then, 1e-9)
        speed = {"examples_per_second": rate * self.batch, "tokens_per_second": self._tokens * rate / (step - before)}
        self._total = {"tokens": self._total["tokens"] + self._tokens, "seconds": self._total["seconds"] + now - then}
        self._since, self._tokens = (step, now), 0.0
        times = self.times.figures(step - before, now - then)
        self._files.write(step, {**values, **speed, **times}, self._total)
        pace = f"{speed['examples_per_second']:,.0f} examples/s  {speed['tokens_per_second']:,.0f} tokens/s"
        self._show(step, values, pace, format_times(times), f"ETA {format_duration((self.last - step) / rate)}")

    def _show(self, step: int, values: dict[str, float], *pace: str) -> None:
        ordered = sorted(values.items(), key=lambda item: item[0] != "loss")  # which is first
        shown = (f"{name} {value:.4g}" for name, value in ordered if not name.startswith(COLLAPSE))
        if self._bar is not None:
            self._bar.set_postfix_str(f" loss {values.get('loss', math.nan):.4g}")
        else:
            print("  ".join((f"step {step:,}/{self.last:,}", *shown, *pace)), file=sys.stderr, flush=True)
