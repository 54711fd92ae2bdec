"""BERT: its configuration, its attention kernels, and what must not change its hidden states."""

import functools
import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.pallas.ops.tpu import splash_attention

from dense_jax.config import MeshConfig
from dense_jax.errors import ConfigError
from dense_jax.mesh import make_mesh
from dense_jax.models.attention import Attention, attend
from dense_jax.models.bert import Bert, BertConfig, bert
from dense_jax.models.layers import Dtype, Gelu, apply_module, dropout, gelu, init_params
from dense_jax.models.transformer import choose_attention, layer_norm
from dense_jax.types import Tokens

SMALL = BertConfig(layers=2, width=32, heads=4, feed_forward=64, vocab_size=50, positions=16)
LENGTHS = np.array([[8], [5], [1]])


@pytest.fixture(scope="module")
def tokens():
    ids = np.random.default_rng(0).integers(5, 50, size=(3, 8), dtype=np.int32)
    return Tokens(ids, np.broadcast_to(np.arange(8) >= 4, (3, 8)).astype(np.int32), np.arange(8)[None] < LENGTHS)


@pytest.fixture(scope="module")
def params(tokens):
    """Random and larger than at a fresh start, so that attention is far from uniform."""
    shapes = jax.eval_shape(functools.partial(init_params, Bert(SMALL)), jax.random.key(0), tokens)
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: jnp.asarray(0.6 * rng.normal(size=x.shape), x.dtype), shapes)


@functools.cache
def forward(method="__call__", **changes):
    """The compiled model, some of its settings changed: (params, tokens, positions=None, rng=None) -> hidden states."""
    return jax.jit(functools.partial(apply_module, Bert(replace(SMALL, **changes)), method=method))


@functools.cache
def loss_and_gradients(**changes):
    def loss(params, tokens):
        hidden = apply_module(Bert(replace(SMALL, **changes)), params, tokens)
        return jnp.mean(hidden**2 * jnp.linspace(0, 1, 32)[None, None])

    return jax.jit(jax.value_and_grad(loss))


# Configuration


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 30}, "bert.width=30 is not divisible by bert.heads=4"),
    ],
)
def test_an_impossible_setting_is_refused(change, message):
    with pytest.raises(ConfigError, match=message):
        replace(SMALL, **change)


def test_an_unknown_size_is_refused_with_the_list_of_sizes():
    with pytest.raises(ConfigError, match="size 'huge' is unknown; use one of tiny, mini, small, medium, base, large"):
        bert("huge")


@pytest.mark.slow
def test_bert_base_has_the_parameters_of_the_released_model():
    word = jnp.ones((1, 1), int)
    start = functools.partial(init_params, Bert(bert("base", vocab_size=30_522)))
    shapes = jax.eval_shape(start, jax.random.key(0), Tokens(word, word, word == 1))
    embeddings = (30_522 + 512 + 2 + 2) * 768
    layer = 4 * (768 * 768 + 768) + 2 * 768 * 3072 + 3072 + 768 + 4 * 768
    assert sum(math.prod(x.shape) for x in jax.tree.leaves(shapes)) == embeddings + 12 * layer == 108_891_648


def test_a_vocabulary_that_was_not_filled_in_is_refused(tokens):
    with pytest.raises(ConfigError, match=r"bert\.vocab_size=0 stands for the tokenizer's"):
        jax.eval_shape(functools.partial(init_params, Bert(bert("tiny"))), jax.random.key(0), tokens)


def test_a_sequence_longer_than_the_positions_is_refused(tokens):
    start = functools.partial(init_params, Bert(replace(SMALL, positions=4)))
    with pytest.raises(ConfigError, match=r"8 tokens are more than the 4 of bert\.positions=4"):
        jax.eval_shape(start, jax.random.key(0), tokens)


# The choice of a kernel


@pytest.mark.parametrize(
    ("change", "platform", "length", "kernel", "reason"),
    [
        ({}, "cpu", 512, Attention.XLA, "cpu has no fused kernel"),
        ({"dtype": Dtype.BFLOAT16}, "gpu", 64, Attention.CUDNN, "fused kernel of gpu, without attention_dropout=0.1"),
        ({}, "gpu", 64, Attention.CUDNN, "fused kernel of gpu, without attention_dropout=0.1"),
        ({"dtype": Dtype.FLOAT32}, "gpu", 64, Attention.XLA, "cudnn needs dtype=bfloat16, not float32"),
        ({"dtype": Dtype.BFLOAT16, "heads": 8}, "gpu", 64, Attention.CUDNN, "the fused kernel of gpu"),
        ({"dtype": Dtype.BFLOAT16, "width": 36}, "gpu", 64, Attention.XLA, "multiple of 8 and at most 128, not 9"),
        ({"attention_dropout": 0.0}, "tpu", 256, Attention.SPLASH, "the fused kernel of tpu"),
        ({}, "tpu", 255, Attention.XLA, "255 tokens are fewer than 256"),
        ({"attention": Attention.XLA}, "tpu", 512, Attention.XLA, "named by the config"),
    ],
)
def test_the_kernel_fits_the_platform_the_type_and_the_length(change, platform, length, kernel, reason):
    config = replace(SMALL, **{"width": 64, **change})
    choice = choose_attention(config, platform, length)
    assert choice.attention is kernel
    assert reason in choice.reason


