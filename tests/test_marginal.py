"""REALM's losses against reference numbers, and what must hold of them."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dense_jax.losses import marginal as maths
from dense_jax.losses.marginal import MarginalLikelihood, RealmLoss

GOLDEN = dict(np.load(Path(__file__).parent / "golden" / "realm" / "realm_normal.npz"))
MASK = GOLDEN["mlm_mask"].astype(float)
BOTH = pytest.mark.parametrize("marginal", MarginalLikelihood, ids=lambda marginal: marginal.value)
close = {"rtol": 1e-9, "atol": 1e-12}
realm_loss = jax.jit(maths.realm_loss, static_argnames="marginal")  # one compilation instead of one an operation
token_log_likelihoods = jax.jit(maths.token_log_likelihoods)


def random(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def likelihoods(*shape, seed=0):
    return jnp.asarray(np.log(np.random.default_rng(seed).uniform(0.01, 1, size=shape)))


def with_gradients(loss, *inputs):
    return jax.jit(jax.value_and_grad(loss, tuple(range(len(inputs)))))(*inputs)


def reference(marginal=MarginalLikelihood.SEQUENCE, **changes):
    """What the golden inputs come to, some of them changed."""
    given = GOLDEN | changes
    queries, documents, logits = (jnp.asarray(given[name]) for name in ("query_emb", "doc_emb", "mlm_logits"))
    scores = jnp.einsum("bd,bkd->bk", queries, documents)
    found = token_log_likelihoods(logits, jnp.asarray(given["mlm_targets"]))
    return realm_loss(scores, found, jnp.asarray(MASK), marginal=marginal)


@BOTH
def test_loss_and_gradients_are_the_references(marginal, x64):
    names = "query_emb", "doc_emb", "mlm_logits"

    def loss(*arrays):
        return reference(marginal, **dict(zip(names, arrays, strict=True))).loss

    found, gradients = with_gradients(loss, *(jnp.asarray(GOLDEN[name]) for name in names))
    np.testing.assert_allclose(found, GOLDEN[f"loss_{marginal.value}"], **close)
    for name, gradient in zip(("query", "doc", "logits"), gradients, strict=True):
        np.testing.assert_allclose(gradient, GOLDEN[f"grad_{name}_{marginal.value}"], **close)


def posteriors(found: RealmLoss):
    """p(z | x, y)."""
    return jax.nn.softmax(found.log_priors + found.log_likelihoods, axis=1)


@BOTH
def test_float32_is_near_the_reference(marginal):
    arrays = {name: jnp.asarray(x, jnp.float32) for name, x in GOLDEN.items() if x.dtype == np.float64}
    found = reference(marginal, **arrays)
    assert found.losses.dtype == jnp.float32
    np.testing.assert_allclose(found.loss, GOLDEN[f"loss_{marginal.value}"], rtol=1e-5)


def test_parts_are_the_references(x64):
    found = reference()
    np.testing.assert_allclose(found.log_priors, GOLDEN["log_prior"], **close)
    np.testing.assert_allclose(found.log_likelihoods, GOLDEN["log_p_y_given_zx"], **close)
    np.testing.assert_allclose(posteriors(found), GOLDEN["posterior_sequence"], **close)
    np.testing.assert_allclose(posteriors(found) - jnp.exp(found.log_priors), GOLDEN["r_z"], **close)
    np.testing.assert_allclose(found.losses, -GOLDEN["log_p_y_given_x"], **close)
    np.testing.assert_allclose(
        reference(MarginalLikelihood.TOKEN).losses, -(GOLDEN["marginal_log_prob_token"] * MASK).sum(1)
    )


@BOTH
def test_utility_is_the_references_whatever_the_loss(marginal, x64):
    found = reference(marginal)
    np.testing.assert_allclose(found.utility, GOLDEN["retrieval_utility_metric"], **close)
    utilities = found.log_likelihoods - found.log_likelihoods[:, :1]  # RU(z | x)
    np.testing.assert_allclose(utilities, GOLDEN["retrieval_utility_per_doc"], **close)


def test_likelihoods_of_tokens_are_the_references(x64):
    found = token_log_likelihoods(jnp.asarray(GOLDEN["mlm_logits"]), jnp.asarray(GOLDEN["mlm_targets"]))
    np.testing.assert_allclose(found, GOLDEN["gold_log_prob"], **close)


def test_of_one_token_both_losses_are_the_same(x64):
    scores, tokens, weights = random(4, 3), likelihoods(4, 3, 5), jnp.asarray(np.eye(5)[[0, 4, 2, 2]])
    sequence, token = (realm_loss(scores, tokens, weights, marginal=marginal) for marginal in MarginalLikelihood)
    np.testing.assert_allclose(sequence.losses, token.losses, rtol=1e-12)
    np.testing.assert_array_equal(sequence.terms, token.terms)


def test_the_gradient_into_scores_is_the_posterior_less_the_prior(x64):
    tokens, weights = likelihoods(4, 3, 5), jnp.ones((4, 5))
    found = realm_loss(random(4, 3), tokens, weights)
    _, (gradient,) = with_gradients(lambda scores: -realm_loss(scores, tokens, weights).losses.sum(), random(4, 3))
    np.testing.assert_allclose(gradient, posteriors(found) - jnp.exp(found.log_priors), atol=1e-12)


@BOTH
def test_gradients_into_scores_sum_to_nothing_and_reach_every_document(marginal, x64):
    def loss(scores):
        return realm_loss(scores, likelihoods(4, 3, 5), jnp.ones((4, 5)), marginal=marginal).loss

    _, (gradient,) = with_gradients(loss, random(4, 3))
    np.testing.assert_allclose(gradient.sum(1), 0, atol=1e-12)
    assert (gradient != 0).all()


@BOTH
def test_what_is_added_to_all_scores_changes_nothing(marginal, x64):
    found, moved = (
        realm_loss(random(4, 3) + shift, likelihoods(4, 3, 5), jnp.ones((4, 5)), marginal=marginal)
        for shift in (0.0, 300.0)
    )
    np.testing.assert_allclose(found.losses, moved.losses, rtol=1e-12)


@BOTH
def test_absent_candidates_are_as_if_they_were_none(marginal, x64):
    scores, tokens, weights = random(4, 5), likelihoods(4, 5, 2), jnp.ones((4, 2))
    there = jnp.asarray([[True, True, False, True, False]] * 4)
    kept = jnp.array([0, 1, 3])

    def loss(scores, tokens):
        return realm_loss(scores, tokens, weights, is_valid=there, marginal=marginal).loss

    whole = realm_loss(scores, tokens, weights, is_valid=there, marginal=marginal)
    part = realm_loss(scores[:, kept], tokens[:, kept], weights, marginal=marginal)
    np.testing.assert_allclose(whole.losses, part.losses, rtol=1e-12)
    np.testing.assert_allclose(whole.utility, part.utility, rtol=1e-12)
    np.testing.assert_allclose(posteriors(whole)[:, kept], posteriors(part), rtol=1e-12)
    assert (posteriors(whole)[~there] == 0).all()
    assert (jnp.exp(whole.log_priors)[~there] == 0).all()
    for gradient in with_gradients(loss, scores, tokens)[1]:
        assert (gradient[~there] == 0).all()


@BOTH
def test_a_document_that_alone_explains_the_text_is_learned_as_if_it_were_the_label(marginal, x64):
    only = jnp.where(jnp.arange(4) == 2, 0.0, -1000.0)[None, :, None].repeat(3, 2)

    def loss(scores):
        return realm_loss(scores, only, jnp.ones((1, 3)), marginal=marginal).losses.sum()

    _, (gradient,) = with_gradients(loss, random(1, 4))
    _, (supervised,) = with_gradients(lambda scores: -jax.nn.log_softmax(scores, axis=1)[0, 2], random(1, 4))
    terms = 1 if marginal is MarginalLikelihood.SEQUENCE else 3
    np.testing.assert_allclose(gradient, terms * supervised, atol=1e-12)


@BOTH
def test_with_one_candidate_it_is_the_likelihood_under_it(marginal, x64):
    tokens = likelihoods(2, 1, 3)
    found = realm_loss(random(2, 1), tokens, jnp.ones((2, 3)), marginal=marginal)
    np.testing.assert_allclose(found.losses, -tokens.sum((1, 2)), rtol=1e-12)
    assert found.null_mass == 1
    assert found.utility == 0


@BOTH
def test_a_batch_without_masked_tokens_is_nothing_and_teaches_nothing(marginal):
    def loss(scores, logits):
        tokens = token_log_likelihoods(logits, jnp.zeros((2, 4), int))
        return realm_loss(scores, tokens, jnp.zeros((2, 4)), marginal=marginal).loss

    found, gradients = with_gradients(loss, random(2, 3), random(2, 3, 4, 7))
    assert found == 0
    assert all((gradient == 0).all() for gradient in gradients)
    found = realm_loss(random(2, 3), likelihoods(2, 3, 4), jnp.zeros((2, 4)), marginal=marginal)
    assert found.utility == found.null_mass == 0
    np.testing.assert_allclose(posteriors(found), jnp.exp(found.log_priors), rtol=1e-6)


@BOTH
def test_an_example_without_masked_tokens_is_no_part_of_the_means(marginal, x64):
    scores, tokens, weights = random(3, 4), likelihoods(3, 4, 2), jnp.array([[1.0, 1.0], [0.0, 0.0], [0.0, 1.0]])
    rest = jnp.array([0, 2])
    whole = realm_loss(scores, tokens, weights, marginal=marginal)
    without = realm_loss(scores[rest], tokens[rest], weights[rest], marginal=marginal)
    for name in ("loss", "utility", "null_mass"):
        np.testing.assert_allclose(getattr(whole, name), getattr(without, name), rtol=1e-12)


@BOTH
def test_rows_may_be_computed_apart(marginal, x64):
    scores, tokens, weights = random(4, 3), likelihoods(4, 3, 5), jnp.asarray(np.tri(4, 5, -1))
    whole = realm_loss(scores, tokens, weights, marginal=marginal)
    parts = [realm_loss(scores[i], tokens[i], weights[i], marginal=marginal) for i in (slice(0, 1), slice(1, 4))]
    together = jax.tree.map(lambda *x: jnp.concatenate(x), *parts)
    np.testing.assert_allclose(together.loss, whole.loss, rtol=1e-12)
    np.testing.assert_allclose(together.utility, whole.utility, rtol=1e-12)


@BOTH
def test_scores_in_the_hundreds_and_hopeless_tokens_stay_finite_in_float32(marginal):
    scores, there = jnp.array([[-400.0, 900.0, 300.0]]), jnp.array([[True, True, False]])
    logits = 500 * random(1, 3, 6, 9).astype(jnp.float32)

    def loss(scores, logits):
        tokens = token_log_likelihoods(logits, jnp.zeros((1, 6), int))
        return realm_loss(scores, tokens, jnp.ones((1, 6)), is_valid=there, marginal=marginal).loss

    found, gradients = with_gradients(loss, scores, logits)
    assert np.isfinite(found)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_the_null_mass_is_its_prior(x64):
    found = realm_loss(jnp.log(jnp.array([[3.0, 1.0], [1.0, 1.0]])), likelihoods(2, 2, 1), jnp.ones((2, 1)))
    np.testing.assert_allclose(found.null_mass, (3 / 4 + 1 / 2) / 2, rtol=1e-6)
