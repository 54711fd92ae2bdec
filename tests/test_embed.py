"""Embedding a corpus: right vectors in the right rows, resuming, and what is refused."""

import json

import numpy as np
import pytest

from dense_jax import types
from dense_jax.config import MeshConfig
from dense_jax.errors import ConfigError, DataError, StorageError
from dense_jax.mesh import make_mesh
from dense_jax.retrieval.embed import embed
from dense_jax.retrieval.vectors import Vectors
from dense_jax.types import Document, Layout, Passage, SourceRows
from tests.fake_tower import CLOSE, CLS, LENGTH, SEP, SIZE, WIDTH, WORDS, WordNumbers, mean_of, table, tower
from tests.faults.pickles import write_pickle


class Passages(types.PassageCollection):
    """Passages of 0 to 49 tokens in no particular order of length, and some longer than the tower allows."""

    def __init__(self, count: int) -> None:
        rng = np.random.default_rng(0)
        self.titles = [rng.integers(WORDS, SIZE, 2) for _ in range(count)]
        self.bodies = [rng.integers(WORDS, SIZE, 7 * i % 50) for i in range(count)]

    def __len__(self):
        return len(self.bodies)

    def __getitem__(self, row):
        return self.passages([row])[0]

    def passages(self, rows):
        return [Passage(row, self.titles[row], self.bodies[row], np.array([0])) for row in rows]

    def document(self, row):
        return Document(f"doc{row}", "", "")

    def ids(self):
        return [f"doc{row}" for row in range(len(self))]

    def parts(self):
        return [SourceRows("texts", range(len(self)), 0)]


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(MeshConfig())


@pytest.fixture
def run(tmp_path, mesh):
    def embedded(store=None, folder=tmp_path / "embeddings", *, batch=8, shard_size=20, step=7, **changes) -> Vectors:
        made_by = {"step": step}
        store = Passages(45) if store is None else store
        return embed(
            store, tower(**changes), WordNumbers(), mesh, folder, batch=batch, shard_size=shard_size, made_by=made_by
        )

    return embedded


# Passages


def test_every_passage_gets_its_own_vector_in_the_order_of_rows(run):
    store = Passages(45)
    expected = [mean_of(CLS, *body[: LENGTH - 2], SEP) for body in store.bodies]
    np.testing.assert_allclose(run(store).array(), expected, **CLOSE)


def test_the_title_comes_first_in_a_joined_layout(run):
    store = Passages(3)
    expected = [mean_of(CLS, *t, *b, SEP) for t, b in zip(store.titles, store.bodies, strict=True)]
    np.testing.assert_allclose(run(store, layout=Layout.JOINED).array(), expected, **CLOSE)


@pytest.mark.parametrize("layout", [Layout.BODY, Layout.JOINED])
def test_the_prompt_stands_before_the_passage(run, layout):
    store = Passages(2)
    store.titles = [np.array([], np.int32)] * 2
    expected = [mean_of(CLS, 50, 51, *b, SEP) for b in store.bodies]
    np.testing.assert_allclose(run(store, layout=layout, prompt="50 51 ").array(), expected, **CLOSE)


def test_a_prompt_that_changes_the_tokens_after_it_is_refused(run):
    with pytest.raises(ConfigError, match="the prompt '50 5' changes the tokens of the word after it, and texts are"):
        run(Passages(1), prompt="50 5")  # with a 1 after it: 51


def test_vectors_do_not_depend_on_shard_size(run, tmp_path):
    many, one = run(shard_size=7), run(folder=tmp_path / "one", shard_size=100)
    assert len(list(many.blocks())) == 7
    np.testing.assert_allclose(many.array(), one.array(), **CLOSE)


def test_the_folder_tells_count_width_ids_and_maker(run):
    vectors = run()
    assert (len(vectors), vectors.width, vectors.ids[44]) == (45, WIDTH, "doc44")
    assert vectors.made_by == {"step": 7}
    assert [len(block) for block in vectors.blocks()] == [20, 20, 5]


def test_a_single_shard_stays_a_memory_map(run):
    assert isinstance(run(shard_size=100).array(), np.memmap)


# Resuming


def test_a_finished_folder_is_not_computed_again(run):
    run()
    again = run(params={"table": np.full((SIZE, WIDTH), 99.0, np.float32)})
    assert again.array().max() < 99


