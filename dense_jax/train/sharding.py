"""Where the training state lies on the mesh."""

from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from dense_jax.mesh import BATCH_AXES
from dense_jax.train.optimizer import by_rule

# The first pattern that a leaf's path matches decides; the leaves of the optimizer state end in their parameter's path.
SHARDING_RULES = (
    (r"(^|/)(kernel|embedding)$", "split"),  # along its longest axis over fsdp
    (r"(^|/)(bias|scale|step|count|filled|next)$", "whole"),
    (r"(^|/)queue$", "by batch"),  # [k b d]: each device holds the keys that its part of each batch gave
)


def state_sharding(state: Any, mesh: Mesh) -> Any:
    """A sharding for each leaf of `state`: large matrices are split over the `fsdp` axis, the rest is on every device.

    Raises:
        ConfigError: a leaf that no rule of SHARDING_RULES matches; all of them are listed.
    """
    kinds = by_rule(state, SHARDING_RULES, "sharding (train/sharding.py: SHARDING_RULES)")

    def sharding(leaf: jax.Array | jax.ShapeDtypeStruct, kind: str) -> NamedSharding:
        if kind == "by batch":
            return NamedSharding(mesh, P(None, BATCH_AXES))
        return NamedSharding(mesh, _split(leaf.shape, mesh.shape["fsdp"]) if kind == "split" else P())

    return jax.tree.map(sharding, state, kinds)


def _split(shape: tuple[int, ...], ways: int) -> P:
    """The longest axis that `ways` divides is split; a shape without one stays whole."""
    divisible = [axis for axis, size in enumerate(shape) if ways > 1 and size % ways == 0]
    if not divisible:
        return P()
    longest = max(divisible, key=lambda axis: shape[axis])
    return P(*("fsdp" if axis == longest else None for axis in range(len(shape))))
