"""Device mesh, and the sharding of batches over it."""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import jax
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from dense_jax.arrays import Array, Int, np
from dense_jax.config.mesh import MeshConfig
from dense_jax.errors import ConfigError, require

UPDATE = "update"  # the data chips among which the weight update is split, `split_update`
BATCH_AXES = ("dcn", "data", UPDATE, "fsdp")  # all shard the batch; fsdp also shards the parameters
TENSOR = "tensor"  # shards the parameters only; innermost, since its chips communicate in every layer
AXES = (*BATCH_AXES, TENSOR)
TILE = 8  # rows of a tile of a TPU's memory: of shards that are not whole tiles, XLA gathers and scatters nothing
_CONFIGURED = ("dcn", "data", "fsdp", TENSOR)  # the axes that MeshConfig names


def make_mesh(config: MeshConfig, chips: Sequence[Any] = ()) -> Mesh:
    """Make a mesh over all devices of all processes, or over `chips`, which need not be attached (topology.py).

    Its axes are `Auto`: a loss is written for the global batch and XLA places the collectives. JAX's default,
    `Explicit`, refuses the einsum of sharded queries with sharded passages.

    Raises:
        ConfigError: the sizes of the axes do not multiply to the number of devices, or do not fit their topology.
    """
    devices = list(chips) or jax.devices()
    sizes = _sizes(config, len(devices))
    slices = _slices(devices, sizes[0])
    inner = (sizes[0] // len(slices), sizes[1], 1, *sizes[2:])
    types = (AxisType.Auto,) * len(AXES)
    try:
        rows = [jax.make_mesh(inner, AXES, axis_types=types, devices=one).devices for one in slices]
    except NotImplementedError:  # JAX splits an axis of some tori only: of v5e:16x16 into 64 x 4, of v6e:16x16 not
        raise ConfigError(
            f"{_axes(config)} would split an axis of the torus of {len(slices[0])} chips; set mesh.fsdp and "
            "mesh.tensor to 1 or to the number of chips along one or several of its axes"
        ) from None
    return _mesh(np.concatenate(rows))


def process_mesh() -> Mesh:
    """Make a mesh over this process's devices, all of which shard the batch, for embedding and searching.

    JAX's `local_mesh` does not serve: it refuses a host whose chips are not adjacent in the global mesh, and the chips
    of a TPU host are a square on the torus that the mesh winds around.
    """
    return _mesh(np.array(jax.local_devices()).reshape(1, -1, 1, 1, 1))


def split_update(mesh: Mesh, ways: int) -> Mesh:
    """Return `mesh` with each `ways` neighbours of its data axis along the update axis; `ways` divides their number."""
    dcn, data, update, *rest = mesh.devices.shape
    return _mesh(mesh.devices.reshape(dcn, data * update // ways, ways, *rest))


def _mesh(devices: np.ndarray) -> Mesh:
    return Mesh(devices, AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _sizes(config: MeshConfig, devices: int) -> tuple[int, ...]:
    """Sizes of the axes but the update axis, with -1 replaced by the remaining devices."""
    sizes = [getattr(config, axis) for axis in _CONFIGURED]
    open_axes = sizes.count(-1)
    fixed = math.prod(size for size in sizes if size != -1)
    fits = open_axes < 2 and min(size for size in (1, *sizes) if size != -1) > 0 and devices % fixed == 0
    if not fits or (not open_axes and fixed != devices):
        raise ConfigError(
            f"{_axes(config)} does not make {devices} devices; set one of them to -1 to take the remaining devices"
        )
    return tuple(devices // fixed if size == -1 else size for size in sizes)


def _axes(config: MeshConfig) -> str:
    return " x ".join(f"mesh.{axis}={getattr(config, axis)}" for axis in _CONFIGURED)


def _slices(devices: list[Any], dcn: int) -> list[list[Any]]:
    """Group devices by TPU slice, or by GPU node; each group is a row of the mesh.

    Raises:
        ConfigError: there are several groups, and their number is not `dcn`.
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
    """Platform (cpu, gpu or tpu) of the mesh of `jax.set_mesh`, or without one of this process's devices."""
    mesh = jax.sharding.get_abstract_mesh()
    return jax.default_backend() if mesh.empty else mesh.abstract_device.platform


def batch_shards(mesh: Mesh | AbstractMesh) -> int:
    """Number of shards of a batch: the devices of `mesh`, with a tensor group counted once."""
    return math.prod(mesh.shape[axis] for axis in BATCH_AXES)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Sharding of a batch: the first axis of every array is split over BATCH_AXES."""
    return NamedSharding(mesh, P(BATCH_AXES))


def shard_rows(x: Array) -> Array:
    """Shard the rows of `x` [b ...] like a batch, on the mesh of `jax.set_mesh`.

    Unchanged without a mesh, or if the rows do not divide: under `eval_shape`, or with few packed rows.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or x.shape[0] % batch_shards(mesh):
        return x
    return jax.lax.with_sharding_constraint(x, P(BATCH_AXES))


def update_ways() -> int:
    """Length of the update axis of the mesh of `jax.set_mesh`; 1 without such an axis.

    Also 1 if fsdp or tensor split parameters too, which the compiler then gathers where a layer needs them.
    """
    shape = jax.sharding.get_abstract_mesh().shape
    return shape.get(UPDATE, 1) if shape.get("fsdp", 1) * shape.get(TENSOR, 1) == 1 else 1


def gather_update(kernel: Array) -> Array:
    """Gather a kernel that is split over the update axis of the mesh of `jax.set_mesh`."""
    return kernel if update_ways() == 1 else jax.lax.with_sharding_constraint(kernel, P())


def scatter_update(gradient: Array) -> Array:
    """Scatter a kernel's gradient over the update axis of the mesh of `jax.set_mesh`, as the kernel itself is split.

    The first axis is split whose shards are whole tiles; without one the gradient is returned unchanged.
    """
    ways = update_ways()
    fitting = [axis for axis, size in enumerate(gradient.shape) if size % (TILE * ways) == 0]
    if ways == 1 or not fitting:
        return gradient
    return jax.lax.with_sharding_constraint(gradient, P(*(None,) * fitting[0], UPDATE))


def look_up(rows: Callable[[Any], Array], ids: Int[Array | np.ndarray, "b *l"], width: int) -> Array:
    """Return `rows(ids)` [b ... width] of a table whose width the update axis splits, each chip with rows of its batch.

    Neither is the table gathered nor its gradient summed whole: each chip looks up its columns for the ids of all chips
    of the axis, and they exchange them. Without such an axis, or if rows or columns do not divide, only `rows(ids)`.
    """
    shape = jax.sharding.get_abstract_mesh().shape
    batch, columns = ("dcn", "data"), (UPDATE, "fsdp")
    sizes = ((ids.shape[0], batch), (width, columns))
    if shape.get(UPDATE, 1) == 1 or any(size % math.prod(shape[axis] for axis in axes) for size, axes in sizes):
        return rows(ids)
    found = rows(jax.lax.with_sharding_constraint(ids, P(batch)))
    return shard_rows(jax.lax.with_sharding_constraint(found, P(batch, *(None,) * (found.ndim - 2), columns)))


def replicated(mesh: Mesh) -> NamedSharding:
    """Sharding that keeps the whole array on every device of `mesh`."""
    return NamedSharding(mesh, P())


def replicated_on_all_devices() -> NamedSharding:
    """Sharding that keeps the whole array on every device of every process, whatever the mesh of training."""
    return replicated(Mesh(np.array(jax.devices()), ("devices",)))


def check_batch(batch: int, mesh: Mesh, name: str = "batch") -> None:
    """Check that `batch` rows divide over the shards of `mesh`; `name` is the setting.

    Raises:
        ConfigError: they do not; names the nearest sizes that do.
    """
    parts = batch_shards(mesh)
    if batch % parts:
        nearest = [n for n in (batch // parts * parts, -(-batch // parts) * parts) if n]
        raise ConfigError(
            f"{name}={batch} is not divisible by {parts} data devices; use --{name}={' or '.join(map(str, nearest))}"
        )
