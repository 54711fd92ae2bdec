"""Pooling, projection and the masked-LM head, on numbers that fit on a line."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dense_jax.arrays import l2_normalize
from dense_jax.models.bert import BertConfig
from dense_jax.models.heads import MlmHead
from dense_jax.models.layers import apply_module
from dense_jax.models.pooling import Pooler, Projection, mean_pool

GOLDEN = Path(__file__).parent / "golden"
SMALL = BertConfig(layers=1, width=2, heads=1, feed_forward=2, vocab_size=3)
HIDDEN = jnp.array([[[1.0, 2.0], [3.0, 6.0], [100.0, 100.0]]])


def test_the_mean_is_over_real_tokens():
    np.testing.assert_allclose(mean_pool(HIDDEN, jnp.array([[True, True, False]])), [[2, 4]])


def test_the_mean_of_padding_alone_is_0_with_a_finite_gradient():
    def vector(hidden):
        return l2_normalize(mean_pool(hidden, jnp.zeros((1, 3), bool)))

    np.testing.assert_array_equal(vector(HIDDEN), 0)
    assert np.isfinite(jax.jacobian(vector)(HIDDEN)).all()


def test_the_mean_of_bfloat16_states_is_taken_in_float32():
    ones = jnp.ones((1, 1000, 2), jnp.bfloat16)  # a bfloat16 sum of ones stops at 256
    np.testing.assert_array_equal(mean_pool(ones, jnp.ones((1, 1000), bool)), 1)


def test_unit_vectors_have_length_1():
    np.testing.assert_allclose(l2_normalize(jnp.array([[3.0, 4.0]])), [[0.6, 0.8]], rtol=1e-6)


def test_the_pooler_is_tanh_of_an_affine_layer():
    params = {"dense": {"kernel": jnp.array([[1.0, 0.0], [1.0, -1.0]]), "bias": jnp.array([0.0, 2.0])}}
    np.testing.assert_allclose(apply_module(Pooler(SMALL), params, HIDDEN[:, 0]), np.tanh([[3, 0]]), rtol=1e-6)


def test_the_projection_is_the_reference_implementations():
    golden = np.load(GOLDEN / "realm/ict_projection.npz")
    array = {name: jnp.asarray(golden[name], jnp.float32) for name in ("pooled", "kernel", "bias", "gamma", "beta")}
    params = {
        "dense": {"kernel": array["kernel"], "bias": array["bias"]},
        "norm": {"scale": array["gamma"], "bias": array["beta"]},
    }
    found = apply_module(Projection(16, dropout=0.1), params, array["pooled"])
    np.testing.assert_allclose(found, golden["embedding"], rtol=1e-4, atol=1e-5)  # float32 against float64
    assert np.abs(found - golden["embedding_if_eps_1e12"]).max() > 1e-3


def test_the_projection_has_dropout_in_training_only():
    params = {
        "dense": {"kernel": jnp.eye(2), "bias": jnp.zeros(2)},
        "norm": {"scale": jnp.ones(2), "bias": jnp.ones(2) * 5},
    }
    pooled = jnp.array([[1.0, 3.0]])
    expected = 5 + np.array([[-1, 1]]) / np.sqrt(1 + 1e-3)
    np.testing.assert_allclose(apply_module(Projection(2, dropout=0.5), params, pooled), expected, rtol=1e-6)
    noisy = apply_module(Projection(2, dropout=0.5), params, jnp.tile(pooled, (500, 1)), rng=jax.random.key(0))
    assert 0.4 < (noisy == 0).mean() < 0.6


@pytest.fixture
def mlm_params():
    """Keeps the signs of its input: identity, then gelu and normalisation of two numbers to -1 and 1."""
    return {
        "dense": {"kernel": jnp.eye(2), "bias": jnp.zeros(2)},
        "norm": {"scale": jnp.ones(2), "bias": jnp.zeros(2)},
        "bias": jnp.array([0.0, 10.0, 0.0]),
    }


def test_the_masked_lm_head_scores_the_vocabulary_at_the_asked_positions(mlm_params):
    embedding = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    hidden = jnp.array([[[1.0, 2.0], [2.0, 1.0], [5.0, 5.0]]])
    found = apply_module(MlmHead(SMALL), mlm_params, hidden, jnp.array([[1, 0]]), embedding)
    # gelu keeps the order of 2 and 1, so the normalised states are (1, -1) at position 1 and (-1, 1) at position 0
    np.testing.assert_allclose(found, [[[1, 9, 0], [-1, 11, 0]]], atol=1e-5)
    assert found.dtype == jnp.float32


def test_the_masked_lm_head_sends_gradients_to_the_tied_embeddings(mlm_params):
    def score(embedding):
        return apply_module(MlmHead(SMALL), mlm_params, jnp.array([[[1.0, 2.0]]]), jnp.array([[0]]), embedding)[0, 0, 2]

    np.testing.assert_allclose(jax.jit(jax.grad(score))(jnp.ones((3, 2))), [[0, 0], [0, 0], [-1, 1]], atol=1e-5)
