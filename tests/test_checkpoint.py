"""Checkpoints: whole and verified, or not used."""

import os
import shutil
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from dense_jax.config import CheckpointConfig, MeshConfig
from dense_jax.errors import NonFiniteError, StorageError
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
        checkpoints.save(step, state(step), {"index": step * 8})
    checkpoints.close()
    return Checkpoints(folder, CheckpointConfig(keep=keep))  # as another process sees them


def test_a_restored_state_is_equal_to_the_last_bit(tmp_path):
    checkpoints = saved(tmp_path, 5)
    found, meta = checkpoints.restore(5, like(state(5)))
    jax.tree.map(np.testing.assert_array_equal, found, state(5))
    assert meta == {"index": 40}


def test_t11_a_state_is_restored_onto_another_mesh(tmp_path):
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


def started(folder, **settings) -> int | None:
    """The step that a start of `train` goes on from."""
    checkpoints = Checkpoints(folder, CheckpointConfig(**settings))
    try:
        return checkpoints.newest_sound()
    finally:
        checkpoints.close()


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_when_every_trained_checkpoint_is_damaged_no_start_begins_over(tmp_path):
    saved(tmp_path, 0, 1, 2)
    for step in (1, 2):
        damage_cut(tmp_path / str(step) / "params" / "_METADATA")
    for _ in range(3):
        with pytest.raises(StorageError, match=r"none of the checkpoints \[1, 2\] is sound") as error:
            started(tmp_path)
        assert f"{tmp_path}/quarantine/2: {tmp_path}/quarantine/2/params/_METADATA: digest" in str(error.value)
        assert "--restart" in str(error.value)


def test_a_quarantined_checkpoint_that_is_repaired_and_moved_back_is_gone_on_from(tmp_path):
    saved(tmp_path, 0, 1)
    damage_flip(tmp_path / "1" / "params" / "_METADATA")
    with pytest.raises(StorageError, match="move it with its digests to"):
        started(tmp_path)
    damage_flip(tmp_path / "quarantine" / "1" / "params" / "_METADATA")
    (tmp_path / "quarantine" / "1").rename(tmp_path / "1")
    (tmp_path / "quarantine" / "digests-1.json").rename(tmp_path / "digests-1.json")
    assert started(tmp_path) == 1


def test_checkpoints_without_their_digests_are_left_in_place_and_used_on_request(tmp_path, capsys):
    """As after a copy of the folders alone."""
    saved(tmp_path, 0, 1, 2)
    before = content(tmp_path / "2")
    for path in tmp_path.glob("digests-*"):
        path.unlink()
    for _ in range(2):
        with pytest.raises(StorageError, match=r"digests-2\.json, are missing.*checkpoint\.recompute_digests=true"):
            started(tmp_path)
    assert content(tmp_path / "2") == before
    capsys.readouterr()
    assert started(tmp_path, recompute_digests=True) == 2
    assert capsys.readouterr().err.count("computed again from the files") == 3
    assert started(tmp_path) == 2


def test_damage_is_not_recomputed_away(tmp_path):
    saved(tmp_path, 1, 2)
    damage_flip(tmp_path / "2" / "params" / "_METADATA")
    assert started(tmp_path, recompute_digests=True) == 1


DAMAGED_DIGESTS = [("", "are empty"), ("{", "cannot be read"), ("{}", "cannot be read"), ("null", "cannot be read")]


@pytest.mark.parametrize(("text", "reason"), DAMAGED_DIGESTS)
def test_a_step_whose_digests_cannot_be_read_is_not_taken_for_a_damaged_one(tmp_path, text, reason, capsys):
    saved(tmp_path, 0, 1)
    before = content(tmp_path / "1")
    (tmp_path / "digests-1.json").write_text(text)
    for _ in range(2):
        with pytest.raises(StorageError, match=rf"digests-1\.json, {reason}.*checkpoint\.recompute_digests=true"):
            started(tmp_path)
    assert content(tmp_path / "1") == before
    capsys.readouterr()
    assert started(tmp_path, recompute_digests=True) == 1
    assert f"the digests of step 1 {reason}" in capsys.readouterr().err
    assert started(tmp_path) == 1


@pytest.mark.parametrize(("text", "reason"), DAMAGED_DIGESTS)
def test_the_newest_checkpoint_with_unreadable_digests_is_not_passed_over_silently(tmp_path, text, reason, capsys):
    """By verbs that only read."""
    checkpoints = saved(tmp_path, 1, 2)
    (tmp_path / "digests-2.json").write_text(text)
    capsys.readouterr()
    assert checkpoints.existing(-1) == 1
    assert f"step 1 is used, not 2: its digests, {tmp_path / 'digests-2.json'}, {reason}" in capsys.readouterr().err
    with pytest.raises(StorageError, match=f"checkpoint of step 2: its digests, .* {reason}"):
        checkpoints.existing(2)


def test_steps_with_unreadable_digests_are_put_aside_for_that_where_an_older_one_is_sound(tmp_path, capsys):
    saved(tmp_path, 1, 2, 3)
    (tmp_path / "digests-3.json").write_text("")
    damage_cut(tmp_path / "digests-2.json")
    damage_cut(tmp_path / "digests-2.json")
    capsys.readouterr()
    assert started(tmp_path) == 1
    said = capsys.readouterr().err
    assert "are empty" in said and "cannot be read" in said and "damaged" not in said
    assert {"2", "3", "digests-2.json", "digests-3.json"} <= {path.name for path in (tmp_path / "quarantine").iterdir()}