def test_an_interrupted_run_computes_only_the_missing_shards(run, tmp_path):
    whole = run().array()
    (tmp_path / "embeddings" / "manifest.json").unlink()
    (tmp_path / "embeddings" / "vectors-00001-of-00003.npy").unlink()
    resumed = run(params={"table": np.full((SIZE, WIDTH), 99.0, np.float32)}).array()
    np.testing.assert_array_equal(resumed[:20], whole[:20])
    np.testing.assert_allclose(resumed[20:40], 99.0, rtol=1e-6)  # a mean of equal numbers
    np.testing.assert_array_equal(resumed[40:], whole[40:])


def test_files_of_another_size_hold_the_same_vectors(run):
    np.testing.assert_array_equal(run(shard_size=20).array(), run(shard_size=7).array())


def test_vectors_of_another_checkpoint_are_not_mixed_in(run):
    run(step=7)
    with pytest.raises(ConfigError, match=r"embeddings was made with other settings:\n  made_by.step: 7 -> 8"):
        run(step=8)


def test_an_unfinished_folder_of_another_length_is_refused(run, tmp_path):
    run()
    (tmp_path / "embeddings" / "manifest.json").unlink()
    with pytest.raises(ConfigError, match="length: 40 -> 32"):
        run(length=32)


# What is refused


def test_diverged_vectors_are_refused_with_their_documents(run, tmp_path):
    params = table()
    params["table"][50] = np.nan
    store = Passages(4)
    store.bodies = [np.array([5]), np.array([50]), np.array([6, 50]), np.array([7])]
    with pytest.raises(DataError, match="2 documents became vectors with NaN or infinity, first 'doc1', 'doc2'"):
        run(store, params=params)
    assert not list((tmp_path / "embeddings").glob("vectors*"))


def test_an_empty_collection_is_refused(run):
    with pytest.raises(DataError, match="holds no passage"):
        run(Passages(0))


def test_a_batch_that_does_not_split_over_the_devices_is_refused(run):
    with pytest.raises(ConfigError, match=r"embed.batch=12 is not divisible by 8 data devices"):
        run(batch=12)


# Reading


def test_an_unfinished_folder_cannot_be_opened(run, tmp_path):
    run()
    (tmp_path / "embeddings" / "manifest.json").unlink()
    with pytest.raises(StorageError, match=r"holds no finished embeddings \(manifest.json is missing\)"):
        Vectors(tmp_path / "embeddings")


def test_a_shard_that_was_cut_is_refused(run, tmp_path):
    run()
    path = tmp_path / "embeddings" / "vectors-00001-of-00003.npy"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(StorageError, match=r"vectors-00001-of-00003.npy: damaged"):
        Vectors(tmp_path / "embeddings")


def test_a_missing_shard_is_refused(run, tmp_path):
    run()
    (tmp_path / "embeddings" / "vectors-00002-of-00003.npy").unlink()
    with pytest.raises(StorageError, match=r"vectors-00002-of-00003.npy: missing"):
        Vectors(tmp_path / "embeddings")


def test_pickled_arrays_are_refused(run, tmp_path):
    run()
    canary = write_pickle(tmp_path / "embeddings" / "vectors-00000-of-00003.npy")
    with pytest.raises(StorageError, match=r"vectors-00000-of-00003.npy: damaged"):
        Vectors(tmp_path / "embeddings")
    assert not canary.exists()


def test_a_shard_of_another_width_is_refused(run, tmp_path):
    run()
    np.save(tmp_path / "embeddings" / "vectors-00000-of-00003.npy", np.zeros((20, 4), np.float32))
    with pytest.raises(StorageError, match=r"holds float32 of shape \(20, 4\), not float32 rows of width 3"):
        Vectors(tmp_path / "embeddings")


def test_a_manifest_that_promises_more_is_refused(run, tmp_path):
    path = run().folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"count": 46}))
    with pytest.raises(StorageError, match="holds 45 vectors, but its manifest counts 46"):
        Vectors(tmp_path / "embeddings")


def test_a_flipped_bit_is_found_by_verify(run):
    vectors = run()
    path = vectors.folder / "vectors-00001-of-00003.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(StorageError, match="the file has changed since it was written"):
        vectors.verify()