@pytest.mark.parametrize(
    ("change", "platform", "message"),
    [
        ({"attention": Attention.CUDNN}, "cpu", "attention=cudnn runs on NVIDIA GPUs, not on cpu; use attention=xla"),
        (
            {"attention": Attention.CUDNN, "dtype": Dtype.FLOAT32},
            "gpu",
            "attention=cudnn needs dtype=bfloat16, not float32",
        ),
        ({"attention": Attention.SPLASH}, "gpu", "attention=splash runs on TPUs, not on gpu"),
        ({"attention": Attention.SPLASH, "attention_dropout": 0.1}, "tpu", "attention=splash has no attention dropout"),
    ],
)
def test_a_named_kernel_that_cannot_run_is_refused(change, platform, message):
    config = replace(SMALL, attention_dropout=0.0)
    with pytest.raises(ConfigError, match=message):
        choose_attention(replace(config, **change), platform, 128)


# Attention


@pytest.fixture
def interpreted(monkeypatch):
    """The splash kernel step by step on a CPU."""
    make = functools.partial(splash_attention.make_splash_mha, interpret=True)
    monkeypatch.setattr(splash_attention, "make_splash_mha", make)


def random_heads(length, width=8, rows=2, dtype=np.float32):
    rng = np.random.default_rng(1)
    return tuple(jnp.asarray(rng.normal(size=(rows, length, 2, width)), dtype) for _ in range(3))


def test_attention_is_the_softmax_of_scaled_products_over_visible_keys():
    query, key, value = random_heads(length=3, rows=1)
    mask = jnp.array([[[True, True, False]]])
    found = attend(query, key, value, mask, kernel=Attention.XLA)
    scores = np.asarray(query[0, 1, 0] @ key[0, :2, 0].T) / np.sqrt(8)  # query 1, head 0
    weights = np.exp(scores) / np.exp(scores).sum()
    np.testing.assert_allclose(found[0, 1, 0], weights @ np.asarray(value[0, :2, 0]), rtol=1e-5)


def test_each_query_may_have_its_own_keys():
    query, key, value = random_heads(length=3, rows=1)
    only_itself = jnp.eye(3, dtype=bool)[None]
    np.testing.assert_allclose(attend(query, key, value, only_itself, kernel=Attention.XLA), value, rtol=1e-6)


def test_a_row_without_any_key_gives_finite_values_and_gradients():
    def total(inputs):
        return jnp.sum(attend(*inputs, jnp.zeros((2, 1, 4), bool), kernel=Attention.XLA) ** 2)

    value, gradients = jax.jit(jax.value_and_grad(total))(random_heads(length=4))
    assert all(np.isfinite(x).all() for x in jax.tree.leaves((value, gradients)))


def test_bfloat16_attention_adds_up_in_float32():
    ones = jnp.ones((1, 1000, 1, 8), jnp.bfloat16)  # 1000 equal weights: a sum in bfloat16 stops at 256
    found = attend(ones[:, :1], ones, ones, jnp.ones((1, 1, 1000), bool), kernel=Attention.XLA)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found.astype(np.float32), 1)


def test_tokens_see_those_of_their_own_text_and_padding_changes_none_of_them():
    inputs = random_heads(length=5, rows=1)
    segments = jnp.array([[0, 0, 1, 1, -1]])
    packed = attend(*inputs, segments, kernel=Attention.XLA)
    for own in (slice(0, 2), slice(2, 4)):
        alone = attend(*(x[:, own] for x in inputs), jnp.ones((1, 1, 2), bool), kernel=Attention.XLA)
        np.testing.assert_allclose(packed[:, own], alone, rtol=1e-5, atol=1e-6)  # float32 rounding


