"""Results of the stages of a run, which show themselves when they are printed."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any


class Counts(dict[str, Any]):
    """Counts by their names, one a line."""

    def __str__(self) -> str:
        width = max(map(len, self)) + 2
        return "\n".join(f"{name:{width}} {_count(value)}" for name, value in self.items())


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
