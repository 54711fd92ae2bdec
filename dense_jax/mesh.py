"""The device mesh, and where batches lie on it."""

import math
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from dense_jax.arrays import Array, np
from dense_jax.config import MeshConfig
from dense_jax.errors import ConfigError, require

BATCH_AXES = ("dcn", "data", "fsdp")  # all split the batch; fsdp splits the parameters besides
TENSOR = "tensor"  # splits the parameters alone: innermost, since its chips talk in every layer
AXES = (*BATCH_AXES, TENSOR)


def make_mesh(config: MeshConfig, chips: Sequence[Any] = ()) -> Mesh:
    """The mesh over all devices of all processes, or over `chips`, which need not be at hand (topology.py).

    Its axes are `Auto`: a loss is written for the global batch and XLA places the collectives. JAX's default,
    `Explicit`, refuses the einsum of sharded queries with sharded passages.

    Raises:
        ConfigError: the axes do not multiply to the number of devices, or do not lie on what links them.
    """
    devices = list(chips) or jax.devices()
    sizes = _sizes(config, len(devices))
    slices = _slices(devices, sizes[0])
    inner = (sizes[0] // len(slices), *sizes[1:])
    types = (AxisType.Auto,) * len(AXES)
    try:
        rows = [jax.make_mesh(inner, AXES, axis_types=types, devices=one).devices for one in slices]
    except NotImplementedError:  # some tori are not cut through; on v5e:16x16, 64 x 4 is laid out, on v6e:16x16 not
        raise ConfigError(
            f"{_product(config)} would cut through an axis of the torus of {len(slices[0])} chips; make mesh.fsdp and "
            "mesh.tensor 1 or the chips of one or several of its axes"
        ) from None
    return Mesh(np.concatenate(rows), AXES, axis_types=types)


def process_mesh() -> Mesh:
    """The mesh over this process's devices, which all split the batch: what it embeds and searches with.

    JAX's `local_mesh` is none: it refuses a host whose chips do not lie side by side in the global mesh, and the chips
    of a TPU host are a square on the torus that the mesh winds around.
    """
    return Mesh(np.array(jax.local_devices()).reshape(1, -1, 1, 1), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _sizes(config: MeshConfig, devices: int) -> tuple[int, ...]:
    """Of the axes, the open one filled in."""
    asked = [getattr(config, axis) for axis in AXES]
    open_axes = asked.count(-1)
    fixed = math.prod(size for size in asked if size != -1)
    fits = open_axes < 2 and min(size for size in (1, *asked) if size != -1) > 0 and devices % fixed == 0
    if not fits or (not open_axes and fixed != devices):
        raise ConfigError(
            f"{_product(config)} does not make {devices} devices; set one of them to -1 to take what is left"
        )
    return tuple(devices // fixed if size == -1 else size for size in asked)


def _product(config: MeshConfig) -> str:
    return " x ".join(f"mesh.{axis}={getattr(config, axis)}" for axis in AXES)


def _slices(devices: list[Any], dcn: int) -> list[list[Any]]:
    """The devices of each slice of TPUs, or node of GPUs: one row of the mesh each. All of them, if there is but one.

    Raises:
        ConfigError: there are several, and not as many as `dcn`.
    """
    slices = defaultdict(list)
    for device in devices:
        slices[getattr(device, "slice_index", None)].append(device)
    require(
        len(slices) in (1, dcn),
        f"mesh.dcn={dcn} is not the number of slices (of GPUs: nodes) of the {len(devices)} devices, {len(slices)}; "
        f"use --mesh.dcn={len(slices)}",
    )
    return [slices[index] for index in sorted(slices, key=lambda index: index or 0)]


def platform() -> str:
    """cpu, gpu or tpu: of the mesh of `jax.set_mesh`, which need not be at hand; without one, of the devices here."""
    mesh = jax.sharding.get_abstract_mesh()
    return jax.default_backend() if mesh.empty else mesh.abstract_device.platform


def batch_shards(mesh: Mesh | AbstractMesh) -> int:
    """Into how many parts a batch is split: the devices of `mesh`, those of a tensor group counted once."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The first axis of every array of a batch is split over all devices, but for those of a tensor group."""
    return NamedSharding(mesh, P(BATCH_AXES))


def shard_rows(x: Array) -> Array:
    """`x` [b ...] split as a batch is, on the mesh of `jax.set_mesh`.

    As it is without a mesh, or where the rows do not split: of what only shows shapes, or of few packed rows.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or x.shape[0] % batch_shards(mesh):
        return x
    return jax.lax.with_sharding_constraint(x, P(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, P())


def replicated_on_all_devices() -> NamedSharding:
    """The whole array on every device of every process, however training lays its mesh over them."""
    return replicated(Mesh(np.array(jax.devices()), ("devices",)))


def check_batch(batch: int, mesh: Mesh, name: str = "batch") -> None:
    """Raises ConfigError unless `batch` rows split evenly over the parts that `mesh` makes of them."""
    parts = batch_shards(mesh)
    if batch % parts:
        nearest = [n for n in (batch // parts * parts, -(-batch // parts) * parts) if n]
        raise ConfigError(
            f"{name}={batch} is not divisible by {parts} data devices; use --{name}={' or '.join(map(str, nearest))}"
        )
