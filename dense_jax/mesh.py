"""The device mesh, and where batches lie on it."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from dense_jax.config import MeshConfig
from dense_jax.errors import ConfigError

BATCH_AXES = ("data", "fsdp")  # both split the batch; fsdp splits the parameters besides


def make_mesh(config: MeshConfig, chips: Sequence[Any] = ()) -> Mesh:
    """The mesh over all devices of all processes, or over `chips`, which need not be at hand (topology.py).

    Its axes are `Auto`: a loss is written for the global batch and XLA places the collectives. JAX's default,
    `Explicit`, refuses the einsum of sharded queries with sharded passages.

    Raises:
        ConfigError: the axes do not multiply to the number of devices, or do not lie on what links them.
    """
    devices = len(chips) or jax.device_count()
    shape = {"data": config.data, "fsdp": config.fsdp}
    open_axes = [name for name, size in shape.items() if size == -1]
    fixed = int(np.prod([size for size in shape.values() if size != -1]))
    if len(open_axes) > 1 or fixed < 1 or devices % fixed or (not open_axes and fixed != devices):
        raise ConfigError(
            f"mesh.data={config.data} x mesh.fsdp={config.fsdp} does not make {devices} devices; "
            "set one of them to -1 to take what is left"
        )
    sizes = tuple(devices // fixed if size == -1 else size for size in shape.values())
    types = (AxisType.Auto,) * len(shape)
    try:
        return jax.make_mesh(sizes, tuple(shape), axis_types=types, devices=chips or None)
    except NotImplementedError:  # some tori are not cut through; on v5e:16x16, 64 x 4 is laid out, on v6e:16x16 not
        raise ConfigError(
            f"mesh.data={config.data} x mesh.fsdp={config.fsdp} would cut through an axis of the torus of {devices} "
            "chips; make mesh.fsdp 1 or the chips of one or several of its axes"
        ) from None


def platform() -> str:
    """cpu, gpu or tpu: of the mesh of `jax.set_mesh`, which need not be at hand; without one, of the devices here."""
    mesh = jax.sharding.get_abstract_mesh()
    return jax.default_backend() if mesh.empty else mesh.abstract_device.platform


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """The first axis of every array of a batch is split over all devices."""
    return NamedSharding(mesh, P(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    """The whole array on every device."""
    return NamedSharding(mesh, P())


def check_batch(batch: int, mesh: Mesh, name: str = "batch") -> None:
    """Raises ConfigError unless `batch` rows split evenly over the devices of `mesh`."""
    devices = mesh.size
    if batch % devices:
        nearest = [n for n in (batch // devices * devices, -(-batch // devices) * devices) if n]
        raise ConfigError(
            f"{name}={batch} is not divisible by {devices} data devices; "
            f"use --config.{name}={' or '.join(map(str, nearest))}"
        )
