"""What a run says of itself: metrics.jsonl, TensorBoard, and a line or a bar for whoever watches."""

import contextlib
import json
import math
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from dense_jax.arrays import Int, Metrics
from dense_jax.errors import NonFiniteError, StorageError
from dense_jax.files import check_kind, whole_file
from dense_jax.progress import bar, seconds
from dense_jax.schemas import MetricsLine
from dense_jax.train.diagnosis import PREFIX

_NAMED = 10  # examples of a broken batch


class MetricsLog:
    """Reads the metrics of finished steps, stops the run on a loss that is not a number, and writes every k-th step.

    A step with a diagnosis (train/diagnosis.py) is written too.

    `record` is called one step late, when the device already works on the next one, so that reading does not stall it.
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
    ) -> None:
        """For the steps after `first` up to `last`; `names` gives the document id of a row, for error messages.

        A `silent` one looks at the losses and writes and says nothing: that of all processes but the first.
        """
        self.silent = silent
        self.last, self.every, self.batch, self.names = last, every, batch, names
        if not silent:
            self._file = _continued(workdir / "metrics.jsonl", first).open("a", encoding="utf-8")
            self._board = _tensorboard(workdir / "tensorboard")
        self._bar = bar("train", last, "steps", initial=first) if sys.stderr.isatty() and not silent else None
        self._since = (first, time.monotonic())  # step and time of the last line, to measure speed
        self._tokens = 0.0  # since then
        self._total = {} if silent else _totals(workdir / "metrics.jsonl", first)

    def record(self, step: int, metrics: Metrics, rows: Int[np.ndarray, " b"]) -> None:
        """Takes the metrics of `step`, made from the passages `rows`.

        Raises:
            NonFiniteError: the loss or the gradient is NaN or infinite.
        """
        values = {name: float(value) for name, value in metrics.items()}
        broken = [f"{name} {values[name]}" for name in ("loss", "gradient_norm") if not math.isfinite(values[name])]
        if broken:
            documents = ", ".join(self.names(int(row)) for row in rows[:_NAMED])
            raise NonFiniteError(f"step {step}: {' and '.join(broken)}; its examples come from {documents}, ...")
        if self.silent:
            return
        self._tokens += values.pop("tokens")
        if self._bar is not None:
            self._bar.update()
        if step % self.every == 0 or step == self.last or any(name.startswith(PREFIX) for name in values):
            self._write(step, values)

    def add(self, step: int, values: dict[str, float], remark: str) -> None:
        """Writes what else was found of the state after `step`, and says it with a remark."""
        if self.silent:
            return
        passed = {"tokens": self._tokens, "seconds": time.monotonic() - self._since[1]}
        totals = {name: self._total[name] + more for name, more in passed.items()}
        self._file.write(json.dumps({"step": step, **values, **totals}) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(name, value, step)
        shown = "  ".join(f"{name.rpartition('/')[2]} {value:.3f}" for name, value in values.items())
        self.say(f"step {step:,}/{self.last:,}  {shown}  ({remark})")

    def say(self, text: str) -> None:
        """A line for whoever watches, above the bar if there is one."""
        if not self.silent:
            tqdm.write(text, file=sys.stderr)

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves what the block takes out of speed and seconds."""
        began = time.monotonic()
        yield
        self._since = (self._since[0], self._since[1] + time.monotonic() - began)

    def restart_clock(self) -> None:
        """Leaves out of the speed what has passed until now, such as compilation."""
        self._since = (self._since[0], time.monotonic())

    def close(self) -> None:
        if self.silent:
            return
        if self._bar is not None:
            self._bar.close()
        self._file.close()
        self._board.close()

    def _write(self, step: int, values: dict[str, float]) -> None:
        (before, then), now = self._since, time.monotonic()
        rate = (step - before) / max(now - then, 1e-9)
        speed = {"examples_per_second": rate * self.batch, "tokens_per_second": self._tokens * rate / (step - before)}
        self._total = {"tokens": self._total["tokens"] + self._tokens, "seconds": self._total["seconds"] + now - then}
        self._since, self._tokens = (step, now), 0.0
        self._file.write(json.dumps({"step": step, **values, **speed, **self._total}) + "\n")
        self._file.flush()
        for name, value in {**values, **speed}.items():
            self._board.add_scalar(name, value, step)
        self._show(step, values, speed, (self.last - step) / rate)

    def _show(self, step: int, values: dict[str, float], speed: dict[str, float], left: float) -> None:
        shown = "  ".join(f"{name} {value:.4g}" for name, value in values.items() if not name.startswith(PREFIX))
        pace = f"{speed['examples_per_second']:,.0f} examples/s  {speed['tokens_per_second']:,.0f} tokens/s"
        if self._bar is not None:
            self._bar.set_postfix_str(f" loss {values['loss']:.4g}")
        else:
            print(f"step {step:,}/{self.last:,}  {shown}  {pace}  ETA {seconds(left)}", file=sys.stderr, flush=True)


def _continued(path: Path, first: int) -> Path:
    """`path` without the lines of steps after `first`, which a run that continues from there does again."""
    if path.exists():
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        with whole_file(path) as partial:
            partial.write_text("".join(line for line in lines if _step(line) <= first), encoding="utf-8")
    return path


def _totals(path: Path, first: int) -> dict[str, float]:
    """Real tokens seen and seconds trained up to step `first`, from the last line before it."""
    lines = path.read_text(encoding="utf-8").splitlines()
    last = json.loads(lines[-1]) if lines else {"step": 0}
    if not last["step"]:
        return {"tokens": 0.0, "seconds": 0.0}
    return {name: last[name] * first / last["step"] for name in ("tokens", "seconds")}


def _step(line: str) -> float:
    """The step of a line; one that a crash has cut short has none, and is dropped."""
    try:
        value = json.loads(line)
        check_kind(value, MetricsLine, "a line")
        return float(value["step"])
    except (ValueError, RecursionError, StorageError):
        return math.inf


def _tensorboard(folder: Path) -> Any:
    from tensorboardX import SummaryWriter  # imports torch where that is installed: seconds

    return SummaryWriter(str(folder))
