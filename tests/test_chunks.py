"""The gradient cache: the gradient of the whole batch, with less memory and the same noise in both passes.

CoCondenser in chunks is compared with its reference in test_condenser_golden.py.
"""

from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dense_jax.config import Config, MeshConfig
from dense_jax.errors import ConfigError
from dense_jax.mesh import batch_sharding, make_mesh
from dense_jax.models.bert import BertConfig
from dense_jax.models.encoder import Encoder
from dense_jax.models.layers import Dtype
from dense_jax.objectives.ict import ICT
from dense_jax.objectives.mlm import MLM
from dense_jax.train.gradient_cache import encode_in_chunks, loss_in_chunks
from dense_jax.train.loop import initial_state, make_program
from dense_jax.types import Tokens
from tests.toys import BagOfTokens, MeanEmbedding

BERT = BertConfig(
    layers=1, width=16, heads=2, feed_forward=16, vocab_size=30, positions=8,
    dropout=0.0, attention_dropout=0.0, dtype=Dtype.FLOAT64,
)  # fmt: skip
NOISY = replace(BERT, dropout=0.3, attention_dropout=0.3)
CARRY = {"step": jnp.zeros((), jnp.int32)}
CALL = {"rng": jax.random.key(3), "step": jnp.zeros((), jnp.int32)}
SUMS = {"rtol": 1e-12, "atol": 1e-12}  # float64, sums in another order


def ict(bert=BERT):
    return ICT(Encoder(bert), query_length=4, passage_length=8, temperature=2.0)


def tokens(*shape, seed=0):
    rng = np.random.default_rng(seed)
    real = np.arange(shape[-1]) < rng.integers(2, shape[-1] + 1, size=shape[:-1])[..., None]
    return Tokens(rng.integers(30, size=shape, dtype=np.int32), np.zeros(shape, np.int32), real)


def pairs(rows=8):
    return {"query": tokens(rows, 4), "passage": tokens(rows, 8, seed=1), "removed": np.arange(rows) % 2 == 0}


def masked(rows=8):
    """The rows have 0, 1 or 2 masked positions, so that a mean of the chunks' means would be another loss."""
    rng = np.random.default_rng(2)
    positions, labels = (rng.integers(n, size=(rows, 2), dtype=np.int32) for n in (8, 30))
    weights = np.float32(np.arange(2) < np.arange(rows)[:, None] % 3)
    return {"tokens": tokens(rows, 8), "positions": positions, "labels": labels, "weights": weights}


def gradient(loss, objective, batch):
    """Loss, metrics and gradient at random parameters."""
    rng, shapes = np.random.default_rng(5), jax.eval_shape(lambda: objective.init(jax.random.key(0)))
    params = jax.tree.map(lambda x: jnp.asarray(0.3 * rng.normal(size=x.shape)), shapes)
    batch = jax.tree.map(jnp.asarray, batch)
    (value, (metrics, _)), found = jax.jit(jax.value_and_grad(loss, has_aux=True))(params, batch)
    return value, metrics, found


def whole(objective, batch):
    return gradient(lambda params, batch: objective.loss(params, CARRY, batch, **CALL), objective, batch)


def in_chunks(objective, batch, chunk):
    return gradient(
        lambda params, batch: loss_in_chunks(
            objective, params, CARRY, batch, **CALL, chunks=len(jax.tree.leaves(batch)[0]) // chunk
        ),
        objective,
        batch,
    )


def assert_equal(found, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **SUMS), found, expected)


@pytest.mark.parametrize("chunk", [1, 2, 4, 8])
def test_without_noise_a_batch_is_the_same_in_chunks_of_any_size(x64, chunk):
    silent = BagOfTokens(noise=0.0)
    assert_equal(in_chunks(silent, pairs(), chunk), whole(silent, pairs()))


@pytest.mark.slow
def test_ict_without_dropout_is_the_same_in_chunks(x64):
    assert_equal(in_chunks(ict(), pairs(), chunk=2), whole(ict(), pairs()))


