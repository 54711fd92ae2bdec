"""Exact search against numpy. Whole-number vectors have exact inner products: rows, ties and scores are equal."""

import jax
import numpy as np
import pytest

from dense_jax.config import MeshConfig
from dense_jax.mesh import make_mesh
from dense_jax.retrieval import exact
from dense_jax.retrieval.exact import ExactSearch
from tests.tpu_compiler import needs_tpu_compiler, printed

MESHES = {"1 device": MeshConfig(1), "8 devices": MeshConfig(4, 2), "2 devices of each part": MeshConfig(2, 2, 2)}


@pytest.fixture(params=MESHES)
def mesh(request):
    asked = MESHES[request.param]
    return make_mesh(asked, jax.devices()[: asked.data * asked.fsdp * asked.tensor])


def whole_numbers(count: int, seed: int, width: int = 4) -> np.ndarray:
    """Vectors of -2..2: among a few hundred of them many inner products are equal."""
    return np.random.default_rng(seed).integers(-2, 3, (count, width)).astype(np.float32)


def by_numpy(queries: np.ndarray, vectors: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    scores = queries @ vectors.T
    rows = np.argsort(-scores, axis=1, kind="stable")[:, :k]  # stable: ties by lower row
    return np.take_along_axis(scores, rows, 1), rows


@pytest.mark.parametrize("count", [1, 7, 8, 203])
def test_search_equals_numpy_for_any_corpus_size(mesh, count):
    queries, vectors = whole_numbers(5, seed=1), whole_numbers(count, seed=2)
    k = min(count, 10)
    scores, rows = by_numpy(queries, vectors, k)
    found = ExactSearch(vectors, mesh).search(queries, k)
    np.testing.assert_array_equal(found.rows, rows)
    np.testing.assert_array_equal(found.scores, scores)


def test_k_may_exceed_what_one_device_holds(mesh):
    queries, vectors = whole_numbers(3, seed=1), whole_numbers(50, seed=2)  # at most 7 rows on each of 8 devices
    found = ExactSearch(vectors, mesh).search(queries, 50)
    np.testing.assert_array_equal(found.rows, by_numpy(queries, vectors, 50)[1])


def test_search_in_several_blocks_equals_numpy(mesh, monkeypatch):
    monkeypatch.setattr(exact, "_BLOCK", 6)
    queries, vectors = whole_numbers(3, seed=1), whole_numbers(100, seed=2)
    found = ExactSearch(vectors, mesh).search(queries, 9)
    np.testing.assert_array_equal(found.rows, by_numpy(queries, vectors, 9)[1])


def test_many_queries_are_answered_in_parts(mesh, monkeypatch):
    monkeypatch.setattr(exact, "_QUERIES", 4)
    queries, vectors = whole_numbers(11, seed=1), whole_numbers(30, seed=2)
    found = ExactSearch(vectors, mesh).search(queries, 3)
    np.testing.assert_array_equal(found.rows, by_numpy(queries, vectors, 3)[1])


def test_equal_scores_come_in_the_order_of_rows(mesh):
    found = ExactSearch(np.ones((20, 4), np.float32), mesh).search(np.ones((1, 4), np.float32), 5)
    assert found.rows.tolist() == [[0, 1, 2, 3, 4]]


def test_places_without_a_vector_have_row_minus_one(mesh):
    found = ExactSearch(-np.ones((3, 4), np.float32), mesh).search(np.ones((1, 4), np.float32), 5)
    assert found.rows.tolist() == [[0, 1, 2, -1, -1]]
    assert found.scores.tolist() == [[-4, -4, -4, -np.inf, -np.inf]]


def test_scores_are_float32_inner_products(mesh):
    rng = np.random.default_rng(0)
    queries, vectors = rng.normal(size=(4, 96)).astype(np.float32), rng.normal(size=(300, 96)).astype(np.float32)
    found = ExactSearch(vectors, mesh).search(queries, 10)
    exactly = np.take_along_axis(queries.astype(np.float64) @ vectors.T.astype(np.float64), found.rows, 1)
    # scores near 20; 1e-5 is a few units of float32's last place; bfloat16 products would be off by 1e-2
    np.testing.assert_allclose(found.scores, exactly, atol=1e-5)


def test_an_approximate_search_may_go_deeper_than_what_it_keeps_of_a_block(monkeypatch):
    monkeypatch.setattr(exact, "_BLOCK", 256)  # of each block 128 are kept
    rng = np.random.default_rng(0)
    queries, vectors = rng.normal(size=(3, 8)).astype(np.float32), rng.normal(size=(8_192, 8)).astype(np.float32)
    mesh = make_mesh(MeshConfig(1), jax.devices()[:1])
    found, exactly = (ExactSearch(vectors, mesh, approximate=how).search(queries, 200) for how in (True, False))
    np.testing.assert_array_equal(found.rows, exactly.rows)  # without TPUs nothing is missed: 6 in a block are enough


ON_TPUS = """
import jax
import numpy as np
from jax.experimental.topologies import get_topology_desc
from dense_jax.config import MeshConfig
from dense_jax.mesh import batch_sharding, make_mesh, replicated
from dense_jax.retrieval.exact import _BLOCK, _top_k
mesh = make_mesh(MeshConfig(), get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices)
queries = jax.ShapeDtypeStruct((8, 64), np.float32, sharding=replicated(mesh))
corpus = jax.ShapeDtypeStruct((4 * 8 * _BLOCK, 64), np.float32, sharding=batch_sharding(mesh))
for k in (5, 200, 5_000):
    lowered = _top_k.lower(queries, corpus, k=k, count=len(corpus), block=_BLOCK, approximate=True, mesh=mesh)
    compiled = lowered.compile()
    print([found.shape for found in compiled.out_info], "PartialReduce" in compiled.as_text())
"""


@pytest.mark.slow
@needs_tpu_compiler
def test_tpus_search_by_bins_whether_a_block_has_more_or_fewer_than_k():
    assert printed(ON_TPUS).splitlines() == [f"[(8, {k}), (8, {k})] True" for k in (5, 200, 5_000)]