def test_the_splash_kernel_keeps_texts_of_a_row_apart_as_plain_attention_does(interpreted):
    length = 160  # is padded to whole lanes of 128
    inputs, places = random_heads(length), jnp.arange(length)[None]
    segments = jnp.where(places < jnp.array([[150], [90]]), places // 40, -1)
    plain, fused = (attend(*inputs, segments, kernel=kernel) for kernel in (Attention.XLA, Attention.SPLASH))
    real = (segments >= 0)[..., None, None]
    np.testing.assert_allclose(jnp.where(real, fused, 0), jnp.where(real, plain, 0), rtol=1e-4, atol=1e-5)  # float32


@pytest.mark.parametrize("window", [pytest.param(None, marks=pytest.mark.slow), 20])
def test_the_splash_kernel_equals_plain_attention_and_its_gradients(interpreted, window):
    length = 160  # is padded to whole lanes of 128
    inputs = random_heads(length)
    mask = jnp.arange(length)[None, None] < jnp.array([length, 100])[:, None, None]
    real = mask[:, 0, :, None, None]

    def outcome(kernel):
        def total(inputs):
            attended = attend(*inputs, mask, kernel=kernel, window=window)
            found = jnp.where(real, attended, 0)  # what padding sees differs, and is unused
            return jnp.sum(found**2), found

        return jax.jit(jax.grad(total, has_aux=True))(inputs)

    for a, b in zip(jax.tree.leaves(outcome(Attention.SPLASH)), jax.tree.leaves(outcome(Attention.XLA)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)  # another order of float32 sums


def test_the_splash_kernel_runs_on_each_devices_rows_and_heads(interpreted):
    mesh = make_mesh(MeshConfig(2, 2, tensor=2))
    inputs, mask = random_heads(length=128, rows=8), jnp.ones((8, 1, 128), bool)
    with jax.set_mesh(mesh):
        found = jax.jit(lambda *x: attend(*x, kernel=Attention.SPLASH))(*inputs, mask)
    assert found.sharding.shard_shape(found.shape)[::2] == (2, 1)
    np.testing.assert_allclose(found, attend(*inputs, mask, kernel=Attention.XLA), rtol=1e-4, atol=1e-5)


def test_the_splash_kernel_refuses_a_mask_that_differs_from_query_to_query():
    with pytest.raises(ConfigError, match="attention=splash masks the same keys for all queries; use attention=xla"):
        attend(*random_heads(length=128), jnp.ones((2, 128, 128), bool), kernel=Attention.SPLASH)


# The model


def test_hidden_states_start_at_the_embeddings_and_end_at_the_last_layer(params, tokens):
    states = forward("hidden_states")(params, tokens)
    assert len(states) == 1 + 2
    np.testing.assert_allclose(states[-1], forward()(params, tokens), rtol=1e-5, atol=1e-5)
    word, position, kind = (params[name]["embedding"] for name in ("word", "position", "type"))
    embedded = word[tokens.ids[0, 5]] + position[5] + kind[tokens.types[0, 5]]
    expected = (embedded - embedded.mean()) / embedded.std() * params["norm"]["scale"] + params["norm"]["bias"]
    np.testing.assert_allclose(states[0][0, 5], expected, rtol=1e-4, atol=1e-5)


LOOP = {"scan": True, "remat": True}


@pytest.mark.slow
def test_the_loop_and_rematerialisation_change_no_hidden_state_nor_dropout(params, tokens):
    rng, quiet = jax.random.key(7), {"attention_dropout": 0.0}
    found = forward("hidden_states", **quiet, **LOOP)(params, tokens, rng=rng)
    for a, b in zip(found, forward("hidden_states", **quiet)(params, tokens, rng=rng), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_the_loop_and_rematerialisation_change_no_gradient(params, tokens):
    found, expected = (loss_and_gradients(**form)(params, tokens) for form in (LOOP, {}))
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)  # float32 sums in another order


def test_padding_does_not_change_the_states_of_real_tokens(params, tokens):
    plain, real = forward()(params, tokens), tokens.mask[..., None]
    wider = Tokens(*(np.pad(x, ((0, 0), (0, 5))) for x in tokens))
    np.testing.assert_allclose(forward()(params, wider)[:, :8] * real, plain * real, rtol=1e-4, atol=1e-5)
    other_pads = tokens._replace(ids=np.where(tokens.mask, tokens.ids, 49))
    np.testing.assert_array_equal(forward()(params, other_pads) * real, plain * real)


def test_a_row_of_padding_alone_gives_finite_values_and_gradients(params, tokens):
    empty = tokens._replace(mask=np.zeros_like(tokens.mask))
    assert np.isfinite(forward()(params, empty)).all()
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(loss_and_gradients()(params, empty)))


def test_token_order_matters_through_positions_only(params, tokens):
    tokens = tokens._replace(mask=np.ones_like(tokens.mask))
    order = np.array([3, 1, 0, 2, 7, 6, 5, 4])
    shuffled = Tokens(*(x[:, order] for x in tokens))
    found = forward()(params, shuffled, jnp.tile(order[None], (3, 1)))
    np.testing.assert_allclose(found, forward()(params, tokens)[:, order], rtol=1e-4, atol=1e-5)
    assert np.abs(forward()(params, shuffled) - found).max() > 0.1


def test_dropout_is_on_exactly_when_there_is_a_random_stream(params, tokens):
    model = forward("hidden_states", attention_dropout=0.0)
    noisy, again, other = (model(params, tokens, rng=jax.random.key(seed))[-1] for seed in (3, 3, 4))
    assert np.abs(noisy - forward()(params, tokens)).max() > 0.1
    np.testing.assert_array_equal(again, noisy)
    assert np.abs(other - noisy).max() > 0.1


def test_attention_dropout_acts_alone(params, tokens):
    noisy = forward(dropout=0.0, attention_dropout=0.5)(params, tokens, rng=jax.random.key(3))
    assert np.abs(noisy - forward()(params, tokens)).max() > 0.1


def test_a_rate_of_0_is_no_dropout(params, tokens):
    still = forward(dropout=0.0, attention_dropout=0.0)(params, tokens, rng=jax.random.key(3))
    np.testing.assert_array_equal(still, forward()(params, tokens))


@pytest.mark.parametrize(("platform", "expected"), [("cpu", "float32"), ("gpu", "bfloat16"), ("tpu", "bfloat16")])
def test_the_automatic_compute_type_is_bfloat16_on_accelerators(platform, expected, monkeypatch, params, tokens):
    monkeypatch.setattr("dense_jax.models.transformer.platform", lambda: platform)
    model = Bert(replace(SMALL, attention=Attention.XLA))
    found = jax.eval_shape(lambda: apply_module(model, params, tokens))
    assert found.dtype.name == expected
    assert Dtype.FLOAT64.on(platform) is Dtype.FLOAT64


def test_bfloat16_follows_float32_and_keeps_float32_parameters(params, tokens):
    found = forward(dtype=Dtype.BFLOAT16)(params, tokens)
    assert found.dtype == jnp.bfloat16
    # bfloat16 keeps 8 bits; two layers with attention far from uniform
    assert np.corrcoef(found.astype(np.float32).ravel(), forward()(params, tokens).ravel())[0, 1] > 0.995
    start = functools.partial(init_params, Bert(replace(SMALL, dtype=Dtype.BFLOAT16)))
    assert {x.dtype for x in jax.tree.leaves(jax.eval_shape(start, jax.random.key(0), tokens))} == {np.dtype("float32")}


def test_tokens_outside_the_vocabulary_become_not_a_number(params, tokens):
    assert np.isnan(forward()(params, tokens._replace(ids=tokens.ids + 50))).any()


# Parts


def test_layer_normalisation_of_bfloat16_has_float32_statistics():
    norm = layer_norm(replace(SMALL, dtype=Dtype.BFLOAT16))
    row = jnp.tile(jnp.array([1.0, 3.0], jnp.bfloat16), 512)[None]  # mean 2, deviation 1; a bfloat16 sum stops at 512
    found = apply_module(norm, {"scale": jnp.ones(1024), "bias": jnp.zeros(1024)}, row)
    np.testing.assert_array_equal(found.astype(np.float32)[0, :4], [-1, 1, -1, 1])


def test_gelu_is_x_times_the_normal_distribution_function():
    x = np.linspace(-4, 4, 9, dtype=np.float32)
    expected = [v * 0.5 * (1 + math.erf(v / math.sqrt(2))) for v in x.tolist()]
    np.testing.assert_allclose(gelu(jnp.asarray(x), Gelu.ERF), expected, rtol=1e-6, atol=1e-6)
    tanh = [0.5 * v * (1 + math.tanh(math.sqrt(2 / math.pi) * (v + 0.044715 * v**3))) for v in x.tolist()]
    np.testing.assert_allclose(gelu(jnp.asarray(x), Gelu.TANH), tanh, rtol=1e-6, atol=1e-6)


def test_dropout_removes_its_share_and_keeps_the_mean():
    x = jnp.ones((1000, 101))  # an odd width: two draws come from each random word
    found = np.asarray(dropout(x, 0.25, jax.random.key(0)))
    assert abs((found == 0).mean() - 0.25) < 0.005  # 3.7 standard deviations of 101,000 draws
    np.testing.assert_allclose(found[found > 0], 4 / 3, rtol=1e-6)
    np.testing.assert_array_equal(dropout(x, 0.25, None), x)