def test_the_newest_checkpoint_without_digests_is_not_passed_over_silently(tmp_path, capsys):
    """By verbs that only read."""
    checkpoints = saved(tmp_path, 1, 2)
    (tmp_path / "digests-2.json").unlink()
    capsys.readouterr()
    assert checkpoints.existing(-1) == 1
    assert f"step 1 is used, not 2: its digests, {tmp_path / 'digests-2.json'}, are missing" in capsys.readouterr().err
    with pytest.raises(StorageError, match="checkpoint of step 2: its digests"):
        checkpoints.existing(2)
    (tmp_path / "digests-1.json").unlink()
    with pytest.raises(StorageError, match="checkpoint of step 2: its digests"):
        checkpoints.existing(-1)


def test_the_newest_without_digests_is_put_aside_where_an_older_one_is_trained_on(tmp_path, capsys):
    saved(tmp_path, 1, 2)
    (tmp_path / "digests-2.json").unlink()
    assert started(tmp_path) == 1
    assert f"moved to {tmp_path / 'quarantine' / '2'}" in capsys.readouterr().err


def test_names_that_look_like_steps_are_named_and_put_aside(tmp_path, capsys):
    saved(tmp_path, 1)
    (tmp_path / "7").mkdir()
    (tmp_path / "9").write_text("mine")
    shutil.copytree(tmp_path / "1", tmp_path / "11", ignore=lambda *_: ["commit_success.txt", "meta"])
    assert started(tmp_path) == 1
    said = capsys.readouterr().err
    for name in ("7", "9", "11"):
        assert said.count(f"warning: {tmp_path / name} is no complete checkpoint") == 1
        assert (tmp_path / "quarantine" / name).exists()
    assert (tmp_path / "quarantine" / "9").read_text() == "mine"
    assert started(tmp_path) == 1
    assert capsys.readouterr().err == ""


def test_what_is_not_the_runs_own_survives_any_number_of_starts_and_saves(tmp_path):
    saved(tmp_path, 1)
    foreign = ["notes/readme.md", "quarantine/5/params/d/0", "backup-2/1/state", "5.orbax-checkpoint-tmp/x", "007/y"]
    for name in foreign:
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(name)
    for step in (2, 3):
        saved(tmp_path, step)
    assert [(tmp_path / name).read_text() for name in foreign] == foreign


def test_a_folder_in_the_way_of_a_save_is_put_aside(tmp_path, capsys):
    checkpoints = saved(tmp_path, 1)
    (tmp_path / "2").mkdir()
    (tmp_path / "2" / "mine").write_text("mine")
    checkpoints.save(2, state(2), {})
    checkpoints.close()
    assert (tmp_path / "quarantine" / "2" / "mine").read_text() == "mine"
    assert checkpoints.steps() == [1, 2]


def test_a_checkpoint_is_committed_by_a_file_and_never_by_renaming_a_folder(tmp_path):
    """In a mounted bucket, renaming a folder is copying file by file."""
    renamed, watching = [], [True]
    sys.addaudithook(lambda event, args: renamed.append(args[0]) if event == "os.rename" and watching else None)
    saved(tmp_path, 1)
    watching.clear()
    folders = [str(path) for path in map(os.fspath, renamed) if ".json" not in path]
    assert folders == []
    (tmp_path / "1" / "commit_success.txt").unlink()
    with pytest.raises(StorageError, match=r"commit_success\.txt: missing"):
        started(tmp_path)


def test_the_last_sealed_checkpoint_stays_until_its_successor_is_sealed(tmp_path):
    checkpoints = saved(tmp_path, 0, 1, keep=1)
    checkpoints.save(2, state(2), {})
    checkpoints._manager.wait_until_finished()  # committed, and not sealed yet
    assert (tmp_path / "2" / "commit_success.txt").is_file()
    checkpoints.verify(1)
    checkpoints.close()
    assert checkpoints.steps() == [0, 2]


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_state_that_is_not_finite_is_never_saved(tmp_path, value):
    checkpoints = saved(tmp_path, 1)
    broken = state(2)
    broken.params["layer"]["kernel"] = broken.params["layer"]["kernel"].at[3, 4].set(value)
    with pytest.raises(NonFiniteError, match=r"step 2: NaN or infinity in params/layer/kernel.*not saved"):
        checkpoints.save(2, broken, {})
    checkpoints.close()
    assert not (tmp_path / "2").exists()
    assert started(tmp_path) == 1


def test_nothing_saved_is_no_error(tmp_path):
    assert Checkpoints(tmp_path, CheckpointConfig()).newest_sound() is None


def test_another_architecture_is_refused_with_all_differences(tmp_path):
    checkpoints = saved(tmp_path, 1)
    other = {"layer": {"kernel": jnp.zeros((8, 4)), "bias": jnp.zeros(4)}}
    with pytest.raises(StorageError, match="of another architecture") as error:
        checkpoints.restore_params(1, like(other))
    assert "layer/kernel: checkpoint float32[256, 64], config float32[8, 4]" in str(error.value)
    assert "layer/bias: checkpoint has none, config float32[4]" in str(error.value)


def test_t13_another_dtype_is_refused_and_not_cast(tmp_path):
    checkpoints = saved(tmp_path, 1)
    with pytest.raises(StorageError, match=r"checkpoint float32\[256, 64\], config bfloat16\[256, 64\]"):
        checkpoints.restore_params(1, like(state(1, dtype=jnp.bfloat16).params))
