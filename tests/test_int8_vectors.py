"""Vectors as int8 codes: close to float vectors, searched by float queries, resumed and checked as they are."""

import numpy as np
import pytest

from dense_jax.config import IndexConfig, IndexKind, MeshConfig, Precision
from dense_jax.errors import ConfigError, StorageError
from dense_jax.mesh import make_mesh
from dense_jax.retrieval.embed import embed
from dense_jax.retrieval.index import build_index
from dense_jax.retrieval.quantize import Ranges
from dense_jax.retrieval.vectors import Vectors
from tests.fake_tower import SIZE, WIDTH, WordNumbers, tower
from tests.test_embed import Passages
from tests.test_index import flip_a_bit
from tests.test_views import VIEWS, Turned

COUNT = 300


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(MeshConfig())


@pytest.fixture
def run(tmp_path, mesh):
    def embedded(name="int8", precision=Precision.INT8, **changes) -> Vectors:
        settings = {"batch": 8, "shard_size": 120, "made_by": {"step": 7}, "precision": precision}
        return embed(Passages(COUNT), tower(**changes), WordNumbers(), mesh, tmp_path / name, **settings)

    return embedded


def test_int8_vectors_are_within_half_a_step_of_float_vectors(run):
    floats, codes = run("float", Precision.FLOAT32).array(), run()
    step = (floats.max(0) - floats.min(0)) / 255  # the sample is the whole corpus here
    assert (np.abs(codes.array() - floats) <= 0.5001 * step).all()
    assert [block.dtype.name for block in codes.blocks()] == ["float32"] * 3
    stored = np.load(codes.folder / "vectors-00000-of-00003.npy")
    assert (stored.dtype.name, stored.shape) == ("int8", (120, WIDTH))
    np.testing.assert_array_equal(codes.take(np.array([[299, -1]])), [[codes.array()[299], np.zeros(WIDTH)]])


def test_the_codes_are_those_of_sentence_transformers_apart_from_its_rounding_down():
    """`quantize_embeddings` computes (x - least) / step - 128 and drops the fraction of the result."""
    vectors = np.random.default_rng(0).normal(size=(50, 4)).astype(np.float32)
    ranges = Ranges.of(vectors)
    theirs = ((vectors - vectors.min(0)) / ((vectors.max(0) - vectors.min(0)) / 255) - 128).astype(np.int8)
    assert np.abs(ranges.encode(vectors).astype(int) - theirs).max() <= 1


def test_values_outside_the_sample_are_clipped_and_a_constant_dimension_stays_itself():
    ranges = Ranges.of(np.float32([[0, 3], [1, 3]]))
    codes = ranges.encode(np.float32([[5, 3], [-5, 3]]))
    np.testing.assert_allclose(ranges.decode(codes), [[1, 3], [0, 3]], atol=1e-6)


@pytest.mark.parametrize("kind", [IndexKind.EXACT, IndexKind.SCANN])
def test_a_search_scores_codes_by_the_float_query(run, mesh, tmp_path, kind):
    vectors = run()
    config = IndexConfig(kind=kind, leaves=16, leaves_searched=16, reorder=COUNT, sample=0)
    queries = np.random.default_rng(2).normal(size=(20, WIDTH)).astype(np.float32)
    found = build_index(vectors, config, tmp_path / "index", mesh).search(queries, 10)
    scores = queries @ vectors.array().T
    best = -np.sort(-scores, axis=1)[:, :10]
    np.testing.assert_allclose(found.scores, best, atol=1e-5)
    np.testing.assert_allclose(np.take_along_axis(scores, found.rows, 1), best, atol=1e-5)


def test_an_interrupted_run_keeps_its_ranges_and_finished_shards(run, tmp_path):
    whole = run().array()
    (tmp_path / "int8" / "manifest.json").unlink()
    (tmp_path / "int8" / "vectors-00001-of-00003.npy").unlink()
    resumed = run(params={"table": np.full((SIZE, WIDTH), 99.0, np.float32)}).array()
    np.testing.assert_array_equal(resumed[:120], whole[:120])
    np.testing.assert_allclose(resumed[120:240], whole.max(0)[None].repeat(120, 0), atol=0.05)  # clipped


def test_codes_and_floats_are_not_mixed_in_one_folder(run):
    run()
    with pytest.raises(ConfigError, match="precision: int8 -> float32"):
        run(precision=Precision.FLOAT32)


def test_changed_or_missing_ranges_are_found(run):
    vectors = run()
    flip_a_bit(vectors.folder / "ranges.npy")
    with pytest.raises(StorageError, match=r"ranges.npy.*changed"):
        Vectors(vectors.folder).verify()
    (vectors.folder / "ranges.npy").unlink()
    with pytest.raises(StorageError, match=r"ranges.npy: missing or damaged"):
        Vectors(vectors.folder)


def test_a_shard_of_floats_among_codes_is_refused(run):
    folder = run().folder
    np.save(folder / "vectors-00000-of-00003.npy", np.zeros((120, WIDTH), np.float32))
    with pytest.raises(StorageError, match=r"holds float32 of shape \(120, 3\), not int8 rows of width 3"):
        Vectors(folder)


def test_all_views_of_a_passage_become_codes(run):
    floats, codes = (run(f"views-{kind.value}", kind, encoder=Turned()) for kind in (Precision.FLOAT32, Precision.INT8))
    assert len(codes) == len(floats) == COUNT * VIEWS
    np.testing.assert_allclose(codes.array(), floats.array(), atol=0.02)