def loss_chunk_by_chunk(objective, params, batch, count):
    """The same in plain Python: nothing is recomputed, so the noise of both passes is one by construction."""
    keys, parts = jax.random.split(CALL["rng"], count), []
    for i in range(count):
        part = jax.tree.map(lambda x, i=i: x[i::count], batch)
        parts.append(objective.encode(params, {}, part, rng=keys[i]))
    encoded = jax.tree.map(lambda *xs: jnp.stack(xs, axis=1).reshape(-1, *xs[0].shape[1:]), *parts)
    return objective.combine(CARRY, encoded, batch, step=CALL["step"])


def assert_noise_is_repeated(method, batch):
    expected = gradient(lambda params, batch: loss_chunk_by_chunk(method, params, batch, count=2), method, batch)
    assert_equal(in_chunks(method, batch, chunk=4), expected)


def test_the_backward_pass_repeats_the_noise_of_the_forward_pass(x64):
    assert_noise_is_repeated(BagOfTokens(noise=1.0), pairs())


@pytest.mark.slow
def test_the_backward_pass_repeats_the_dropout_of_the_forward_pass(x64):
    assert_noise_is_repeated(MLM(Encoder(NOISY), passage_length=8, query_length=4), masked())


@dataclass
class SumsOfChunks(BagOfTokens):
    """What no method may do, to show which rows met: each row gets the sum of its chunk, and the chunk's noise."""

    def encode(self, params, carry, batch, *, rng):
        return jnp.broadcast_to(batch["x"].sum(), batch["x"].shape), jax.random.uniform(rng, batch["x"].shape)


def test_each_chunk_takes_every_nth_row_and_has_noise_of_its_own():
    """Six rows in chunks of two: rows 0 and 3, 1 and 4, 2 and 5."""
    batch = {"x": 10 ** jnp.arange(6)}
    sums, noise = encode_in_chunks(SumsOfChunks(), {}, {}, batch, rng=jax.random.key(0), chunks=3)
    assert sums.tolist() == [1001, 10010, 100100, 1001, 10010, 100100]
    assert len(set(noise.tolist())) == 6


def test_in_chunks_eight_devices_give_the_gradient_of_one(x64):
    method, batch = BagOfTokens(noise=1.0), pairs(rows=32)
    sharding = batch_sharding(make_mesh(MeshConfig()))
    assert_equal(in_chunks(method, jax.device_put(batch, sharding), chunk=16), in_chunks(method, batch, chunk=16))


class Curved(MeanEmbedding):
    """The mean of tanh of embeddings: its gradient needs what stood at each token."""

    def apply(self, params, tokens, *, rng=None):
        return jnp.tanh(params["embedding"][tokens.ids]).mean(1)


@pytest.mark.slow
def test_the_memory_of_a_step_shrinks_with_the_chunk():
    method = BagOfTokens(encoder=Curved(width=64))
    params = jax.eval_shape(lambda: method.init(jax.random.key(0)))
    long = {side: tokens(64, 200) for side in ("query", "passage")}
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), long)

    def temporary(chunk):
        """Bytes beside the inputs and outputs of a gradient."""

        def loss(params, batch):
            return loss_in_chunks(method, params, CARRY, batch, **CALL, chunks=len(batch["query"].ids) // chunk)[0]

        return jax.jit(jax.grad(loss)).lower(params, batch).compile().memory_analysis().temp_size_in_bytes

    sizes = [temporary(chunk) for chunk in (64, 16, 4)]
    assert sizes[0] > 2 * sizes[1] > 4 * sizes[2], sizes


@pytest.mark.slow
def test_a_step_in_chunks_logs_what_a_step_without_logs():
    batch = jax.device_put(pairs(rows=16), batch_sharding(make_mesh(MeshConfig())))
    logged = []
    for chunk in (0, 8):
        program = make_program(Config(BagOfTokens(noise=0.0), steps=1, batch=16, chunk=chunk))
        logged.append({name: float(x) for name, x in program.step(initial_state(program), batch)[1].items()})
    assert logged[0]["tokens"] == sum(batch[side].mask.sum() for side in ("query", "passage"))
    assert logged[0] == pytest.approx(logged[1], rel=1e-5)  # float32 sums


def test_a_chunk_that_does_not_split_over_the_devices_is_refused():
    with pytest.raises(ConfigError, match=r"chunk=4 is not divisible by 8 data devices; use --chunk=8"):
        make_program(Config(BagOfTokens(), steps=1, batch=16, chunk=4))
