"""MVR's losses against the paper's equations, and what must hold of them."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dense_jax.losses.contrastive import contrastive_loss
from dense_jax.losses.multi_view import annealed_temperature, max_view_scores, mvr_loss, view_collapse_metrics
from dense_jax.losses.similarity import NegativeMask, TextIds

GOLDEN = np.load(Path(__file__).parent / "golden" / "condenser" / "mvr_loss.npz")
OUTPUT = "output/tau1.0_lambda1.0/"


def random(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def test_losses_and_gradients_are_those_of_the_equations(x64):
    queries, passages, own = (jnp.asarray(GOLDEN[f"input/{name}"]) for name in ("q", "d", "target"))

    def total(queries, passages):
        found = mvr_loss(queries, passages, temperature=1.0, positives=own)
        parts = jnp.mean(found.contrastive.loss), jnp.mean(found.local)
        return sum(parts), parts

    (loss, parts), gradients = jax.jit(jax.value_and_grad(total, argnums=(0, 1), has_aux=True))(queries, passages)
    for name, value in zip(("total", "global", "local", "grad_q", "grad_d"), (loss, *parts, *gradients), strict=True):
        np.testing.assert_allclose(value, GOLDEN[OUTPUT + name], rtol=1e-9, atol=1e-12)


def test_a_passage_counts_by_its_best_view(x64):
    best = max_view_scores(jnp.asarray(GOLDEN["input/q"]), jnp.asarray(GOLDEN["input/d"]))
    np.testing.assert_allclose(best.scores, GOLDEN["output/score"], rtol=1e-9)
    np.testing.assert_array_equal(best.views, GOLDEN["output/argmax_viewer"])


def test_the_temperature_falls_from_epoch_to_epoch_to_its_floor(x64):
    found = [annealed_temperature(epoch, rate=0.1, floor=0.3) for epoch in range(40)]
    np.testing.assert_allclose(found, GOLDEN["output/tau_schedule_alpha0.1"], rtol=1e-9)


def test_with_one_view_it_is_the_usual_contrast_and_nothing_local(x64):
    queries, passages = random(4, 8), random(6, 1, 8, seed=1)
    found = mvr_loss(queries, passages, temperature=0.5)
    plain = contrastive_loss(queries, passages[:, 0], temperature=0.5)
    np.testing.assert_allclose(found.contrastive.loss, plain.loss, rtol=1e-12)
    np.testing.assert_allclose(found.local, 0, atol=1e-12)


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [0.3, 1.0])
def test_the_local_loss_lies_between_nothing_and_the_log_of_the_views(temperature, x64):
    found = mvr_loss(random(50, 8), random(50, 5, 8, seed=1), temperature=temperature)
    assert (found.local >= 0).all()
    assert (found.local <= np.log(5) + 1e-12).all()


def test_of_equal_views_one_has_the_gradient(x64):
    passages = jnp.ones((1, 3, 2))
    gradient = jax.jit(jax.grad(lambda p: max_view_scores(jnp.ones((1, 2)), p).scores[0, 0]))(passages)
    assert gradient[0].tolist() == [[1, 1], [0, 0], [0, 0]]


@pytest.mark.slow
def test_equal_views_are_driven_apart_by_the_local_loss(x64):
    gradient = jax.jit(jax.grad(lambda p: mvr_loss(jnp.ones((1, 2)), p, temperature=1.0).local[0]))(jnp.ones((1, 3, 2)))
    np.testing.assert_allclose(gradient[0, :, 0], [1 / 3 - 1, 1 / 3, 1 / 3])


@pytest.mark.slow
def test_what_is_hidden_is_no_negative(x64):
    queries, passages = random(2, 8), random(3, 4, 8, seed=1)
    hidden = NegativeMask(TextIds(jnp.array([[0], [1]])), TextIds(jnp.array([[0], [1], [-1]])))
    found = mvr_loss(queries, passages, temperature=1.0, negative_mask=hidden)
    without = mvr_loss(queries, passages[:2], temperature=1.0)
    np.testing.assert_allclose(found.contrastive.loss, without.contrastive.loss, rtol=1e-12)


@pytest.mark.slow
def test_views_that_win_alike_have_a_perplexity_of_their_number(x64):
    own, queries = jnp.broadcast_to(jnp.eye(4), (8, 4, 4)), jnp.tile(jnp.eye(4), (2, 1))
    assert view_collapse_metrics(queries, own)["view_perplexity"] == pytest.approx(4)
    assert view_collapse_metrics(queries[:1].repeat(8, 0), own)["view_perplexity"] == pytest.approx(1)


@pytest.mark.slow
def test_local_variation_is_how_far_the_best_view_stands_out(x64):
    own = jnp.array([[[5.0, 0.0], [0.0, 2.0], [3.0, 4.0]]])
    found = view_collapse_metrics(jnp.array([[7.0, 0.0]]), own)
    assert found["local_variation"] == pytest.approx(1 - (0 + 0.6) / 2)
    assert view_collapse_metrics(jnp.ones((1, 2)), jnp.ones((1, 3, 2)))["local_variation"] == pytest.approx(0)
    assert view_collapse_metrics(jnp.ones((1, 2)), jnp.ones((1, 1, 2)))["local_variation"] == 0


@pytest.mark.slow
def test_each_query_may_have_a_temperature_of_its_own(x64):
    queries, passages, both = random(2, 8), random(2, 4, 8, seed=1), jnp.array([1.0, 0.3])
    found = mvr_loss(queries, passages, temperature=both)
    for i, temperature in enumerate(both):
        alone = mvr_loss(queries, passages, temperature=float(temperature))
        np.testing.assert_allclose(found.contrastive.loss[i], alone.contrastive.loss[i], rtol=1e-12)
        np.testing.assert_allclose(found.local[i], alone.local[i], rtol=1e-12)
