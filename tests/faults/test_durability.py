"""Power cuts: what was written is on the disk, and the empty files that a cut leaves are named or made again."""

import os
import shutil
from pathlib import Path

import pytest

from dense_jax.data.preparation.prepare import prepare
from dense_jax.data.stores.passage_store import PassageStore
from dense_jax.errors import StorageError
from dense_jax.io import is_written, read_json, write_json
from dense_jax.train.validation import read_history
from tests.faults.train_and_die import toy
from tests.programs import train_workdir
from tests.sources import config, contents, rows, write
from tests.toys import VOCABULARY, MemoryStore


@pytest.fixture
def synced(monkeypatch):
    """The files and folders that the disk was waited for, and what stood under their names at that time."""
    found, fsync = [], os.fsync

    def recorded(number):
        path = Path(f"/proc/self/fd/{number}").readlink()
        found.append((path, sorted(below.name for below in path.iterdir()) if path.is_dir() else path.stat().st_size))
        fsync(number)

    monkeypatch.setattr(os, "fsync", recorded)
    return found


def test_a_file_is_on_the_disk_before_it_gets_its_name_and_its_name_before_the_call_returns(tmp_path, synced):
    path = tmp_path / "new" / "folder" / "a.json"
    write_json(path, {"a": 1})
    (partial, size), (folder, names), *above = synced
    assert (partial.parent, partial.name[:8], size) == (path.parent, ".a.json.", path.stat().st_size)
    assert (folder, names) == (path.parent, ["a.json"])
    assert [where for where, _ in above] == [tmp_path / "new", tmp_path]


def test_everything_that_prepare_leaves_was_waited_for(tmp_path, synced):
    prepare(config(write(tmp_path / "rows.jsonl", rows(30)), held_out=2), tmp_path / "work")
    named = {where / name for where, names in synced if isinstance(names, list) for name in names}
    left = {path for path in (tmp_path / "work").rglob("*") if path.is_file()}
    assert left <= named
    assert not [path for path in left if path.suffix == ".partial"]


@pytest.mark.slow
def test_metrics_are_on_the_disk_before_the_checkpoint_of_their_step_is_begun(tmp_path, synced):
    """All that has no atomic rename: what a run appends to."""
    train_workdir(toy(steps=6), MemoryStore(), VOCABULARY, tmp_path)
    places = [place for place, (path, _) in enumerate(synced) if path.name.startswith(".saving.json")]
    assert len(places) == 3  # of steps 0, 5 and 6
    for step, place in ((5, places[1]), (6, places[2])):
        files = dict(synced[:place])
        lines = (tmp_path / "metrics.jsonl").read_bytes().splitlines(keepends=True)
        assert files[tmp_path / "metrics.jsonl"] == sum(map(len, lines[:step]))
        (events,) = (tmp_path / "tensorboard").iterdir()
        assert events in files
        assert {"metrics.jsonl", "config.json"} <= {*files[tmp_path]}


@pytest.mark.parametrize("name", ["text.json", "passages-32/manifest.json"])
def test_an_empty_file_that_says_what_was_done_is_made_again(tmp_path, name):
    source = write(tmp_path / "rows.jsonl", rows(30))
    prepare(config(source), tmp_path / "work")
    before = contents(tmp_path / "work")
    (tmp_path / "work" / name).write_bytes(b"")
    assert not is_written(tmp_path / "work" / name)
    prepare(config(source), tmp_path / "work")
    assert contents(tmp_path / "work") == before


@pytest.mark.parametrize("name", ["manifest.json", "claim.json", "vectors-00001-of-00003.npy", "ids.json"])
def test_an_empty_file_of_embeddings_is_made_again_once_they_are_no_longer_finished(tmp_path, name):
    import jax

    from dense_jax.mesh import process_mesh
    from dense_jax.retrieval.embed import embed
    from tests import toys

    method, store, folder = toys.BagOfTokens(), toys.MemoryStore(), tmp_path / "vectors"
    tower = method.towers(method.init(jax.random.key(0))).passage

    def embedded():
        return embed(store, tower, toys.ToyTokenizer(), process_mesh(), folder, batch=8, shard_size=16, made_by={})

    before = embedded().array().tolist()
    (folder / name).write_bytes(b"")
    (folder / "manifest.json").write_bytes(b"")
    assert embedded().array().tolist() == before
    assert is_written(folder / name)


def test_an_empty_file_that_cannot_be_made_again_is_named_with_what_to_do(tmp_path):
    (tmp_path / "validation.json").write_bytes(b"")
    said = r"validation\.json: damaged \(it is empty.*restore it from a copy, or remove it"
    with pytest.raises(StorageError, match=said):
        read_history(tmp_path)
    (tmp_path / "validation.json").unlink()
    assert read_history(tmp_path) is None


def test_a_write_that_fails_leaves_nothing_of_itself(tmp_path):
    write_json(tmp_path / "a.json", 1)
    with pytest.raises(TypeError):
        write_json(tmp_path / "a.json", object())
    assert read_json(tmp_path / "a.json") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_shard_that_is_empty_is_named(tmp_path):
    source = write(tmp_path / "rows.jsonl", rows(30))
    prepare(config(source), tmp_path / "work")
    folder = shutil.copytree(tmp_path / "work" / "passages-32", tmp_path / "copy")
    (folder / "texts-00000.array_record").write_bytes(b"")
    with pytest.raises(StorageError, match=r"texts-00000\.array_record: digest"):
        PassageStore(folder)
