"""The least time that a step can take on a kind of chip, by its published peaks."""

from dataclasses import dataclass
from typing import NamedTuple

from dense_jax.errors import ConfigError


@dataclass(frozen=True)
class Chip:
    """A kind of TPU."""

    flops: float  # FLOP/s of bfloat16 products
    hbm: float  # bytes that a program may fill, as the compiler says: a little less than is published
    bandwidth: float  # bytes/s between chip and HBM
    links: float  # bytes/s that leave a chip over all its links: half of what is published for both directions
    devices: dict[str, str]  # what makes the compiler take a chip for one device


_GIB = 2**30
_MEGACORE = {"chip_config_name": "megacore"}

# Published: https://cloud.google.com/tpu/docs/v4 and v5e, v5p, v6e. For float32 arrays too, since a TPU multiplies them
# in one bfloat16 pass unless it is told otherwise.
CHIPS = {
    "v4": Chip(275e12, 30.75 * _GIB, 1_228e9, 300e9, _MEGACORE),
    "v5e": Chip(197e12, 15.75 * _GIB, 819e9, 200e9, {}),
    "v5p": Chip(459e12, 95.74 * _GIB, 2_765e9, 600e9, {}),
    "v6e": Chip(918e12, 31.25 * _GIB, 1_638e9, 400e9, {}),
}


def find_chip(topology: str) -> Chip:
    """The chip of a topology such as v5e:16x16.

    Raises:
        ConfigError: none of that name is known.
    """
    name = topology.partition(":")[0]
    if name not in CHIPS:
        raise ConfigError(
            f"topology={topology}: there is no chip {name!r}; use {', '.join(CHIPS)}, then the chips along each axis "
            "of the slice, such as v5e:16x16 or v5p:4x4x4"
        )
    return CHIPS[name]


class Roofline(NamedTuple):
    """Seconds of a step for each thing alone; overlapped perfectly, the step takes the longest."""

    compute: float
    memory: float
    interconnect: float

    @property
    def seconds(self) -> float:
        return max(self)

    @property
    def bound(self) -> str:
        """What the step waits for."""
        return max(self._fields, key=lambda name: getattr(self, name))


def roofline(chip: Chip, flops: float, moved: float, sent: float) -> Roofline:
    """Of a chip's FLOPs, its bytes to and from memory, and the bytes that leave it.

    >>> roofline(CHIPS["v5e"], flops=1.97e12, moved=8.19e9, sent=1e9)
    Roofline(compute=0.01, memory=0.01, interconnect=0.005)
    """
    return Roofline(flops / chip.flops, moved / chip.bandwidth, sent / chip.links)


def predict_doublings(small: tuple[int, int], large: tuple[int, int], room: float) -> int:
    """How often the batch of `large` can be doubled, if memory grows as from `small` to `large`: (batch, bytes) each.

    At most 5 times, beyond which a straight line is no guide. Here 50 examples take 1 more byte, so 400 take 9:

    >>> more_doublings((50, 2), (100, 3), room=12.0)
    2
    """
    slope = (large[1] - small[1]) / (large[0] - small[0])
    return max((n for n in range(6) if large[1] + slope * large[0] * (2**n - 1) <= room), default=0)
