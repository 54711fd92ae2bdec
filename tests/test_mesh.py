"""The mesh: its axes, the slices that one of them joins, and into how many parts a batch is split."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh

from dense_jax.config import MeshConfig
from dense_jax.errors import ConfigError
from dense_jax.mesh import (
    _slices,
    batch_shards,
    check_batch,
    look_up,
    make_mesh,
    scatter_update,
    shard_rows,
    split_update,
)
from tests.tpu_compiler import needs_tpu_compiler, printed


def shape(**axes) -> tuple[int, ...]:
    return tuple(make_mesh(MeshConfig(**axes)).shape.values())


def test_the_axis_that_is_open_takes_the_devices_that_are_left():
    assert shape() == (1, 8, 1, 1, 1)
    assert shape(tensor=2) == (1, 4, 1, 1, 2)
    assert shape(dcn=2, data=1, fsdp=-1, tensor=2) == (2, 1, 1, 2, 2)


@pytest.mark.parametrize("axes", [{"data": 3}, {"fsdp": 3}, {"fsdp": -1}, {"dcn": 0}, {"data": 2, "tensor": 2}])
def test_axes_that_do_not_make_the_devices_are_refused(axes):
    with pytest.raises(
        ConfigError, match=r"does not make 8 devices; set one of them to -1 to take the remaining devices"
    ):
        shape(**axes)


def test_without_slices_dcn_is_the_outermost_axis():
    numbers = [device.id for device in make_mesh(MeshConfig(dcn=2, fsdp=2, tensor=2)).devices.flat]
    assert numbers == [device.id for device in jax.devices()]


def test_the_update_axis_joins_neighbours_of_the_data_axis():
    mesh = split_update(make_mesh(MeshConfig(dcn=2)), 2)
    assert [[device.id for device in group.flat] for group in mesh.devices.reshape(4, 2)] == [
        [0, 1], [2, 3], [4, 5], [6, 7],
    ]  # fmt: skip
    assert tuple(mesh.shape.values()) == (2, 2, 2, 1, 1)
    assert batch_shards(mesh) == 8


def of_slices(*indices: int) -> list:
    return [SimpleNamespace(id=number, slice_index=index) for number, index in enumerate(indices)]


def test_each_slice_becomes_a_row_of_the_mesh():
    rows = _slices(of_slices(1, 0, 1, 0), 2)
    assert [[device.id for device in row] for row in rows] == [[1, 3], [0, 2]]


def test_another_number_of_slices_than_dcn_is_refused_with_both():
    with pytest.raises(ConfigError, match=r"mesh.dcn=1 is not .* of the 4 devices, 2; use --mesh.dcn=2"):
        make_mesh(MeshConfig(), of_slices(0, 0, 1, 1))


def test_a_tensor_group_holds_one_part_of_a_batch():
    mesh = make_mesh(MeshConfig(dcn=2, data=1, fsdp=2, tensor=2))
    assert batch_shards(mesh) == 4
    check_batch(4, mesh)
    with pytest.raises(ConfigError, match=r"batch=6 is not divisible by 4 data devices; use --batch=4 or 8"):
        check_batch(6, mesh)


def test_rows_are_split_over_the_batch_axes_where_they_divide():
    with jax.set_mesh(make_mesh(MeshConfig(2, 2, 2))):
        split, whole = (jax.jit(shard_rows)(np.zeros((rows, 6), np.float32)) for rows in (8, 3))
    assert split.sharding.shard_shape((8, 6)) == (2, 6)
    assert whole.sharding.shard_shape((3, 6)) == (3, 6)


def on_update_axis() -> Mesh:
    return split_update(make_mesh(MeshConfig()), 8)


@pytest.mark.parametrize(("shape", "shard"), [((64, 128), (8, 128)), ((24, 128), (24, 16)), ((24, 40), (24, 40))])
def test_a_gradient_is_scattered_over_the_first_axis_whose_shards_are_whole_tiles_as_its_kernel_is(shape, shard):
    with jax.set_mesh(on_update_axis()):
        found = jax.jit(scatter_update)(np.zeros(shape, np.float32))
    assert found.sharding.shard_shape(shape) == shard


@pytest.mark.parametrize(("width", "is_split"), [(64, True), (60, False)])
def test_ids_are_gathered_only_for_a_table_whose_columns_are_split(width, is_split):
    table = np.zeros((5, width), np.float32)
    with jax.set_mesh(on_update_axis()):
        text = str(
            jax.make_jaxpr(lambda ids: look_up(lambda i: jnp.asarray(table)[i], ids, width))(np.zeros((8, 3), int))
        )
    assert ("sharding_constraint" in text) == is_split


ON_TPUS = """
from jax.experimental.topologies import get_topology_desc
from dense_jax.config import MeshConfig
from dense_jax.errors import ConfigError
from dense_jax.mesh import make_mesh
slices = get_topology_desc(platform="tpu", topology_name="v5e:2x4", num_slices=2).devices
mesh = make_mesh(MeshConfig(dcn=2, fsdp=2, tensor=2), slices)
print([sorted({chip.slice_index for chip in row.flat}) for row in mesh.devices], dict(mesh.shape))
try:
    make_mesh(MeshConfig(tensor=2), get_topology_desc(platform="tpu", topology_name="v6e:16x16").devices)
except ConfigError as error:
    print(error)
"""


@pytest.mark.slow
@needs_tpu_compiler
def test_on_tpus_a_slice_is_a_row_and_a_torus_is_not_cut_through():
    rows, error = printed(ON_TPUS).splitlines()
    assert rows == "[[0], [1]] {'dcn': 2, 'data': 2, 'update': 1, 'fsdp': 2, 'tensor': 2}"
    assert error == (
        "mesh.dcn=1 x mesh.data=-1 x mesh.fsdp=1 x mesh.tensor=2 would split an axis of the torus of 256 chips; "
        "set mesh.fsdp and mesh.tensor to 1 or the chips of one or several of its axes"
    )
