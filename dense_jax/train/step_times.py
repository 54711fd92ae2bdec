"""Time of a run by purpose: MFU, waiting for data, saving checkpoints; the trace of a profiler."""

import contextlib
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

from dense_jax.terminal.progress import format_duration

DATA, CHECKPOINTS = "waiting for data", "saving checkpoints"
DATA_WAIT, CHECKPOINT_SECONDS, MFU = "time/data_wait_share", "time/checkpoint_seconds", "time/mfu"  # in metrics.jsonl
FOLDER = "profile"  # of a trace, in the workdir


class StepTimes:
    """Seconds of the host, by what it did. `seconds_at_peak` is the least time of a step; None: unknown."""

    def __init__(self, seconds_at_peak: float | None = None) -> None:
        self.seconds_at_peak = seconds_at_peak
        self._began = time.monotonic()
        self._since_line: dict[str, float] = dict.fromkeys((DATA, CHECKPOINTS), 0.0)
        self._total = dict(self._since_line)
        self.steps, self._seconds = 0, 0.0  # of all lines
        self._excluded = 0.0  # seconds of no line

    @contextlib.contextmanager
    def spent(self, what: str) -> Iterator[None]:
        """Count the time of the block as spent on `what`."""
        began = time.monotonic() - self._excluded
        try:
            yield
        finally:
            self._since_line[what] += time.monotonic() - self._excluded - began

    def exclude(self, seconds: float) -> None:
        """Leave `seconds` that just passed out of the purpose whose block they lie in, if any."""
        self._excluded += seconds

    def restart(self) -> None:
        """Leave the time until now out of the next line."""
        self._since_line = dict.fromkeys(self._since_line, 0.0)

    def figures(self, steps: int, seconds: float) -> dict[str, float]:
        """Figures of the `steps` steps since the last line, which took `seconds`; the next line starts from here."""
        waited, saved = self._since_line[DATA], self._since_line[CHECKPOINTS]
        self._total = {what: seconds + self._since_line[what] for what, seconds in self._total.items()}
        self.restart()
        self.steps, self._seconds = self.steps + steps, self._seconds + seconds
        found = {DATA_WAIT: waited / max(seconds, 1e-9), CHECKPOINT_SECONDS: saved}
        return found if self.seconds_at_peak is None else found | {MFU: self._mfu(steps, seconds)}

    def summary(self) -> str:
        """One line on the run so far: its time, and the shares of steps, waiting and saving in it."""
        wall = max(time.monotonic() - self._began, 1e-9)
        useful = self._seconds - sum(self._total.values())
        shares = {"useful steps": useful, **self._total, "compiling, validating and the rest": wall - self._seconds}
        mfu = "" if self.seconds_at_peak is None else f"; MFU {self._mfu(self.steps, self._seconds):.1%}"
        parts = ", ".join(f"{seconds / wall:.1%} {what}" for what, seconds in shares.items())
        return f"{self.steps:,} steps after the first in {format_duration(wall)}: {parts}{mfu}"

    def _mfu(self, steps: int, seconds: float) -> float:
        assert self.seconds_at_peak is not None
        return steps * self.seconds_at_peak / max(seconds, 1e-9)


class Profiler:
    """A trace of jax.profiler of some steps of a run."""

    def __init__(self, steps: range, workdir: Path) -> None:
        """Trace the steps after each of `steps`, in a folder of `workdir`."""
        self.steps, self.folder, self._is_on = steps, workdir / FOLDER, False

    def begin_or_end(self, step: int, state: Any) -> None:
        """Begin the trace before its first step; end it after its last, `step`, once `state` is ready."""
        if step in self.steps and not self._is_on:
            jax.profiler.start_trace(self.folder)
            self._is_on = True
        if self._is_on and step not in self.steps:
            jax.block_until_ready(state)
            self.close()

    def close(self) -> None:
        """End a trace that is under way."""
        if self._is_on:
            self._is_on = False
            jax.profiler.stop_trace()


def format_times(figures: Mapping[str, float]) -> str:
    """Format `StepTimes.figures` for a log line.

    >>> format_times({DATA_WAIT: 0.021, CHECKPOINT_SECONDS: 1.5, MFU: 0.4})
    'MFU 40.0%  data wait 2.1%  checkpoint 1.5 s'
    """
    shown = [f"MFU {figures[MFU]:.1%}"] if MFU in figures else []
    shown.append(f"data wait {figures[DATA_WAIT]:.1%}")
    shown += [f"checkpoint {figures[CHECKPOINT_SECONDS]:.1f} s"] if figures[CHECKPOINT_SECONDS] else []
    return "  ".join(shown)
