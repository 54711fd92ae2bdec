"""Checkpoints: whole and verified, or not used."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from dense_jax.config import CheckpointConfig, MeshConfig
from dense_jax.errors import StorageError
from dense_jax.mesh import make_mesh
from dense_jax.train.checkpoint import Checkpoints
from dense_jax.train.state import TrainState


def state(value: float, shape=(256, 64), dtype=jnp.float32) -> TrainState:
    params = {"layer": {"kernel": jnp.full(shape, value, dtype)}}
    return TrainState(jnp.asarray(int(value)), params, (jnp.zeros(3), {"mu": params}), {})


def like(tree, sharding=None):
    sharding = sharding or NamedSharding(make_mesh(MeshConfig()), P())
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), tree)


def saved(folder, *steps, keep=3) -> Checkpoints:
    checkpoints = Checkpoints(folder, CheckpointConfig(keep=keep))
    for step in steps:
        checkpoints.save(step, state(step), {"next_index": step * 8})
    checkpoints.close()
    return Checkpoints(folder, CheckpointConfig(keep=keep))  # as another process sees them


def test_a_restored_state_is_equal_to_the_last_bit(tmp_path):
    checkpoints = saved(tmp_path, 5)
    found, meta = checkpoints.restore(5, like(state(5)))
    jax.tree.map(np.testing.assert_array_equal, found, state(5))
    assert meta == {"next_index": 40}


def test_a_state_is_restored_onto_another_mesh(tmp_path):
    checkpoints = saved(tmp_path, 1)
    spread = NamedSharding(make_mesh(MeshConfig(data=2, fsdp=4)), P("fsdp"))
    params = checkpoints.restore_params(1, like(state(1).params, spread))
    assert params["layer"]["kernel"].sharding == spread
    np.testing.assert_array_equal(params["layer"]["kernel"], np.ones((256, 64)))


def test_the_newest_and_the_first_are_kept(tmp_path):
    assert saved(tmp_path, 0, 1, 2, 3, 4, keep=2).steps() == [0, 3, 4]


def damage_flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def damage_cut(path):
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("damage", [damage_flip, damage_cut, lambda p: p.unlink()], ids=["flip", "cut", "delete"])
def test_a_damaged_file_is_named_and_the_step_before_is_used(tmp_path, damage, capsys):
    saved(tmp_path, 1, 2)
    victim = max((p for p in (tmp_path / "2").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    damage(victim)
    checkpoints = Checkpoints(tmp_path, CheckpointConfig())
    with pytest.raises(StorageError, match=f"checkpoint of step 2: .*{victim.name}: (missing|digest)"):
        checkpoints.verify(2)
    assert checkpoints.newest_sound() == 1
    assert (tmp_path / "quarantine" / "2").is_dir()
    assert "moved to" in capsys.readouterr().err


def test_when_every_checkpoint_is_damaged_the_run_does_not_start_over(tmp_path):
    saved(tmp_path, 1)
    (tmp_path / "digests-1.json").unlink()
    with pytest.raises(StorageError, match=r"none of the checkpoints \[1\] is sound"):
        Checkpoints(tmp_path, CheckpointConfig()).newest_sound()


def test_names_that_look_like_steps_are_not_taken_for_checkpoints(tmp_path):
    saved(tmp_path, 1)
    (tmp_path / "7").mkdir()
    (tmp_path / "9").write_text("")
    assert Checkpoints(tmp_path, CheckpointConfig()).newest_sound() == 1


def test_nothing_saved_is_no_error(tmp_path):
    assert Checkpoints(tmp_path, CheckpointConfig()).newest_sound() is None


def test_another_architecture_is_refused_with_all_differences(tmp_path):
    checkpoints = saved(tmp_path, 1)
    other = {"layer": {"kernel": jnp.zeros((8, 4)), "bias": jnp.zeros(4)}}
    with pytest.raises(StorageError, match="of another architecture") as error:
        checkpoints.restore_params(1, like(other))
    assert "layer/kernel: checkpoint float32[256, 64], config float32[8, 4]" in str(error.value)
    assert "layer/bias: checkpoint has none, config float32[4]" in str(error.value)


def test_another_dtype_is_refused_and_not_cast(tmp_path):
    checkpoints = saved(tmp_path, 1)
    with pytest.raises(StorageError, match=r"checkpoint float32\[256, 64\], config bfloat16\[256, 64\]"):
        checkpoints.restore_params(1, like(state(1, dtype=jnp.bfloat16).params))


def test_a_full_disk_is_an_error_that_says_so(tmp_path, monkeypatch):
    checkpoints = saved(tmp_path, 1)

    def full(*args, **kwargs):
        raise ValueError("RESOURCE_EXHAUSTED: write failed: No space left on device")

    monkeypatch.setattr(checkpoints._manager, "save", full)
    with pytest.raises(StorageError, match="the disk is full; earlier checkpoints are intact"):
        checkpoints.save(2, state(2), {})
    assert checkpoints.steps() == [1]
