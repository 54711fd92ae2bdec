"""The softmax over a queue of keys, and label smoothing."""

import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from dense_jax.config import MeshConfig
from dense_jax.losses.contrastive import contrastive_loss, queue_softmax
from dense_jax.losses.similarity import NegativeMask, TextIds
from dense_jax.mesh import make_mesh

QUEUE = jnp.asarray(np.random.default_rng(2).normal(size=(3, 4, 6)), jnp.float32)
VIEWS = [jnp.asarray(np.random.default_rng(seed).normal(size=(4, 6)), jnp.float32) for seed in (3, 4)]


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_queue_softmax_is_a_cross_entropy_over_the_own_key_and_the_queue(smoothing):
    queries, keys = VIEWS
    result = queue_softmax(queries, keys, QUEUE, filled=jnp.asarray(3), temperature=0.5, smoothing=smoothing)
    for i in range(4):
        scores = 2 * jnp.concatenate([keys[i : i + 1], QUEUE.reshape(-1, 6)]) @ queries[i]
        target = (1 - smoothing) * (jnp.arange(13) == 0) + smoothing / 13
        assert result.loss[i] == pytest.approx(float(-jnp.sum(target * jax.nn.log_softmax(scores))), rel=1e-5)
        assert result.correct[i] == (jnp.argmax(scores) == 0)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_what_the_queue_does_not_hold_yet_has_no_part_in_the_loss(smoothing):
    half = queue_softmax(*VIEWS, QUEUE, filled=jnp.asarray(2), smoothing=smoothing)
    alone = queue_softmax(*VIEWS, QUEUE[:2], filled=jnp.asarray(2), smoothing=smoothing)
    np.testing.assert_allclose(half.loss, alone.loss, rtol=1e-6)
    np.testing.assert_array_equal(half.correct, alone.correct)


def test_with_an_empty_queue_the_loss_and_its_gradient_are_zero():
    loss = lambda queries: queue_softmax(queries, VIEWS[1], QUEUE, filled=jnp.asarray(0)).loss.sum()  # noqa: E731
    value, gradient = jax.jit(jax.value_and_grad(loss))(VIEWS[0])
    assert value == 0
    assert not np.any(gradient)


def test_no_key_of_the_queue_leaves_its_device():
    mesh = make_mesh(MeshConfig(2, 4))
    by_row, by_batch = NamedSharding(mesh, P(("data", "fsdp"))), NamedSharding(mesh, P(None, ("data", "fsdp")))

    def step(queries, keys, queue):
        loss = lambda q: queue_softmax(q, keys, queue, filled=jnp.asarray(9)).loss.mean()  # noqa: E731
        return jax.jit(jax.value_and_grad(loss))(queries), jax.lax.dynamic_update_index_in_dim(queue, keys, 3, axis=0)

    compiled = jax.jit(step, in_shardings=(by_row, by_row, by_batch), out_shardings=(None, by_batch)).lower(
        *[jax.ShapeDtypeStruct((16, 6), jnp.float32)] * 2, jax.ShapeDtypeStruct((64, 16, 6), jnp.float32)
    ).compile()  # fmt: skip
    moved = re.findall(r"= f32\[([\d,]*)\]\S* (?:all-gather|all-to-all|collective-permute)", compiled.as_text())
    assert moved  # the queries
    assert max(math.prod(map(int, shape.split(","))) for shape in moved) <= 16 * 6  # and what each of them got


@pytest.mark.parametrize("chunk", [0, 3])
def test_label_smoothing_is_shared_by_all_candidates_that_are_not_left_out(x64, chunk):
    rows = jnp.asarray(np.random.default_rng(5).normal(size=(6, 4)))
    itself = jnp.arange(6)
    marks = TextIds(itself[:, None])
    hidden = NegativeMask(marks, marks)
    result = contrastive_loss(rows, rows, positives=itself ^ 1, negative_mask=hidden, smoothing=0.2, chunk=chunk)
    scores = jnp.where(jnp.eye(6, dtype=bool), -jnp.inf, rows @ rows.T)
    target = 0.8 * jax.nn.one_hot(itself ^ 1, 6) + 0.2 / 5
    expected = -jnp.sum(jnp.where(jnp.eye(6, dtype=bool), 0, target * jax.nn.log_softmax(scores)), axis=1)
    np.testing.assert_allclose(result.loss, expected, rtol=1e-12)  # float64
