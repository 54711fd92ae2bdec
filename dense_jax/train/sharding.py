"""Sharding of the training state over the mesh."""

import dataclasses
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from dense_jax.arrays import Params
from dense_jax.config import Config, GradientDtype
from dense_jax.config.settings import settings_of
from dense_jax.errors import require
from dense_jax.mesh import BATCH_AXES, TENSOR, TILE, UPDATE, split_update
from dense_jax.models.layers import Dtype
from dense_jax.objective import Objective
from dense_jax.train.optimizer import match_rules, path_name

_BY_OUTPUT, _BY_INPUT = P("fsdp", TENSOR), P(TENSOR, "fsdp")  # of a kernel [i o]
_LAYER_KERNEL = re.compile(r"(^|/)(attention/(query|key|value|output)|gate|up|down)/kernel$")
_LONGEST = "longest"  # the longest axis that fsdp divides

# The first pattern that matches a leaf's path decides; paths of the optimizer state end in those of the parameters.
# Kernels come in pairs: the first gives each chip of a tensor group some heads or units, and the second needs only
# those, so that a pair takes one sum over the group (Shoeybi et al. 2019, "Megatron-LM", section 3).
SHARDING_RULES = (
    (r"(^|/)(attention/(query|key|value)|gate|up)/kernel$", _BY_OUTPUT),
    (r"(^|/)(attention/(query|key|value)|gate|up)/bias$", P(TENSOR)),
    (r"(^|/)(attention/output|down)/kernel$", _BY_INPUT),
    (r"(^|/)word/embedding$", _BY_INPUT),  # [v d]: shards the logits of the masked-LM head, the largest activation, too
    (r"(^|/)(kernel|embedding)$", _LONGEST),
    (r"(^|/)(bias|scale|step|count|filled|next)$", P()),
    (r"(^|/)queue$", P(None, BATCH_AXES)),  # [k b d]: each device holds the keys of its own rows
)
# Sizes of a transformer, by the names in its config, and the axis that splits each.
_SPLIT_SIZES = {"heads": TENSOR, "feed_forward": TENSOR, "width": "fsdp"}


# The axes of a leaf that the update axis of the mesh may split, best first. A table is looked up row by row, so each
# chip needs some columns of all rows.
UPDATE_RULES = ((r"(^|/)kernel$", (0, 1)), (r"(^|/)embedding$", (1,)), (r"", ()))


def split_weight_update(state: Any, mesh: Mesh) -> Mesh:
    """Return `mesh` with as long an update axis as leaves the least of `state` on a chip.

    Each chip then holds and updates its share of parameters and moments (Xu et al. 2020, "Automatic Cross-Replica
    Sharding of Weight Update in Data-Parallel Training"). The axis is shorter than the data axis where shards would
    not be whole tiles.
    """
    data = mesh.shape["data"]
    meshes = [split_update(mesh, ways) for ways in range(1, data + 1) if data % ways == 0]
    return min(meshes, key=lambda each: _numbers_per_chip(state, each))


def _numbers_per_chip(state: Any, mesh: Mesh) -> int:
    shards = jax.tree.map(lambda x, s: math.prod(s.shard_shape(x.shape)), state, state_sharding(state, mesh))
    return sum(jax.tree.leaves(shards))


def state_sharding(state: Any, mesh: Mesh) -> Any:
    """Sharding of each leaf of `state`.

    Large matrices are split over `fsdp` and `tensor`, and over the update axis where that leaves whole tiles; the rest
    is replicated.

    Raises:
        ConfigError: no rule of SHARDING_RULES matches a leaf; lists all such leaves.
    """
    rules = match_rules(state, SHARDING_RULES, "sharding (train/sharding.py: SHARDING_RULES)")
    update_rules = match_rules(state, UPDATE_RULES, "the weight update (train/sharding.py: UPDATE_RULES)")

    def sharding(leaf: jax.Array | jax.ShapeDtypeStruct, rule: P | str, axes: tuple[int, ...]) -> NamedSharding:
        spec = _fitting(leaf.shape, rule, mesh) if isinstance(rule, P) else _longest(leaf.shape, mesh)
        return NamedSharding(mesh, _with_update(spec, leaf.shape, axes, mesh))

    return jax.tree.map(sharding, state, rules, update_rules)


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


def check_gradient_dtype(config: Config, mesh: Mesh) -> None:
    """Check that the gradients need not be more exact than `mesh.gradient_dtype`.

    Raises:
        ConfigError: it is bfloat16, and the layers compute in another type or chunks are summed in it.
    """
    if config.mesh.gradient_dtype is GradientDtype.FLOAT32:
        return
    platform = mesh.devices.flat[0].platform
    types = {s.value.on(platform).value for s in settings_of(config.objective) if isinstance(s.value, Dtype)}
    others = types - {GradientDtype.BFLOAT16.value}
    require(
        not others,
        "mesh.gradient_dtype=bfloat16 rounds the layers' kernels, which compute in "
        f"dtype={', '.join(sorted(others))}; use mesh.gradient_dtype=float32",
    )
    require(
        config.chunk in (0, config.batch),
        f"mesh.gradient_dtype=bfloat16 would sum the gradients of the chunks of chunk={config.chunk} in bfloat16; use "
        "mesh.gradient_dtype=float32, or chunk=0",
    )


def cast_layer_kernels(params: Params, dtype: str) -> Params:
    """Return `params` with the float32 kernels of transformer layers, which compute in the compute type, as `dtype`."""
    return jax.tree_util.tree_map_with_path(
        lambda path, x: x.astype(dtype) if x.dtype == jnp.float32 and _LAYER_KERNEL.search(path_name(path)) else x,
        params,
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


def _with_update(spec: P, shape: tuple[int, ...], axes: tuple[int, ...], mesh: Mesh) -> P:
    """Add the update axis of the mesh to the first of `axes` whose shards are whole tiles then, if any are."""
    names = [*spec, *(None,) * (len(shape) - len(spec))]
    for axis in axes:
        old = names[axis]
        both = (UPDATE, *((old,) if isinstance(old, str) else old or ()))
        if mesh.shape[UPDATE] > 1 and shape[axis] % (TILE * math.prod(mesh.shape[name] for name in both)) == 0:
            names[axis] = both
            return P(*names)
    return spec


def _splits(axes: str | tuple[str, ...] | None, size: int, mesh: Mesh) -> bool:
    """Return True if `axes` have more than one device and their number divides `size`."""
    names = (axes,) if isinstance(axes, str) else axes or ()
    ways = math.prod(mesh.shape[name] for name in names)
    return ways > 1 and size % ways == 0
