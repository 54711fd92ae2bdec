"""Rows of figures: one Markdown table for people, one JSON line a row for programs."""

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from machine import Peaks
from timing import Ratio, Timing, ratio

Row = dict[str, Any]


def _number(value: float) -> str:
    """Three significant digits.

    >>> _number(0.012345), _number(1234.5), _number(12.345)
    ('0.0123', '1,234', '12.3')
    """
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _interval(value: Ratio) -> str:
    return f"{value.value:.2f} ({value.low:.2f} to {value.high:.2f})"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


# Key of a row -> how its values are shown. A table has the columns that some row of it has.
_COLUMNS: dict[str, Callable[[Any], str]] = {
    "program": str,
    "stage": str,
    "config": str,
    "verb": str,
    "documents": "{:,}".format,
    "batch": "{:,}".format,
    "topology": str,
    "devices": str,
    "peak MB": _number,
    "B a document": _number,
    "s": _number,
    "GFLOP": _number,
    "MB sent": _number,
    "MB of state and batch": _number,
    "MB of temporaries": _number,
    "all": str,
    "compute ms": _number,
    "memory ms": _number,
    "interconnect ms": _number,
    "bound by": str,
    "collectives": str,
    "largest batch": str,
    "ms": _number,
    "p10": _number,
    "p90": _number,
    "CPU s": _number,
    "recall@10": "{:.3f}".format,
    "recall@100": "{:.3f}".format,
    "effort": "{:,}".format,
    "queries/s": _number,
    "build s": _number,
    "index MB": _number,
    "documents/s": _number,
    "tokens/s": _number,
    "tokens/CPU s": _number,
    "MB/CPU s": _number,
    "TFLOP/s": _number,
    "MFU": _percent,
    "of matmul": _percent,
    "time / ours": _interval,
    "CPU / ours": _interval,
    "rate / training": _interval,
    "fill": _percent,
    "loss": "{:.4f}".format,
    "max Δcos": "{:.1e}".format,
    "first s": _number,
    "drift": _percent,
}


def speed(
    program: str, timing: Timing, base: Timing, *, tokens: int, flops: float = 0.0, peaks: Peaks | None = None
) -> Row:
    """Row about `program`, whose steps have `tokens` tokens and, where `peaks` are known, `flops` model FLOPs.

    `base` is our program.
    """
    seconds = float(np.median(timing.wall))
    low, high = np.quantile(timing.wall, [0.1, 0.9])
    row = {
        "program": program,
        "ms": 1e3 * seconds,
        "p10": 1e3 * float(low),
        "p90": 1e3 * float(high),
        "CPU s": float(np.median(timing.cpu)),
        "tokens/s": tokens / seconds,
        "time / ours": ratio(timing.wall, base.wall),
        "CPU / ours": ratio(timing.cpu, base.cpu),
        "first s": timing.first,
        "drift": timing.drift,
    }
    if peaks is None:
        return row
    rate = flops / seconds
    row |= {"TFLOP/s": rate / 1e12, "of matmul": rate / peaks.matmul}
    return row | ({"MFU": rate / peaks.datasheet} if peaks.datasheet else {})


def kept(rows: Iterable[Row]) -> list[Row]:
    """All `rows`; each goes to standard error as soon as it is there, since others may take long or fail."""
    found = []
    for row in rows:
        print(json.dumps(row), file=sys.stderr)
        found.append(row)
    return found


def publish(title: str, rows: Sequence[Row], about: dict[str, Any]) -> None:
    """Prints the table and then the rows as JSON, each with `about`: what was measured, where and when."""
    print(f"\n{title}\n\n{table(rows)}\n")
    for row in rows:
        print(json.dumps(row | about))


def table(rows: Sequence[Row]) -> str:
    """The rows in Markdown; a row shows nothing where it has no value.

    >>> print(table([{"program": "a", "ms": 1.5}, {"program": "b"}]))
    | program | ms |
    | --- | --- |
    | a | 1.5 |
    | b |  |
    """
    columns = {name: shown for name, shown in _COLUMNS.items() if any(name in row for row in rows)}
    cells = [[shown(row[name]) if name in row else "" for name, shown in columns.items()] for row in rows]
    lines = [list(columns), ["---"] * len(columns), *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
