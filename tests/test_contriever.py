"""Contriever's views, queue, momentum and packing; its numbers are in test_contriever_golden.py."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dense_jax.config import LoaderConfig, MeshConfig, OptimizerConfig
from dense_jax.data.masking import Noise
from dense_jax.data.pipeline import Examples, host_batches
from dense_jax.errors import ConfigError
from dense_jax.mesh import batch_sharding, make_mesh
from dense_jax.models.bert import BertConfig
from dense_jax.models.encoder import Encoder, Pooling
from dense_jax.models.layers import Dtype
from dense_jax.objectives.contriever import Contriever, Negatives
from dense_jax.train.gradient_cache import loss_in_chunks
from dense_jax.train.optimizer import make_optimizer
from dense_jax.train.state import first_state
from dense_jax.train.step import count_cut_tokens
from dense_jax.types import Layout, PackedTokens, Passage, Similarity
from tests.programs import plain_step
from tests.toys import VOCABULARY, MemoryStore

BERT = BertConfig(
    layers=1, width=8, heads=2, feed_forward=16, vocab_size=VOCABULARY.size, positions=32,
    dropout=0.0, attention_dropout=0.0,
)  # fmt: skip
EXACT = {"rtol": 1e-12, "atol": 1e-12}  # float64 sums in another order
STEP = {"rng": jax.random.key(0), "step": jnp.zeros((), jnp.int32)}


def contriever(bert=BERT, pooling=Pooling.MEAN, **settings) -> Contriever:
    lengths = {"view_length": 12, "query_length": 12, "passage_length": 32}
    return Contriever(Encoder(bert, pooling=pooling), **({"queue": 16, "temperature": 1.0} | lengths | settings))


class Texts(MemoryStore):
    """Chunks of 20 random tokens under a title of two."""

    def __init__(self):
        super().__init__(passages=24)
        self.tokens = list(np.random.default_rng(0).integers(5, VOCABULARY.size, size=(24, 20)))

    def __getitem__(self, row):
        return dataclasses.replace(super().__getitem__(row), title=np.array([7, 8]))


def batch_of(method: Contriever, size=8, start=0):
    examples = Examples(Texts(), method, VOCABULARY, LoaderConfig(), seed=0, length=size * 9, batch=size)
    batch = next(host_batches(examples, size, start=start)).inputs
    return method.collate(batch, np.arange(size))


def start(method: Contriever, optimizer=None, batch=8):
    settings = {"objective": method, "optimizer": optimizer or optax.sgd(0.1), "batch": batch, "seed": 0}
    return jax.jit(lambda: first_state(method.init(jax.random.key(0)), **settings))()


def step(method: Contriever, state, batch, optimizer=None):
    return plain_step(method, optimizer or optax.sgd(0.1), state.params)(state, batch)


# The two views


def test_the_views_are_drawn_apart_from_each_other_and_from_title_and_text():
    found = contriever(noise=Noise.NONE, crop_min=1.0, crop_max=1.0, view_length=32).example(
        Texts()[0], VOCABULARY, np.random.default_rng(0)
    )
    whole = [VOCABULARY.cls, 7, 8, *Texts()[0].tokens.tolist(), VOCABULARY.sep]
    assert found["query"].ids[found["query"].mask].tolist() == whole
    views = [contriever().example(Texts()[0], VOCABULARY, np.random.default_rng(i)) for i in range(9)]
    assert any(v["query"].mask.sum() != v["key"].mask.sum() for v in views)


def test_without_titles_the_text_alone_is_cropped():
    method = contriever(layout=Layout.BODY, noise=Noise.NONE, crop_min=1.0, crop_max=1.0, view_length=32)
    found = method.example(Texts()[0], VOCABULARY, np.random.default_rng(0))["key"]
    assert found.ids[found.mask][1:-1].tolist() == Texts()[0].tokens.tolist()


def test_a_text_without_tokens_gives_no_example():
    empty = Passage(0, np.zeros(0, int), np.zeros(0, int), np.zeros(1, np.int32))
    assert contriever().example(empty, VOCABULARY, np.random.default_rng(0)) is None


# Momentum contrast


@pytest.mark.slow
def test_the_momentum_encoder_moves_towards_the_encoder_before_the_encoder_moves():
    method = contriever(momentum=0.75, queue_warmup=False)
    state = start(method)
    moved = jax.tree.map(lambda x: x + 1, state.carry["encoder"])
    state = dataclasses.replace(state, carry={**state.carry, "encoder": moved})
    after, _ = step(method, state, batch_of(method))
    expected = jax.tree.map(lambda k, q: 0.75 * k + 0.25 * q, moved, state.params["encoder"])
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), after.carry["encoder"], expected)
    assert not np.array_equal(after.params["encoder"]["bert"]["word"]["embedding"],
                              state.params["encoder"]["bert"]["word"]["embedding"])  # fmt: skip


@pytest.mark.slow
def test_neither_gradient_nor_weight_decay_reaches_the_momentum_encoder():
    """Without momentum to lose it stays as it is, however strong the decay."""
    method = contriever(momentum=1.0)
    optimizer = make_optimizer(OptimizerConfig(learning_rate=0.1, weight_decay=0.9, decay_all=True), steps=9)
    state = start(method, optimizer)
    after = state
    for _ in range(2):  # the learning rate of the first is 0 with a warm-up; there is none
        after, _ = step(method, after, batch_of(method), optimizer)
    jax.tree.map(np.testing.assert_array_equal, after.carry["encoder"], state.carry["encoder"])
    norm = lambda s: float(optax.tree.norm(s.params))  # noqa: E731
    assert norm(after) < 0.95 * norm(state)


@pytest.mark.slow
def test_the_keys_of_each_batch_take_the_place_of_the_oldest():
    method = contriever(queue=16)
    state, noise = start(method), start(method).carry["queue"]
    queues = []
    for i in range(3):
        state, _ = step(method, state, batch_of(method, start=8 * i))
        queues.append(np.asarray(state.carry["queue"]))
    changed = [[not np.array_equal(a, b) for a, b in zip(old, new, strict=True)]
               for old, new in zip([noise, *queues], queues, strict=False)]  # fmt: skip
    assert changed == [[True, False], [False, True], [True, False]]
    assert (state.carry["next"], state.carry["filled"]) == (1, 2)


@pytest.mark.slow
def test_with_warm_up_only_real_keys_are_negatives():
    method = contriever(queue=16)
    state, first = step(method, start(method), batch_of(method))
    assert first["loss"] == 0  # nothing to be told from
    poisoned = {**state.carry, "queue": state.carry["queue"].at[1].set(1e6)}
    for carry in (state.carry, poisoned):  # what is not filled has no part
        _, second = step(method, dataclasses.replace(state, carry=carry), batch_of(method, start=8))
        assert 0.5 < second["loss"] < 5


@pytest.mark.slow
def test_without_warm_up_the_queue_starts_as_noise_of_length_1():
    method = contriever(queue=16, queue_warmup=False)
    state = start(method)
    np.testing.assert_allclose(np.linalg.norm(state.carry["queue"], axis=-1), 1, rtol=1e-5)
    _, metrics = step(method, state, batch_of(method))
    assert metrics["loss"] > 0


@pytest.mark.slow
def test_the_momentum_encoder_runs_without_dropout_unless_asked():
    dropping = dataclasses.replace(BERT, dropout=0.5)
    for asked in (False, True):
        method = contriever(dropping, key_dropout=asked)
        state = start(method)
        encode = functools.partial(method.encode, state.params, state.carry, batch_of(method))
        a, b = (encode(rng=jax.random.key(seed)) for seed in (1, 2))
        assert not np.array_equal(a.queries, b.queries)
        assert np.array_equal(a.keys, b.keys) is not asked


def test_a_queue_that_is_no_whole_number_of_batches_is_refused_with_the_nearest_that_are():
    with pytest.raises(ConfigError, match=r"objective\.queue=20 is not divisible by batch=8; "
                                          r"use --objective\.queue=16 or 24"):  # fmt: skip
        start(contriever(queue=20))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"crop_min": 0.6}, r"objective\.crop_min=0\.6 and objective\.crop_max=0\.5 must rise"),
        (
            {"both_directions": True},
            r"objective\.both_directions=True has no effect with negatives=moco; use --objective",
        ),
        ({"score_chunk": 8}, r"objective\.score_chunk=8 has no effect with negatives=moco"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        contriever(**settings)


# In-batch negatives


@pytest.mark.slow
def test_in_batch_negatives_carry_no_state_and_have_gradients_through_the_keys():
    method = contriever(negatives=Negatives.IN_BATCH)
    state, batch = start(method), batch_of(method)
    assert state.carry == {}

    def loss(params, stop):
        views = method.encode(params, {}, batch, rng=None)
        keys = jax.lax.stop_gradient(views.keys) if stop else views.keys
        return method.combine({}, views._replace(keys=keys), batch, step=STEP["step"])[0]

    whole, queries_alone = (optax.tree.norm(jax.grad(loss)(state.params, stop)) for stop in (False, True))
    assert abs(whole - queries_alone) > 0.01 * whole


# Packing


def in_float64(state):
    """Parameters and carry, for gradients that are to be compared."""
    widened = lambda x: x.astype(jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x  # noqa: E731
    return jax.tree.map(widened, (state.params, state.carry))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("negatives", "pooling"), [(Negatives.MOCO, Pooling.MEAN), *((Negatives.IN_BATCH, pooling) for pooling in Pooling)]
)
def test_packed_views_give_the_loss_and_gradient_of_padded_ones(x64, negatives, pooling):
    exact = dataclasses.replace(BERT, dtype=Dtype.FLOAT64)
    padded = contriever(exact, pooling, negatives=negatives, queue_warmup=False)
    packed = dataclasses.replace(padded, packing=2 / 3)
    gradients = []
    for method in (padded, packed):
        batch = batch_of(method)
        params, carry = in_float64(start(method))
        loss = lambda params: method.loss(params, carry, batch, **STEP)  # noqa: B023, E731
        (value, (metrics, _)), gradient = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
        gradients.append((value, gradient, metrics["accuracy"]))
    assert isinstance(batch["query"], PackedTokens)
    assert count_cut_tokens(batch)["cut"] == 0
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **EXACT), *gradients)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(4, 1), (2, 2)], ids=["4 data", "2 data x 2 fsdp"])
def test_packed_views_over_four_devices_equal_one_device(x64, shape):
    exact = dataclasses.replace(BERT, dtype=Dtype.FLOAT64)
    method = contriever(exact, packing=0.75, queue_warmup=False)
    (params, carry), batch = in_float64(start(method)), jax.tree.map(jnp.asarray, batch_of(method))
    mesh = make_mesh(MeshConfig(*shape), jax.devices()[:4])
    loss = jax.jit(jax.value_and_grad(lambda params, batch: method.loss(params, carry, batch, **STEP)[0]))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, **EXACT),
        loss(params, batch),
        loss(params, jax.device_put(batch, batch_sharding(mesh))),
    )


@pytest.mark.slow
def test_packed_views_in_chunks_give_the_gradient_of_the_whole_batch(x64):
    method = contriever(dataclasses.replace(BERT, dtype=Dtype.FLOAT64), packing=0.75, negatives=Negatives.IN_BATCH)
    (params, _), batch = in_float64(start(method)), jax.tree.map(jnp.asarray, batch_of(method))
    whole = jax.jit(jax.value_and_grad(lambda params: method.loss(params, {}, batch, **STEP)[0]))
    parts = jax.jit(jax.value_and_grad(lambda p: loss_in_chunks(method, p, {}, batch, **STEP, chunks=2)[0]))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, **EXACT), whole(params), parts(params))


def test_views_that_do_not_fill_whole_rows_are_refused():
    method = contriever(packing=0.1)
    with pytest.raises(ConfigError, match=r"objective\.packing=0\.1 puts 16 texts into a row .* do not divide the 8"):
        batch_of(method)


# What is watched, and what is handed on


@pytest.mark.slow
def test_the_diagnosis_tells_the_age_of_the_queue_and_how_far_the_encoders_are_apart():
    method = contriever(momentum=0.75)
    state = start(method)
    moved = jax.tree.map(lambda x: x + 1, state.carry["encoder"])
    signs = method.collapse_metrics(
        state.params, {**state.carry, "encoder": moved, "filled": jnp.asarray(2)}, batch_of(method)
    )
    assert signs["queue_age"] == 2
    count = sum(x.size for x in jax.tree.leaves(moved))
    assert signs["encoder_distance"] == pytest.approx(count**0.5, rel=1e-5)
    assert {"alignment", "uniformity", "mean_cosine", "rank_me", "score_min", "score_max"} < signs.keys()


@pytest.mark.slow
def test_each_side_is_normalised_as_asked_in_training_and_in_search():
    for queries, passages in ((False, False), (True, False), (True, True)):
        method = contriever(normalize_queries=queries, normalize_passages=passages)
        state = start(method)
        towers = method.towers(state.params)
        views = method.encode(state.params, state.carry, batch_of(method), rng=None)
        for side, vectors, tower in ((queries, views.queries, towers.query), (passages, views.keys, towers.passage)):
            assert tower.encoder.normalize is side
            assert np.allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5) is side
        assert towers.similarity is (Similarity.COSINE if queries and passages else Similarity.DOT)
