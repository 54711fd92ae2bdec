"""What a compiled program sends between chips, read from its text (HLO).

Text, because the compiler offers nothing better: https://openxla.org/xla/operation_semantics names the operations. A
collective that runs beside computation is split over several fusions, which repeat it under one channel: it counts
once. One in a loop counts as often as the loop runs.
"""

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from dense_jax.planning.hlo import array_bytes, computations

_KINDS = "all-reduce|all-gather|reduce-scatter|collective-permute|all-to-all"
_COLLECTIVE = re.compile(rf" = (?P<shape>.*?) (?P<kind>{_KINDS})(?P<start>-start)?\(")
_OVER_SLICES = re.compile(r' = \((?P<shape>.*?), u32\[\], token\[\]\) send\(.*_megascale_transfer_type="(?P<kind>\w+)"')


class Collective(NamedTuple):
    """One collective operation of a step, on each chip."""

    kind: str  # all-reduce, all-gather, reduce-scatter, collective-permute, all-to-all
    size: int  # bytes of the whole: what is reduced, or what the gathered parts become
    group: int  # chips that take part
    times: int = 1  # in a step

    @property
    def sent(self) -> float:
        """Bytes that leave a chip when rings do it.

        >>> Collective("all-gather", 1_000, group=4).sent, Collective("all-reduce", 1_000, group=4, times=2).sent
        (750.0, 3000.0)
        """
        if self.kind == "collective-permute":
            return float(self.size * self.times)
        rounds = 2 if self.kind == "all-reduce" else 1
        return rounds * self.size * (self.group - 1) / self.group * self.times

    def __str__(self) -> str:
        return f"{self.kind} of {self.group} chips"


def collectives(text: str, chips: int) -> list[Collective]:
    """Those of a program for `chips` chips, as XLA prints it after all its passes."""
    found: dict[str, Collective] = {}
    for part in computations(text):
        for line in part.lines:
            if one := _collective(part.name, line, chips):
                channel = re.search(r"channel_id=(\d+)", line)
                key = channel[1] if channel else line
                found[key] = max(found.get(key, one), one._replace(times=part.times), key=lambda c: c.sent)
    return list(found.values())


class Handed(NamedTuple):
    """What a chip hands to its host, for the hosts of all slices to finish a collective over the network between them.

    XLA does the part within a slice first: what is handed over is a chip's share of a sum over its slice.
    """

    kind: str  # all-reduce, all-gather, ...
    size: int  # bytes
    times: int  # in a step

    def __str__(self) -> str:
        return self.kind


_Sent = TypeVar("_Sent", bound=Collective | Handed)


def handed_over(text: str) -> list[Handed]:
    """What goes between the slices of a program for several of them; of a program for one, nothing."""
    return [
        Handed(match["kind"].lower().replace("_", "-"), sum(array_bytes(match["shape"])), part.times)
        for part in computations(text)
        for line in part.lines
        if (match := _OVER_SLICES.search(line))
    ]


def distinct(found: Sequence[_Sent]) -> list[_Sent]:
    """Those that differ in no more than how often they run are one; first what has the most bytes in a step.

    >>> distinct([Collective("all-reduce", 8, 4), Collective("all-gather", 5, 4), Collective("all-gather", 5, 4)])
    [Collective(kind='all-gather', size=5, group=4, times=2), Collective(kind='all-reduce', size=8, group=4, times=1)]
    """
    times: Counter[_Sent] = Counter()
    for one in found:
        times[one._replace(times=1)] += one.times
    joined = [one._replace(times=count) for one, count in times.items()]
    return sorted(joined, key=lambda one: (-one.size * one.times, one))


def totals(found: Sequence[Collective | Handed]) -> dict[str, tuple[int, int]]:
    """How often each kind is run in a step, and the bytes of all of them.

    >>> totals([Collective("all-reduce", 8, 4), Collective("all-reduce", 2, 4, times=3)])
    {'all-reduce': (4, 14)}
    """
    sums: dict[str, tuple[int, int]] = {}
    for one in sorted(found, key=lambda c: c.kind):
        count, size = sums.get(one.kind, (0, 0))
        sums[one.kind] = count + one.times, size + one.size * one.times
    return sums


def _collective(computation: str, line: str, chips: int) -> Collective | None:
    match = _COLLECTIVE.search(line)
    if not match:
        return None
    kind, group, size = match["kind"], _group(line, chips), sum(array_bytes(match["shape"]))
    if kind == "all-gather" and match["start"]:
        size = size * group // (group + 1)  # the parts stand beside the whole
    if kind == "collective-permute" and match["start"]:
        size = (size - 8) // 2  # so does what is sent, with two counters
    if kind == "reduce-scatter":
        size *= group
    if computation.startswith("all-reduce-scatter"):
        kind = "reduce-scatter"  # TPUs' way to write it: of the sum each chip keeps its part
    return Collective(kind, size, group)


def _group(line: str, chips: int) -> int:
    """Chips of a group, in any of the forms {{0,1},{2,3}}, [2,2]<=[4], mesh['a'=2,'b'=2] ... {'a'}; none: all."""
    if listed := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
        return len(listed[1].split(","))
    if tiled := re.search(r"replica_groups=\[\d+,(\d+)\]", line):
        return int(tiled[1])
    if named := re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", line):
        axes = dict(re.findall(r"('\w+')=(\d+)", named[1]))
        return math.prod(int(axes[axis]) for axis in re.findall(r"'\w+'", named[2]))
    return chips
