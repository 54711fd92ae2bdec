"""Sharding of the training state over the mesh."""

import dataclasses
import math
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from dense_jax.config.settings import settings_of
from dense_jax.errors import require
from dense_jax.mesh import BATCH_AXES, TENSOR
from dense_jax.objective import Objective
from dense_jax.train.optimizer import match_rules

_BY_OUTPUT, _BY_INPUT = P("fsdp", TENSOR), P(TENSOR, "fsdp")  # of a kernel [i o]
_LONGEST = "longest"  # the longest axis that fsdp divides

# The first pattern that matches a leaf's path decides; paths of the optimizer state end in those of the parameters.
# Kernels come in pairs: the first gives each chip of a tensor group some heads or units, and the second needs only
# those, so that a pair takes one sum over the group (Shoeybi et al. 2019, "Megatron-LM", section 3).
SHARDING_RULES = (
    (r"(^|/)(attention/(query|key|value)|up)/kernel$", _BY_OUTPUT),
    (r"(^|/)(attention/(query|key|value)|up)/bias$", P(TENSOR)),
    (r"(^|/)(attention/output|down)/kernel$", _BY_INPUT),
    (r"(^|/)word/embedding$", _BY_INPUT),  # [v d]: shards the logits of the masked-LM head, the largest activation, too
    (r"(^|/)(kernel|embedding)$", _LONGEST),
    (r"(^|/)(bias|scale|step|count|filled|next)$", P()),
    (r"(^|/)queue$", P(None, BATCH_AXES)),  # [k b d]: each device holds the keys of its own rows
)
# Sizes of a transformer, by the names in its config, and the axis that splits each.
_SPLIT_SIZES = {"heads": TENSOR, "feed_forward": TENSOR, "width": "fsdp"}


def state_sharding(state: Any, mesh: Mesh) -> Any:
    """Sharding of each leaf of `state`: large matrices are split over `fsdp` and `tensor`, the rest is replicated.

    Raises:
        ConfigError: no rule of SHARDING_RULES matches a leaf; lists all such leaves.
    """
    rules = match_rules(state, SHARDING_RULES, "sharding (train/sharding.py: SHARDING_RULES)")

    def sharding(leaf: jax.Array | jax.ShapeDtypeStruct, rule: P | str) -> NamedSharding:
        spec = _fitting(leaf.shape, rule, mesh) if isinstance(rule, P) else _longest(leaf.shape, mesh)
        return NamedSharding(mesh, spec)

    return jax.tree.map(sharding, state, rules)


def check_models(objective: Objective, mesh: Mesh) -> None:
    """Check that the models of `objective` divide over `mesh`.

    Raises:
        ConfigError: heads, width or feed-forward width of a model do not divide over their axis.
    """
    for setting in settings_of(objective):
        if setting.owner is None or not {f.name for f in dataclasses.fields(setting.owner)}.issuperset(_SPLIT_SIZES):
            continue
        if axis := _SPLIT_SIZES.get(setting.field):
            size, ways = setting.value, mesh.shape[axis]
            fitting = [n for n in range(1, ways) if size % n == 0]
            require(
                size % ways == 0,
                f"mesh.{axis}={ways} does not divide objective.{setting.name}={size}; use a --mesh.{axis} that does, "
                f"such as {max(fitting, default=1)}",
            )


def _fitting(shape: tuple[int, ...], rule: P, mesh: Mesh) -> P:
    """Apply `rule` to an array of `shape`; an axis that does not divide, such as a vocabulary, is not split."""
    axes = zip(rule, shape, strict=False)
    return P(*(axis if _splits(axis, size, mesh) else None for axis, size in axes))


def _longest(shape: tuple[int, ...], mesh: Mesh) -> P:
    """Split the longest axis that `fsdp` divides, or none."""
    divisible = [axis for axis, size in enumerate(shape) if _splits("fsdp", size, mesh)]
    if not divisible:
        return P()
    longest = max(divisible, key=lambda axis: shape[axis])
    return P(*("fsdp" if axis == longest else None for axis in range(len(shape))))


def _splits(axes: str | tuple[str, ...] | None, size: int, mesh: Mesh) -> bool:
    """Return True if `axes` have more than one device and their number divides `size`."""
    names = (axes,) if isinstance(axes, str) else axes or ()
    ways = math.prod(mesh.shape[name] for name in names)
    return ways > 1 and size % ways == 0
