"""Roofline of a training step: its model FLOPs, and the least time on a kind of chip, by published peaks."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dense_jax.arrays import Batch, Carry, Params
from dense_jax.config.tree import is_node
from dense_jax.errors import ConfigError
from dense_jax.objective import Objective

_RECOMPUTING = {"remat": False, "score_chunk": 0}  # settings that trade work for memory -> value that switches them off


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
    "v4": Chip(275e12, 30.75 * _GIB, 1_228e9, 300e9, _MEGACORE),
    "v5e": Chip(197e12, 15.75 * _GIB, 819e9, 200e9, {}),
    "v5p": Chip(459e12, 95.74 * _GIB, 2_765e9, 600e9, {}),
    "v6e": Chip(918e12, 31.25 * _GIB, 1_638e9, 400e9, {}),
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


def predict_doublings(small: tuple[int, int], large: tuple[int, int], room: float) -> int:
    """Number of doublings of the batch of `large` that fit, if memory is linear in the batch; both are (batch, bytes).

    At most 5, since a straight line predicts no further. Below, 50 examples take 1 byte more, so 400 take 9:

    >>> predict_doublings((50, 2), (100, 3), room=12.0)
    2
    """
    slope = (large[1] - small[1]) / (large[0] - small[0])
    return max((n for n in range(6) if large[1] + slope * large[0] * (2**n - 1) <= room), default=0)


def model_flops(objective: Objective, params: Params, carry: Carry, batch: Batch) -> int:
    """FLOPs of the loss on `batch` and of its gradient, counted by one rule for all methods; shapes suffice.

    A multiply-add counts 2, only matrix products count, and recomputation does not, as in benchmarks/flops.py. The
    compiler's own count takes the body of a loop for one run.
    """
    once = _without_recomputation(objective)

    def loss(params: Params, carry: Carry, batch: Batch) -> Any:
        return once.loss(params, carry, batch, rng=jax.random.key(0), step=jnp.zeros((), jnp.int32))

    return matmul_flops(jax.make_jaxpr(jax.grad(loss, has_aux=True))(params, carry, batch).jaxpr)


def matmul_flops(jaxpr: Any) -> int:
    """FLOPs of all matrix products in `jaxpr`; a product in a loop counts as often as the loop runs.

    >>> import jax.numpy as jnp
    >>> a, b = jnp.zeros((2, 3)), jnp.zeros((3, 5))
    >>> matmul_flops(jax.make_jaxpr(jnp.dot)(a, b).jaxpr)  # 2 x 2 x 3 x 5
    60
    """
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            contracted = equation.params["dimension_numbers"][0][0]
            depth = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
            total += 2 * depth * math.prod(equation.outvars[0].aval.shape)
        inner = [matmul_flops(one) for value in equation.params.values() for one in _jaxprs(value)]
        runs = equation.params["length"] if equation.primitive.name == "scan" else 1
        total += runs * (max(inner, default=0) if equation.primitive.name == "cond" else sum(inner))
    return total


def _jaxprs(value: Any) -> list[Any]:
    values = value if isinstance(value, (tuple, list)) else [value]
    closed = [getattr(one, "jaxpr", one) for one in values]
    return [one for one in closed if hasattr(one, "eqns")]


def _without_recomputation(node: Any) -> Any:
    """Return `node` with the settings of `_RECOMPUTING` switched off in its whole tree."""
    changes: dict[str, Any] = {}
    for setting in dataclasses.fields(node):
        value = getattr(node, setting.name)
        if is_node(value):
            changes[setting.name] = _without_recomputation(value)
        elif setting.name in _RECOMPUTING:
            changes[setting.name] = _RECOMPUTING[setting.name]
    return dataclasses.replace(node, **changes)
