"""Progress of a stage: a bar with an ETA on a terminal, a line every few seconds elsewhere."""

import re
import sys
from collections.abc import Iterable, Iterator
from typing import TypeVar

from tqdm import tqdm

T = TypeVar("T")
_NOTHING_DONE = re.compile(r".*(: |\| )0[/ ]")
_LINE_EVERY = 4.0  # seconds between lines without a terminal
_FORMAT = (
    "{desc}: {percentage:3.0f}%|{bar:24}| {n_fmt}/{total_fmt}{unit} [{elapsed} + {remaining}, {rate_fmt}]{postfix}"
)
_OPEN_FORMAT = "{desc}: {n_fmt}{unit} [{elapsed}, {rate_fmt}]{postfix}"  # without a known total


def progress_bar(label: str, total: int | None, unit: str, *, initial: int = 0, silent: bool = False) -> tqdm:
    """Make a tqdm bar on standard error that the caller advances; a `silent` one prints nothing."""
    terminal = sys.stderr.isatty()
    return tqdm(
        desc=label,
        total=total,
        initial=initial,
        unit=f" {unit}",
        unit_scale=False,
        position=0,  # a nested bar takes over the line, instead of moving the cursor
        dynamic_ncols=terminal,
        mininterval=0.2 if terminal else _LINE_EVERY,
        miniters=1,  # tqdm's default follows the rate so far, and stays silent for long when a stage slows down
        bar_format=_FORMAT if total else _OPEN_FORMAT,
        file=sys.stderr if terminal else _Lines(),
        disable=silent,
    )


def progress(items: Iterable[T], label: str, total: int | None, unit: str, *, initial: int = 0) -> Iterator[T]:
    """Yield `items` under a bar that advances by one for each."""
    with progress_bar(label, total, unit, initial=initial) as shown:
        for item in items:
            yield item
            shown.update()


def format_duration(duration: float) -> str:
    """Format a duration in seconds.

    >>> format_duration(75.0), format_duration(4000.0)
    ('1m15s', '1h06m')
    """
    if duration < 60:
        return f"{duration:.0f}s"
    if duration < 3600:
        return f"{int(duration) // 60}m{int(duration) % 60:02d}s"
    return f"{int(duration) // 3600}h{int(duration) % 3600 // 60:02d}m"


class _Lines:
    """Stream for tqdm that prints each new state of the bar, once something is done, on a line of its own."""

    def __init__(self) -> None:
        self.last = ""

    def write(self, text: str) -> None:
        state = text.strip("\r\n ").partition("[")[0]  # without the time, which always changes
        if state and state != self.last and not _NOTHING_DONE.match(state):
            self.last = state
            print(text.strip("\r\n "), file=sys.stderr)

    def flush(self) -> None:
        sys.stderr.flush()
