"""Encoding on a mesh: batches, buckets and queries."""

import numpy as np
import pytest

from dense_jax.config import MeshConfig
from dense_jax.data.inputs import build_inputs
from dense_jax.errors import DataError
from dense_jax.mesh import make_mesh
from dense_jax.retrieval import encode
from dense_jax.retrieval.encode import TowerOnMesh, encode_queries
from dense_jax.types import Layout
from tests.fake_tower import (
    CLOSE,
    CLS,
    LENGTH,
    SEP,
    SIZE,
    VOCABULARY,
    WIDTH,
    WORDS,
    MeanOfTable,
    WordNumbers,
    mean_of,
    tower,
)


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(MeshConfig())


def bodies(count: int) -> list[np.ndarray]:
    """0 to 49 words each, in no particular order of length."""
    return [np.random.default_rng(i).integers(WORDS, SIZE, 7 * i % 50) for i in range(count)]


def encoded(texts: list[np.ndarray], mesh, batch: int = 8, **changes) -> np.ndarray:
    tokens = [build_inputs(np.array([], int), body, LENGTH, Layout.BODY, VOCABULARY) for body in texts]
    return TowerOnMesh(tower(**changes), mesh).encode(tokens.__getitem__, [len(body) for body in texts], batch)[:, 0]


@pytest.mark.parametrize("count", [1, 8, 21])
def test_every_text_gets_its_own_vector_in_the_order_given(mesh, count):
    expected = [mean_of(CLS, *body[: LENGTH - 2], SEP) for body in bodies(count)]
    np.testing.assert_allclose(encoded(bodies(count), mesh), expected, **CLOSE)


def test_vectors_do_not_depend_on_the_batch(mesh):
    np.testing.assert_allclose(encoded(bodies(30), mesh, batch=8), encoded(bodies(30), mesh, batch=32), **CLOSE)


def test_one_program_is_compiled_for_each_bucket_and_the_longest_comes_first(mesh):
    encoder = MeanOfTable()
    encoded(bodies(100), mesh, encoder=encoder)
    assert encoder.compiled == [(8, 40), (8, 32)]


def test_finished_texts_are_counted(mesh):
    counts = []
    tokens = build_inputs(np.array([], int), np.array([WORDS]), LENGTH, Layout.BODY, VOCABULARY)
    TowerOnMesh(tower(), mesh).encode(lambda i: tokens, [1] * 19, 8, counts.append)
    assert counts == [8, 8, 3]


def test_the_next_batch_is_dispatched_before_a_result_is_read():
    events = []
    dispatched = (events.append(f"dispatch {i}") or i for i in range(3))
    for i in encode._one_late(dispatched):
        events.append(f"read {i}")
    assert events == ["dispatch 0", "dispatch 1", "read 0", "dispatch 2", "read 1", "read 2"]


def test_queries_get_their_vectors_after_the_prompt(mesh):
    found = encode_queries(["10 11 12", "13"], TowerOnMesh(tower(prompt="50 "), mesh), WordNumbers())
    expected = [mean_of(CLS, 50, 10, 11, 12, SEP), mean_of(CLS, 50, 13, SEP)]
    np.testing.assert_allclose(found, expected, **CLOSE)


@pytest.mark.parametrize("count", [1, 300])
def test_any_number_of_queries_is_encoded(mesh, count):
    texts = [str(WORDS + i % 50) for i in range(count)]
    expected = [mean_of(CLS, WORDS + i % 50, SEP) for i in range(count)]
    np.testing.assert_allclose(encode_queries(texts, TowerOnMesh(tower(), mesh), WordNumbers()), expected, **CLOSE)


def test_a_second_query_compiles_nothing(mesh):
    placed = TowerOnMesh(tower(encoder=(encoder := MeanOfTable())), mesh)
    encode_queries(["10 11"], placed, WordNumbers())
    encode_queries(["12"], placed, WordNumbers())
    assert encoder.compiled == [(8, 32)]


def test_an_empty_query_is_refused(mesh):
    with pytest.raises(DataError, match="query 2 is empty"):
        encode_queries(["10", " "], TowerOnMesh(tower(), mesh), WordNumbers())


def test_a_diverged_query_is_refused(mesh):
    params = {"table": np.full((SIZE, WIDTH), np.inf, np.float32)}
    with pytest.raises(DataError, match="query '10' became a vector with NaN or infinity"):
        encode_queries(["10"], TowerOnMesh(tower(params=params), mesh), WordNumbers())
