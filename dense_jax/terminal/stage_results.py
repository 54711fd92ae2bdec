"""Results of the stages of a run, which show themselves when they are printed."""

import functools
import textwrap
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_COLUMNS, _TITLE = 96, 12  # widths of an overview and of its titles


class Counts(dict[str, Any]):
    """Counts by their names, one a line."""

    def __str__(self) -> str:
        width = max(map(len, self)) + 2
        return "\n".join(f"{name:{width}} {_count(value)}" for name, value in self.items())

    def __rich__(self) -> Any:
        from rich.table import Table
        from rich.text import Text

        grid = Table.grid(padding=(0, 2))
        for name, value in self.items():
            grid.add_row(Text(name, style="bold"), Text(_count(value)))
        return grid


class Overview(dict[str, str]):
    """Texts of a few lines by their titles, with the titles on the left."""

    def __str__(self) -> str:
        titled = ((title if n == 0 else "", line) for title in self for n, line in enumerate(self._lines(title)))
        return "\n".join(f"{title:{_TITLE}}{line}" for title, line in titled)

    def __rich__(self) -> Any:
        from rich.table import Table
        from rich.text import Text

        grid = Table.grid(padding=(0, 2))
        for title in self:
            grid.add_row(Text(title, style="bold"), Text("\n".join(self._lines(title))))
        return grid

    def _lines(self, title: str) -> list[str]:
        """The lines of a text, none too long."""
        wrap = functools.partial(textwrap.wrap, width=_COLUMNS - _TITLE, subsequent_indent="  ", break_on_hyphens=False)
        return [part for line in self[title].splitlines() for part in wrap(line, drop_whitespace=True)]


class Sections(dict[str, str]):
    """Texts by their titles."""

    def __str__(self) -> str:
        return "\n\n".join(f"== {title}\n{text}" for title, text in self.items())


@dataclass(frozen=True)
class Training:
    """The files of a run that was trained."""

    checkpoints: Path
    metrics: Path

    def __str__(self) -> str:
        return f"checkpoints in {self.checkpoints}, metrics in {self.metrics}"


def _count(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
