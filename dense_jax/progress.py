"""A bar with an ETA on a terminal, a line now and then elsewhere."""

import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
_LINE_EVERY = 4.0  # seconds between lines where there is no terminal
_FORMAT = (
    "{desc}: {percentage:3.0f}%|{bar:24}| {n_fmt}/{total_fmt} {unit} [{elapsed} + {remaining}, {rate_fmt}]{postfix}"
)
_OPEN_FORMAT = "{desc}: {n_fmt} {unit} [{elapsed}, {rate_fmt}]{postfix}"  # where the total is not known


def progress_bar(label: str, total: int | None, unit: str, *, initial: int = 0, silent: bool = False) -> tqdm:
    """A tqdm bar on standard error for a stage that the caller advances itself; a `silent` one is not seen."""
    terminal = sys.stderr.isatty()
    return tqdm(
        desc=label,
        total=total,
        initial=initial,
        unit=unit,
        unit_scale=False,
        position=0,  # a bar within a bar takes its line, instead of steering the cursor
        dynamic_ncols=terminal,
        mininterval=0.2 if terminal else _LINE_EVERY,
        miniters=1,  # tqdm's own choice goes by the rate so far, and is silent for long where a stage slows down
        bar_format=_FORMAT if total else _OPEN_FORMAT,
        file=sys.stderr if terminal else _Lines(),
        disable=silent,
    )


def progress(items: Iterable[T], label: str, total: int | None, unit: str, *, initial: int = 0) -> Iterator[T]:
    """`items`, with a bar that advances by one for each."""
    with progress_bar(label, total, unit, initial=initial) as shown:
        for item in items:
            yield item
            shown.update()


def format_duration(duration: float) -> str:
    """A duration as a person says it.

    >>> seconds(75.0), seconds(4000.0)
    ('1m15s', '1h06m')
    """
    if duration < 60:
        return f"{duration:.0f}s"
    if duration < 3600:
        return f"{int(duration) // 60}m{int(duration) % 60:02d}s"
    return f"{int(duration) // 3600}h{int(duration) % 3600 // 60:02d}m"


class _Lines:
    """A stream for tqdm that gives each state of the bar a line of its own, once, instead of overwriting the line."""

    def __init__(self) -> None:
        self.last = ""

    def write(self, text: str) -> None:
        state = text.strip("\r\n ").partition("[")[0]  # without the time, which alone is no news
        if state and state != self.last:
            self.last = state
            print(text.strip("\r\n "), file=sys.stderr)

    def flush(self) -> None:
        sys.stderr.flush()
