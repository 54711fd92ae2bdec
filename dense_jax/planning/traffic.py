"""Bytes that a compiled program moves between a chip and its memory, read from its text (HLO).

The compiler's own count takes every operand of every operation for read from memory, ten times too many where most
stay on the chip (a TPU's vector memory, which the text marks by S(1)), and the body of a loop for one run of it.
"""

import re

from dense_jax.planning.hlo import array_bytes, computations

_OPERATION = re.compile(r"^\s+(?:ROOT )?%(?P<name>[\w.\-]+) = (?P<shape>.*?) (?P<kind>[a-z][\w\-]*)\((?P<rest>.*)$")
_NAME = re.compile(r"%([\w.\-]+)")
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "after-all", "iota"}


def moved(text: str) -> int:
    """Bytes of a step, each way: what an operation reads of memory, all of each operand, and what it writes there."""
    return sum(one.times * _of_lines(one.lines) for one in computations(text) if not one.inside)


def _of_lines(lines: list[str]) -> int:
    shapes: dict[str, str] = {}
    total = 0
    for line in lines:
        operation = _OPERATION.match(line)
        if operation is None:
            continue
        name, shape, kind, rest = operation.groups()
        shapes[name] = shape
        if kind in _FREE or kind.endswith("-done"):
            continue
        if kind == "copy-start":  # what is copied stands beside the copy
            total += sum(array_bytes(shape, memory_only=True)[:2])
        elif kind == "slice-start":  # (all of it), the slice, a counter
            total += array_bytes(shape)[-2]
        else:
            operands = _NAME.findall(rest.split("), ")[0])
            total += sum(
                sum(array_bytes(one, memory_only=True)) for one in [shape, *(shapes.get(x, "") for x in operands)]
            )
    return total
