"""Memory traffic and collectives of a compiled program, read from its text (HLO).

The text is parsed since the compiler's own account does not serve: it counts every operand as read from memory, ten
times too much where most operands stay on the chip, and the body of a loop as one run; and it lists no collectives.
https://openxla.org/xla/operation_semantics defines the operations.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple, TypeVar

_BYTES = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f16": 2, "s16": 2, "u16": 2, "f32": 4, "s32": 4, "u32": 4, "f64": 8,
          "s64": 8, "u64": 8}  # fmt: skip
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{\s*$")
_ARRAY = re.compile(rf"\b({'|'.join(_BYTES)})\[([\d,]*)\](\{{[^}}]*\}})?")
_CALLED = re.compile(r"\b(body|condition|calls|to_apply)=%?([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"')

_OPERATION = re.compile(r"^\s+(?:ROOT )?%(?P<name>[\w.\-]+) = (?P<shape>.*?) (?P<kind>[a-z][\w\-]*)\((?P<rest>.*)$")
_NAME = re.compile(r"%([\w.\-]+)")
_FREE = {"parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional", "after-all", "iota"}

_SCATTER = "all-reduce-scatter"  # on TPUs: a computation with an all-reduce of which each chip keeps its part
_KINDS = "all-reduce|all-gather|reduce-scatter|collective-permute|all-to-all"
_COLLECTIVE = re.compile(rf" = (?P<shape>.*?) (?P<kind>{_KINDS})(?P<start>-start)?\(")
_OVER_SLICES = re.compile(r' = \((?P<shape>.*?), u32\[\], token\[\]\) send\(.*_megascale_transfer_type="(?P<kind>\w+)"')


class Collective(NamedTuple):
    """Collective operation of a step, on each chip."""

    kind: str  # all-reduce, all-gather, reduce-scatter, collective-permute, all-to-all
    size: int  # bytes of the whole array: the reduced one, or the concatenation of the gathered parts
    group: int  # chips that take part
    times: int = 1  # runs in a step

    @property
    def sent(self) -> float:
        """Bytes that leave a chip under the ring algorithm.

        >>> Collective("all-gather", 1_000, group=4).sent, Collective("all-reduce", 1_000, group=4, times=2).sent
        (750.0, 3000.0)
        """
        if self.kind == "collective-permute":
            return float(self.size * self.times)
        rounds = 2 if self.kind == "all-reduce" else 1
        return rounds * self.size * (self.group - 1) / self.group * self.times

    def __str__(self) -> str:
        return f"{self.kind} of {self.group} chips"


class HostTransfer(NamedTuple):
    """Transfer from a chip to its host, for a collective that the hosts of all slices finish over their network.

    XLA does the part within a slice first: the chip transfers its share of a sum over its slice.
    """

    kind: str  # all-reduce, all-gather, ...
    size: int  # bytes
    times: int  # runs in a step

    def __str__(self) -> str:
        return self.kind


class Operation(NamedTuple):
    """Operation that moves data between a chip and its memory."""

    name: str
    kind: str  # fusion, convolution, copy-start, ...
    operands: list[str]  # names of the operations whose results it reads
    size: int  # bytes that one run reads and writes
    line: str  # of the program's text


class Computation(NamedTuple):
    """Computation of a program, and how often a step runs it."""

    name: str
    lines: list[str]
    times: int  # a loop whose trip count the compiler does not know counts once
    inside: bool  # part of a fusion or another operation, so that its arrays are never in memory


_Sent = TypeVar("_Sent", bound=Collective | HostTransfer)


def memory_traffic(text: str) -> int:
    """Bytes that a step moves between a chip and its memory: all of each operand that is read, and what is written."""
    run = (part for part in computations(text) if not part.inside)
    return sum(part.times * one.size for part in run for one in operations(part.lines))


def collectives(text: str, chips: int) -> list[Collective]:
    """Collectives of a program for `chips` chips, in the text that XLA prints after all its passes.

    A collective that overlaps with computation is split over several fusions, which repeat it under one channel: it
    counts once. All reduce-scatters of a TPU have the same channel, and each its own computation. A collective in a
    loop counts as often as the loop runs.
    """
    found: dict[str, Collective] = {}
    for part in computations(text):
        for line in part.lines:
            if one := _collective(part.name, line, chips):
                channel = re.search(r"channel_id=(\d+)", line)
                key = channel[1] if channel and not part.name.startswith(_SCATTER) else f"{part.name} {line}"
                found[key] = max(found.get(key, one), one._replace(times=part.times), key=lambda c: c.sent)
    return list(found.values())


def host_transfers(text: str) -> list[HostTransfer]:
    """Transfers for the network between slices; empty for a program for one slice."""
    return [
        HostTransfer(match["kind"].lower().replace("_", "-"), sum(array_bytes(match["shape"])), part.times)
        for part in computations(text)
        for line in part.lines
        if (match := _OVER_SLICES.search(line))
    ]


def merge_equal(found: Sequence[_Sent]) -> list[_Sent]:
    """Merge operations that differ in `times` only, and sort by total bytes, largest first.

    >>> merge_equal([Collective("all-reduce", 8, 4), Collective("all-gather", 5, 4), Collective("all-gather", 5, 4)])
    [Collective(kind='all-gather', size=5, group=4, times=2), Collective(kind='all-reduce', size=8, group=4, times=1)]
    """
    times: Counter[_Sent] = Counter()
    for one in found:
        times[one._replace(times=1)] += one.times
    merged = [one._replace(times=count) for one, count in times.items()]
    return sorted(merged, key=lambda one: (-one.size * one.times, one))


def totals_by_kind(found: Sequence[Collective | HostTransfer]) -> dict[str, tuple[int, int]]:
    """Runs in a step, and bytes of all of them, by kind.

    >>> totals_by_kind([Collective("all-reduce", 8, 4), Collective("all-reduce", 2, 4, times=3)])
    {'all-reduce': (4, 14)}
    """
    sums: dict[str, tuple[int, int]] = {}
    for one in sorted(found, key=lambda c: c.kind):
        count, size = sums.get(one.kind, (0, 0))
        sums[one.kind] = count + one.times, size + one.size * one.times
    return sums


def computations(text: str) -> Iterator[Computation]:
    """Yield the computations of a program that a step runs."""
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


def operations(lines: Sequence[str]) -> Iterator[Operation]:
    """Yield the operations of a computation; those that move nothing, such as a tuple, have size 0."""
    shapes: dict[str, str] = {}
    for line in lines:
        if match := _OPERATION.match(line):
            name, shape, kind, rest = match.groups()
            shapes[name] = shape
            operands = _NAME.findall(rest.split("), ")[0])
            size = _bytes_moved(kind, shape, [shapes.get(one, "") for one in operands])
            yield Operation(name, kind, operands, size, line)


def _bytes_moved(kind: str, shape: str, operands: Sequence[str]) -> int:
    """Bytes that an operation of these shapes reads from memory and writes to it."""
    if kind in _FREE or kind.endswith("-done"):
        return 0
    if kind == "copy-start":  # the shape lists copy and source
        return sum(array_bytes(shape, memory_only=True)[:2])
    if kind == "slice-start":  # the shape is ((source), slice, counter)
        return array_bytes(shape)[-2]
    return sum(sum(array_bytes(one, memory_only=True)) for one in [shape, *operands])


def array_bytes(shape: str, memory_only: bool = False) -> list[int]:
    """Bytes of each array of a shape; with `memory_only`, without arrays in the chip's vector memory, marked S(1).

    >>> shape = "(f32[4,2]{1,0:T(8,128)}, bf16[3]{0:T(8)S(1)}, u32[])"
    >>> array_bytes(shape), array_bytes(shape, memory_only=True)
    ([32, 6, 4], [32, 4])
    """
    found = [one for one in _ARRAY.findall(shape) if not memory_only or "S(" not in one[2]]
    return [_BYTES[kind] * math.prod(map(int, filter(None, dims.split(",")))) for kind, dims, _ in found]


def _bodies(text: str) -> tuple[dict[str, list[str]], str]:
    """The lines of each computation, and the name of the entry computation."""
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


def _collective(computation: str, line: str, chips: int) -> Collective | None:
    match = _COLLECTIVE.search(line)
    if not match:
        return None
    kind, group, size = match["kind"], _group(line, chips), sum(array_bytes(match["shape"]))
    if kind == "all-gather" and match["start"]:
        size = size * group // (group + 1)  # the shape lists a part and the whole
    if kind == "collective-permute" and match["start"]:
        size = (size - 8) // 2  # the shape lists source, result and two counters
    if kind == "reduce-scatter":
        size *= group
    if computation.startswith(_SCATTER):
        kind = "reduce-scatter"
    return Collective(kind, size, group)


def _group(line: str, chips: int) -> int:
    """Chips of a group, in any of the forms {{0,1},{2,3}}, [2,2]<=[4], mesh['a'=2,'b'=2] ... {'a'}; else all chips."""
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
        return len(listed[1].split(","))
    if tiled := re.search(r"replica_groups=\[\d+,(\d+)\]", line):
        return int(tiled[1])
    if named := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", line):
        axes = dict(re.findall(r"('\w+')=(\d+)", named[1]))
        return math.prod(int(axes[axis]) for axis in re.findall(r"'\w+'", named[2]))
    return chips
