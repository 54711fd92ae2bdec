"""The text of a compiled program (HLO): its computations, how often each is run, and the sizes of arrays."""

import math
import re
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f32": 4, "s32": 4, "u32": 4, "f64": 8,
          "s64": 8, "u64": 8}  # fmt: skip
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_ARRAY = re.compile(rf"\b({'|'.join(_BYTES)})\[([\d,]*)\](\{{[^}}]*\}})?")
_CALLED = re.compile(r"\b(body|condition|calls|to_apply)=%?([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')


class Computation(NamedTuple):
    """A part of a program that is run."""

    name: str
    lines: list[str]
    times: int  # in a step; a loop whose count the compiler does not know counts once
    inside: bool  # a fusion or another operation, whose arrays never are in memory


def computations(text: str) -> Iterator[Computation]:
    """Those of a program that are run, in the order of the text."""
    bodies, entry = _bodies(text)
    times: dict[tuple[str, bool], int] = defaultdict(int)

    def visit(name: str, count: int, inside: bool) -> None:
        times[name, inside] += count
        for line in bodies.get(name, []):
            trips = _TRIPS.search(line)
            for role, called in _CALLED.findall(line):
                runs = count * int(trips[1]) if trips and role == "body" else count
                visit(called, runs, inside or role != "body")

    visit(entry, 1, False)
    for (name, inside), count in times.items():
        yield Computation(name, bodies.get(name, []), count, inside)


def array_bytes(shape: str, memory_only: bool = False) -> list[int]:
    """Bytes of each array of a shape; with `memory_only`, of those that do not stay on the chip.

    >>> sizes("(f32[4,2]{1,0:T(8,128)}, bf16[3]{0:T(8)S(1)}, u32[])"), sizes("bf16[3]{0:T(8)S(1)}", memory_only=True)
    ([32, 6, 4], [])
    """
    found = [one for one in _ARRAY.findall(shape) if not memory_only or "S(" not in one[2]]
    return [_BYTES[kind] * math.prod(map(int, filter(None, dims.split(",")))) for kind, dims, _ in found]


def _bodies(text: str) -> tuple[dict[str, list[str]], str]:
    """The lines of each computation, and the name of the one that is the program."""
    bodies: dict[str, list[str]] = {}
    name = entry = ""
    for line in text.splitlines():
        if head := _COMPUTATION.match(line):
            name = head[2]
            bodies[name] = []
            entry = name if head[1] else entry
        elif name:
            bodies[name].append(line)
    return bodies, entry
