"""Roofline of a training step: its least time on a kind of chip, by published peaks."""

import math
from dataclasses import dataclass
from typing import NamedTuple

from dense_jax.errors import ConfigError
from dense_jax.train.flops import PEAKS


@dataclass(frozen=True)
class Chip:
    """Kind of TPU chip."""

    flops: float  # FLOP/s of bfloat16 products
    hbm: float  # bytes that a program may fill by the compiler's limit, a little less than published
    bandwidth: float  # bytes/s between chip and HBM
    links: float  # bytes/s that leave a chip over all its links: half of the published bidirectional figure
    devices: dict[str, str]  # settings with which the compiler takes a chip for one device


_GIB = 2**30
_MEGACORE = {"chip_config_name": "megacore"}

# Published: https://cloud.google.com/tpu/docs/v4 and v5e, v5p, v6e. For float32 arrays too, since a TPU multiplies them
# in one bfloat16 pass by default.
CHIPS = {
    "v4": Chip(PEAKS["TPU v4"], 30.75 * _GIB, 1_228e9, 300e9, _MEGACORE),
    "v5e": Chip(PEAKS["TPU v5e"], 15.75 * _GIB, 819e9, 200e9, {}),
    "v5p": Chip(PEAKS["TPU v5"], 95.74 * _GIB, 2_765e9, 600e9, {}),
    "v6e": Chip(PEAKS["TPU v6e"], 31.25 * _GIB, 1_638e9, 400e9, {}),
}


def find_chip(topology: str) -> Chip:
    """Return the chip of a topology such as v5e:16x16.

    Raises:
        ConfigError: the chip is unknown.
    """
    name = topology.partition(":")[0]
    if name not in CHIPS:
        raise ConfigError(
            f"topology={topology}: chip {name!r} is unknown; use {', '.join(CHIPS)}, then the chips along each axis "
            "of the slice, such as v5e:16x16 or v5p:4x4x4"
        )
    return CHIPS[name]


BUSY = 2_000  # tokens on a chip below which a step of BERT-base waits for the links rather than for products
_FLAT_CHIPS = ("v5e", "v6e")
_FLAT = "1x1 2x2 2x4 4x4 4x8 8x8 8x16 16x16"
_CUBOID = "1x1x1 2x2x1 2x2x2 2x2x4 2x4x4 4x4x4 4x4x8 4x8x8 8x8x8 8x8x16 8x16x16"


class Roofline(NamedTuple):
    """Seconds of a step for each resource alone. With perfect overlap the step takes the longest of them."""

    compute: float
    memory: float
    interconnect: float

    @property
    def seconds(self) -> float:
        return max(self)

    @property
    def bound(self) -> str:
        """Name of the resource that takes longest."""
        return max(self._fields, key=lambda name: getattr(self, name))


def roofline(chip: Chip, flops: float, traffic: float, sent: float) -> Roofline:
    """Roofline of one chip's FLOPs, bytes of memory traffic, and bytes sent to other chips.

    Williams et al. 2009, "Roofline: An Insightful Visual Performance Model".

    >>> roofline(CHIPS["v5e"], flops=1.97e12, traffic=8.19e9, sent=1e9)
    Roofline(compute=0.01, memory=0.01, interconnect=0.005)
    """
    return Roofline(flops / chip.flops, traffic / chip.bandwidth, sent / chip.links)


def largest_busy_slice(chip: str, tokens: int, batch: int) -> tuple[str, int] | None:
    """Name and chips of the largest slice of a kind of chip that divides `batch` and has BUSY of `tokens` on each chip.

    None if one chip has fewer.

    >>> largest_busy_slice("v5e", tokens=1_024 * 128, batch=1_024)  # 512 on each of v5e:16x16
    ('v5e:8x8', 64)
    """
    slices = _FLAT if chip in _FLAT_CHIPS else _CUBOID
    chips = {name: math.prod(map(int, name.split("x"))) for name in slices.split()}
    busy = [(n, name) for name, n in chips.items() if batch % n == 0 and tokens >= BUSY * n]
    return (f"{chip}:{max(busy)[1]}", max(busy)[0]) if busy else None


def predict_doublings(small: tuple[int, int], large: tuple[int, int], room: float) -> int:
    """Number of doublings of the batch of `large` that fit, if memory is linear in the batch; both are (batch, bytes).

    At most 5, since a straight line predicts no further. Below, 50 examples take 1 byte more, so 400 take 9:

    >>> predict_doublings((50, 2), (100, 3), room=12.0)
    2
    """
    slope = (large[1] - small[1]) / (large[0] - small[0])
    return max((n for n in range(6) if large[1] + slope * large[0] * (2**n - 1) <= room), default=0)
