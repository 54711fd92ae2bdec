"""The encoder as objectives see it: pure functions of a plain tree of parameters."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dense_jax.models.bert import BertConfig
from dense_jax.models.encoder import Encoder, Pooling
from dense_jax.models.heads import init_mlm, mlm_logits
from dense_jax.models.layers import Dtype
from dense_jax.types import TextEncoder, Tokens

BERT = BertConfig(layers=1, width=16, heads=2, feed_forward=32, vocab_size=20, positions=8, attention_dropout=0.0)
TOKENS = Tokens(
    np.array([[5, 6, 7, 8], [9, 10, 0, 0], [0, 0, 0, 0]], np.int32),
    np.zeros((3, 4), np.int32),
    np.arange(4)[None] < np.array([[4], [2], [0]]),
)


@pytest.fixture(scope="module")
def params():
    """Of an encoder with all its parts."""
    return jax.jit(Encoder(BERT, Pooling.POOLER, projection=6).init)(jax.random.key(0))


def test_an_encoder_is_what_the_contract_asks_for():
    assert isinstance(Encoder(BERT), TextEncoder)


@pytest.mark.parametrize(
    ("encoder", "parts"),
    [
        (Encoder(BERT), {"bert"}),
        (Encoder(BERT, Pooling.MEAN), {"bert"}),
        (Encoder(BERT, Pooling.POOLER), {"bert", "pooler"}),
        (Encoder(BERT, Pooling.MEAN, projection=6), {"bert", "projection"}),
    ],
)
def test_parameters_are_those_of_the_parts_in_use(encoder, parts):
    assert set(jax.eval_shape(encoder.init, jax.random.key(0))) == parts


def test_parameters_end_in_the_names_that_weight_decay_and_sharding_know(params):
    leaves = [jax.tree_util.keystr(path[-1:], simple=True) for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    assert set(leaves) == {"embedding", "kernel", "bias", "scale"}


@pytest.mark.parametrize(("projection", "width"), [(0, 16), (6, 6)])
def test_the_width_is_that_of_the_vectors(projection, width, params):
    encoder = Encoder(BERT, Pooling.POOLER, projection)
    assert encoder.width == width
    assert jax.eval_shape(encoder.apply, params, TOKENS).shape == (3, width)


@pytest.mark.slow
def test_cls_pooling_takes_the_first_hidden_state(params):
    encoder = Encoder(BERT, Pooling.CLS)
    hidden = encoder.hidden_states(params, TOKENS)
    np.testing.assert_array_equal(encoder.apply(params, TOKENS), hidden[:, 0])


def test_mean_pooling_ignores_padding_and_a_row_of_padding_is_0(params):
    encoder = Encoder(BERT, Pooling.MEAN)
    hidden = encoder.hidden_states(params, TOKENS)
    found = encoder.apply(params, TOKENS)
    np.testing.assert_allclose(found[1], hidden[1, :2].mean(0), rtol=1e-5)
    np.testing.assert_array_equal(found[2], 0)


def test_mean_pooling_leaves_out_the_first_tokens_that_it_is_given(params):
    encoder = Encoder(BERT, Pooling.MEAN)
    hidden, found = encoder.hidden_states(params, TOKENS), encoder.apply(params, TOKENS, unpooled=1)
    np.testing.assert_allclose(found[0], hidden[0, 1:].mean(0), rtol=1e-5)
    np.testing.assert_allclose(found[1], hidden[1, 1], rtol=1e-5)


def test_normalised_vectors_have_length_1(params):
    vectors = Encoder(BERT, Pooling.POOLER, projection=6, normalize=True).apply(params, TOKENS)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=-1), 1, rtol=1e-6)


def test_all_hidden_states_end_at_the_last(params):
    encoder = Encoder(BERT)
    states = encoder.all_hidden_states(params, TOKENS)
    assert len(states) == 2
    np.testing.assert_array_equal(states[-1], encoder.hidden_states(params, TOKENS))


@pytest.mark.slow
def test_vectors_are_float32_in_a_bfloat16_encoder(params):
    encoder = Encoder(replace(BERT, dtype=Dtype.BFLOAT16))
    assert encoder.hidden_states(params, TOKENS).dtype == jnp.bfloat16
    assert encoder.apply(params, TOKENS).dtype == jnp.float32


def test_dropout_follows_the_random_key(params):
    apply = jax.jit(Encoder(BERT, Pooling.POOLER, projection=6).apply)
    noisy = apply(params, TOKENS, rng=jax.random.key(1))
    np.testing.assert_array_equal(noisy, apply(params, TOKENS, rng=jax.random.key(1)))
    assert not np.array_equal(noisy, apply(params, TOKENS, rng=jax.random.key(2)))
    assert not np.array_equal(noisy, apply(params, TOKENS))


def test_the_masked_lm_logits_use_the_encoders_own_embeddings(params):
    head = jax.jit(lambda rng: init_mlm(BERT, rng))(jax.random.key(1))
    hidden = Encoder(BERT).hidden_states(params, TOKENS)
    positions = jnp.array([[0, 1], [1, 0], [0, 0]])
    logits = mlm_logits(BERT, {"encoder": params, "mlm": head}, hidden, positions)
    assert logits.shape == (3, 2, 20)
    nothing = jax.tree.map(jnp.zeros_like, params)
    np.testing.assert_array_equal(mlm_logits(BERT, {"encoder": nothing, "mlm": head}, hidden, positions), 0)
