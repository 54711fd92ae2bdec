"""Memory traffic of a compiled step by the line of this package that an operation comes from.

XLA's text names for each operation the JAX primitive and, in tables at its head, the stack of Python calls. A fusion is
counted for the line of its last operation.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from dense_jax.planning.hlo import Operation, computations, operations

COMPILER = "added by the compiler"  # operations without a line
_PACKAGE = f"{Path(__file__).parents[1]}/"
_LINES, _OF_A_LINE = 16, 10  # lines of code in a table, and operations of each
_FILE = re.compile(r'^(\d+) "(.*)"$', re.MULTILINE)
_PLACE = re.compile(r"^(\d+) \{file_name_id=(\d+) .*?\bline=(\d+)", re.MULTILINE)
_FRAME = re.compile(r"^(\d+) \{file_location_id=(\d+) parent_frame_id=(\d+)\}", re.MULTILINE)
_FRAME_OF, _NAME_OF = re.compile(r"\bstack_frame_id=(\d+)"), re.compile(r'\bop_name="([^"]*)"')
_TRANSFORMATION = re.compile(r"\b(?:jit|jvp|vmap|checkpoint|rematted_computation)\(([^()]*)\)")
_HOPS = 8  # operations from a prefetch to the one that uses its result


class Traffic(NamedTuple):
    """Memory traffic of equal operations of a step, on each chip."""

    source: str  # file of the package and line, or COMPILER
    operation: str  # HLO operation and JAX's name of it
    size: int  # bytes of all runs
    times: int  # runs in a step


def traffic_by_line(text: str) -> list[Traffic]:
    """Traffic of each operation of a program, those of one line and one name together, largest first.

    A prefetch, which has no line of its own, is counted for the operation that uses it.
    """
    frames, sizes, times = _Frames(text), Counter[tuple[str, str]](), Counter[tuple[str, str]]()
    for part in computations(text):
        if not part.inside:
            for one, origin in _with_origins(list(operations(part.lines)), frames):
                key = frames.source(origin), f"{one.kind.removesuffix('-start')} {_operation_name(origin)}".rstrip()
                sizes[key] += one.size * part.times
                times[key] += part.times
    return [Traffic(*key, size, times[key]) for key, size in sizes.most_common()]


def traffic_table(found: Sequence[Traffic], bandwidth: float) -> str:
    """Table of the lines that move most, with their largest operations; `bandwidth` is in bytes/s.

    >>> print(traffic_table([Traffic("models/a.py:1", "fusion dot", 3_000_000, 2)], bandwidth=1e9))
           MB       ms   share  runs
         3.00    3.000  100.0%        models/a.py:1
         3.00    3.000  100.0%     2    fusion dot
    """
    by_source: dict[str, list[Traffic]] = defaultdict(list)
    for one in found:
        by_source[one.source].append(one)
    total = sum(one.size for one in found)
    ordered = sorted(by_source.items(), key=lambda item: -sum(one.size for one in item[1]))

    def row(size: int, runs: object, what: str) -> str:
        return f"{size / 1e6:>9,.2f} {1e3 * size / bandwidth:>8,.3f} {size / max(total, 1):>7.1%} {runs:>5} {what}"

    lines = [f"{'MB':>9} {'ms':>8} {'share':>7} {'runs':>5}"]
    for source, of_source in ordered[:_LINES]:
        lines.append(row(sum(one.size for one in of_source), "", f" {source}"))
        lines += [row(one.size, one.times, f"   {one.operation}") for one in of_source[:_OF_A_LINE]]
    rest = sum(one.size for _, of_source in ordered[_LINES:] for one in of_source)
    return "\n".join([*lines, row(rest, "", f" {len(ordered) - _LINES} other lines")] if rest else lines)


class _Frames:
    """Tables of Python files, places and stack frames at the head of a program's text."""

    def __init__(self, text: str) -> None:
        self._head = text[: text.find("\n%")]

    @cached_property
    def _tables(self) -> tuple[dict[str, str], dict[str, tuple[str, str]], dict[str, tuple[str, str]]]:
        files = dict(_FILE.findall(self._head.partition("\nFunctionNames\n")[0]))
        places = {number: (file, line) for number, file, line in _PLACE.findall(self._head)}
        return files, places, {number: (place, parent) for number, place, parent in _FRAME.findall(self._head)}

    def source(self, line: str) -> str:
        """File and line of the innermost call in this package of an operation, or COMPILER."""
        files, places, frames = self._tables
        match = _FRAME_OF.search(line)
        frame = match[1] if match else ""
        while frame in frames:
            place, parent = frames[frame]
            file, number = places[place]
            if files[file].startswith(_PACKAGE):
                return f"{files[file].removeprefix(_PACKAGE)}:{number}"
            frame = str(int(parent) - 1)  # 0 stands for none, so numbers are one too large
        return COMPILER


def _with_origins(found: Sequence[Operation], frames: _Frames) -> Iterator[tuple[Operation, str]]:
    """Yield each operation that moves data with the text of the one that it is counted for."""
    users: dict[str, Operation] = {}  # the first one
    for one in found:
        for operand in one.operands:
            users.setdefault(operand, one)
    for one in found:
        if one.size:
            origin: Operation | None = one
            for _ in range(_HOPS):
                if origin is None or frames.source(origin.line) != COMPILER:
                    break
                origin = users.get(origin.name)
            yield one, (origin or one).line


def _operation_name(line: str) -> str:
    """JAX's name of an operation: modules and primitive, after "backward" in a backward pass.

    >>> _operation_name('metadata={op_name="jit(train_step)/transpose(jvp(Bert))/Block/attention/query/dot_general"')
    'backward Block/attention/query/dot_general'
    """
    match = _NAME_OF.search(line)
    if match is None:
        return ""
    parts = [part for part in match[1].split("/") if not re.fullmatch(r"(?:jit|jvp|vmap|transpose)\(.*\)", part)]
    return ("backward " if "transpose(" in match[1] else "") + "/".join(parts)
