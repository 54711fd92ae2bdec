"""Several programs timed against each other in one process, in turns: A B C, C B A, A B C, ...

What else the machine does then hits all of them alike. Each turn is timed twice: by the wall, and in the CPU-seconds
of all threads of the process, which a busy machine disturbs far less.
"""

import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from dense_jax.arrays import Float

_TURN = 0.25  # seconds that a turn lasts at least: short steps are dispatched in a row, as in training
_RESAMPLES = 2_000
_FEWEST = 2  # turns that are measured whatever the time: the drift is between two halves


@dataclass(frozen=True)
class Program:
    """Something that does step after step."""

    name: str
    step: Callable[[int], Any]  # starts the i-th step; its result may still be on its way
    wait: Callable[[], object]  # until all steps that were started are done


@dataclass(frozen=True)
class Timing:
    """Measured times of a program."""

    first: float  # seconds of its first step, compilation included
    outputs: list[Any]  # results of its steps before the clock started
    wall: Float[np.ndarray, " n"]  # seconds per step, of each turn
    cpu: Float[np.ndarray, " n"]  # CPU-seconds per step, of each turn

    @property
    def drift(self) -> float:
        """By how much the medians of the first and the second half of the turns differ, as a share of the wall time."""
        halves = np.array_split(self.wall, 2)
        first, second = (float(np.median(half)) for half in halves)
        return abs(first - second) / float(np.median(self.wall))


class Ratio(NamedTuple):
    """A ratio of medians with the interval that holds it with 95 % confidence."""

    value: float
    low: float
    high: float


def interleaved(programs: Sequence[Program], turns: int, warm_up: int, until: float = math.inf) -> list[Timing]:
    """The timings of `programs`, in their order, over `turns` turns each, after `warm_up` steps each.

    A step is given its number: 0, 1, 2, ... in each program. The turns end early once `time.perf_counter()` is past
    `until`.
    """
    warmed = [_warm(program, warm_up) for program in programs]
    steps = [math.ceil(_TURN / seconds) for _, _, seconds in warmed]
    walls, cpus = np.empty((2, len(programs), turns))
    done = 0
    for turn in range(turns):
        if turn >= _FEWEST and time.perf_counter() > until:
            break
        done = turn + 1
        for i in order(len(programs), turn):
            start = warm_up + turn * steps[i]
            walls[i, turn], cpus[i, turn] = _turn(programs[i], range(start, start + steps[i]))
    return [
        Timing(first, outputs, wall[:done], cpu[:done])
        for (first, outputs, _), wall, cpu in zip(warmed, walls, cpus, strict=True)
    ]


def order(programs: int, turn: int) -> list[int]:
    """Order of the programs: every other turn is reversed, so that a steady drift favours none of them.

    >>> [order(2, turn) for turn in range(2)]
    [[0, 1], [1, 0]]
    """
    forward = list(range(programs))
    return forward[::-1] if turn % 2 else forward


def ratio(numerator: Float[np.ndarray, " n"], denominator: Float[np.ndarray, " n"]) -> Ratio:
    """Ratio of the medians of paired measurements, with a bootstrap interval: the turns are drawn again in pairs.

    >>> ratio(np.array([2.0, 4.0, 6.0]), np.array([1.0, 2.0, 3.0]))
    Ratio(value=2.0, low=2.0, high=2.0)
    """
    draws = np.random.default_rng(0).integers(len(numerator), size=(_RESAMPLES, len(numerator)))
    resampled = np.median(numerator[draws], axis=1) / np.median(denominator[draws], axis=1)
    low, high = np.quantile(resampled, [0.025, 0.975])
    return Ratio(float(np.median(numerator) / np.median(denominator)), float(low), float(high))


def _warm(program: Program, steps: int) -> tuple[float, list[Any], float]:
    """Seconds of the first step, results of `steps` steps, seconds of the last one."""
    seconds, outputs = [], []
    for i in range(steps):
        start = time.perf_counter()
        outputs.append(program.step(i))
        program.wait()
        seconds.append(time.perf_counter() - start)
    # kept where the process is killed before its turns are over
    print(f"{program.name}: first step {seconds[0]:.3g} s, step {steps} {seconds[-1]:.3g} s", file=sys.stderr)
    return seconds[0], outputs, seconds[-1]


def _turn(program: Program, steps: range) -> tuple[float, float]:
    """Wall and CPU seconds per step."""
    wall, cpu = time.perf_counter(), time.process_time()
    for i in steps:
        program.step(i)
    program.wait()
    return (time.perf_counter() - wall) / len(steps), (time.process_time() - cpu) / len(steps)
