"""ORQA's losses and its span scorer against reference numbers, and what must hold of them."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from dense_jax.losses import spans as maths
from dense_jax.losses.similarity import MASKED_SCORE
from dense_jax.losses.spans import best_span, candidate_spans, gold_spans, joint_scores, marginal_loss, valid_spans
from dense_jax.models.heads import SpanScorer
from dense_jax.models.layers import apply_module, init_params

FOLDER = Path(__file__).parent / "golden" / "realm"
GOLDEN, SCORER = dict(np.load(FOLDER / "orqa_normal.npz")), dict(np.load(FOLDER / "orqa_span_scorer.npz"))
close = {"rtol": 1e-9, "atol": 1e-12}
orqa_loss = jax.jit(maths.orqa_loss)  # one compilation instead of one an operation


def random(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def with_gradients(loss, *inputs):
    return jax.jit(jax.value_and_grad(loss, tuple(range(len(inputs)))))(*inputs)


def reference():
    """Candidates, which are valid and which right, of the golden question, with an axis for the batch."""
    block = jnp.asarray(GOLDEN["block_mask"] == 1)
    candidates = candidate_spans(block.shape[1], int(GOLDEN["max_span_width"]))
    gold = gold_spans(candidates, GOLDEN["gold_starts"], GOLDEN["gold_ends"])
    return candidates, valid_spans(candidates, block)[None], jnp.asarray(gold)[None]


def reference_answers(blocks, spans):
    _, valid, gold = reference()
    return orqa_loss(blocks, jnp.asarray(GOLDEN["retriever_correct"])[None], spans, valid=valid, gold=gold)


def reference_scores():
    return jnp.asarray(GOLDEN["retriever_logits"])[None], jnp.asarray(GOLDEN["span_logits"])[None]


def test_losses_and_gradients_are_the_references(x64):
    found = reference_answers(*reference_scores())
    for part, name in ((found.early, "retriever_loss"), (found.full, "reader_loss"), (found.losses, "loss")):
        np.testing.assert_allclose(part, [GOLDEN[name]], **close)
    _, gradients = with_gradients(lambda *scores: reference_answers(*scores).losses.sum(), *reference_scores())
    np.testing.assert_allclose(gradients[0][0], GOLDEN["grad_retriever_logits"], **close)
    np.testing.assert_allclose(gradients[1][0], GOLDEN["grad_span_logits"], **close)


def test_candidates_and_their_scores_are_the_references(x64):
    candidates, valid, gold = reference()
    np.testing.assert_array_equal(candidates.starts, GOLDEN["starts"])
    np.testing.assert_array_equal(candidates.ends, GOLDEN["ends"])
    np.testing.assert_array_equal(valid[0], GOLDEN["candidate_mask"])
    np.testing.assert_array_equal(gold[0], GOLDEN["reader_correct"])
    joint = joint_scores(*reference_scores(), valid)
    np.testing.assert_allclose(joint[0], GOLDEN["reader_logits"], **close)
    block, span = best_span(joint)
    assert (int(block[0]), int(span[0])) == (GOLDEN["predicted_block"], GOLDEN["predicted_candidate"])
    assert bool(reference_answers(*reference_scores()).correct[0]) == GOLDEN["exact_match"]


def test_the_full_enumeration_is_the_references():
    candidates = candidate_spans(320, 10)
    np.testing.assert_array_equal(candidates.starts, SCORER["full_starts"])
    np.testing.assert_array_equal(candidates.ends, SCORER["full_ends"])


def test_no_candidate_is_wider_than_the_text():
    candidates = candidate_spans(3, 10)
    assert len(candidates.starts) == 6
    assert candidates.ends.max() == 2


def test_answers_wider_than_all_candidates_and_padding_are_none_of_them():
    candidates = candidate_spans(8, 3)
    gold = gold_spans(candidates, np.array([[1, 4, -1], [0, -1, -1]]), np.array([[3, 7, -1], [7, -1, -1]]))
    assert gold.sum(-1).tolist() == [1, 0]
    assert (candidates.starts[gold[0]], candidates.ends[gold[0]]) == (1, 3)


def test_both_ends_must_be_of_the_block_and_of_the_same_answer():
    candidates = candidate_spans(4, 4)
    valid = valid_spans(candidates, jnp.array([False, True, False, True]))
    found = [(int(a), int(b)) for a, b in zip(candidates.starts[valid], candidates.ends[valid], strict=True)]
    assert found == [(1, 1), (3, 3), (1, 3)]  # what lies between is not asked about
    gold = gold_spans(candidates, np.array([0, 2]), np.array([1, 3]))
    assert gold.sum() == 2  # from 0 to 3 is neither


def test_without_a_right_candidate_there_is_no_loss_and_no_gradient():
    def loss(scores):
        return marginal_loss(scores, jnp.zeros((2, 3), bool)).sum()

    found, (gradient,) = with_gradients(loss, jnp.array([[300.0, -200.0, MASKED_SCORE], [0.0, 1.0, 2.0]]))
    assert found == 0
    assert (gradient == 0).all()


def test_where_the_spans_are_wrong_the_early_loss_is_left(x64):
    blocks, spans = random(2, 5), random(2, 2, 6)
    holds = jnp.array([[False, False, True, False, False]] * 2)
    gold = jnp.zeros((2, 2, 6), bool).at[1, 0, 3].set(True)
    found = orqa_loss(blocks, holds, spans, valid=jnp.ones((2, 2, 6), bool), gold=gold)
    assert (found.early > 0).all()
    assert found.full[0] == 0 < found.full[1]


def test_the_gradient_is_the_softmax_less_that_over_right_candidates(x64):
    scores, right = random(3, 5), jnp.asarray(np.random.default_rng(1).uniform(size=(3, 5)) < 0.5).at[:, 0].set(True)
    _, (gradient,) = with_gradients(lambda scores: marginal_loss(scores, right).sum(), scores)
    among = jax.nn.softmax(jnp.where(right, scores, -jnp.inf), axis=1)
    np.testing.assert_allclose(gradient, jax.nn.softmax(scores, axis=1) - among, atol=1e-12)


def test_if_all_candidates_are_right_nothing_is_left_to_learn(x64):
    np.testing.assert_allclose(marginal_loss(random(2, 4), jnp.ones((2, 4), bool)), 0, atol=1e-12)


def test_what_is_added_to_all_blocks_changes_nothing(x64):
    blocks, spans = reference_scores()
    np.testing.assert_allclose(
        reference_answers(blocks + 300, spans).losses, reference_answers(blocks, spans).losses, rtol=1e-9
    )


def test_the_full_loss_teaches_the_scores_of_the_blocks_that_were_read(x64):
    blocks, spans = reference_scores()
    _, (gradient,) = with_gradients(lambda blocks: reference_answers(blocks, spans).full.sum(), blocks)
    assert (gradient[:, :3] != 0).all()
    assert (gradient[:, 3:] == 0).all()


def test_a_block_that_is_not_there_changes_nothing(x64):
    blocks, spans, holds = random(2, 3), random(2, 2, 6), jnp.array([[True, False, True]] * 2)
    valid, gold = jnp.ones((2, 2, 6), bool), jnp.zeros((2, 2, 6), bool).at[:, 0, 3].set(True)
    absent = jnp.full((2, 1), MASKED_SCORE)
    more = orqa_loss(
        jnp.concatenate([blocks[:, :2], absent], axis=1),
        jnp.concatenate([holds[:, :2], absent > 0], axis=1),
        jnp.concatenate([spans, random(2, 1, 6, seed=1)], axis=1),
        valid=jnp.concatenate([valid, valid[:, :1]], axis=1),
        gold=jnp.concatenate([gold, gold[:, 1:]], axis=1),
    )
    alone = orqa_loss(blocks[:, :2], holds[:, :2], spans, valid=valid, gold=gold)
    np.testing.assert_allclose(more.losses, alone.losses, rtol=1e-12)


def test_scores_in_the_hundreds_stay_finite_in_float32():
    blocks, spans = 300 * random(2, 4).astype(jnp.float32), 300 * random(2, 2, 6).astype(jnp.float32)
    right = jnp.zeros((2, 2, 6), bool).at[:, 1, 2].set(True)

    def loss(blocks, spans):
        return orqa_loss(blocks, right[:, :, 2].repeat(2, 1), spans, valid=~right, gold=right).losses.sum()

    found, gradients = with_gradients(loss, blocks, spans)
    assert np.isfinite(found)
    assert all(np.isfinite(gradient).all() for gradient in gradients)


def test_the_span_scorer_is_the_references(x64):
    array = {name: jnp.asarray(x) for name, x in SCORER.items()}
    params = {
        "dense": {"kernel": array["kernel1"], "bias": array["bias1"]},
        "norm": {"scale": array["ln_gamma"], "bias": array["ln_beta"]},
        "score": {"kernel": array["kernel2"], "bias": array["bias2"]},
    }
    candidates = candidate_spans(SCORER["hidden"].shape[1], int(SCORER["max_span_width"]))
    np.testing.assert_array_equal(candidates.starts, SCORER["starts"])
    np.testing.assert_array_equal(candidates.ends, SCORER["ends"])
    found = apply_module(SpanScorer(width=6), params, array["hidden"], *candidates)
    np.testing.assert_allclose(found, SCORER["span_logits"], rtol=1e-9)


def test_fresh_kernels_of_the_span_scorer_are_truncated_normal():
    params = init_params(SpanScorer(), jax.random.key(0), jnp.zeros((4, 64)), *candidate_spans(4, 2))
    kernel = params["dense"]["kernel"]
    assert kernel.shape == (64, 512)
    assert 0.039 < jnp.abs(kernel).max() <= 0.04  # two deviations
    assert 0.016 < kernel.std() < 0.019
    assert 0 < jnp.abs(params["score"]["kernel"]).max() <= 0.04


def test_the_span_scorer_computes_in_float32():
    states = random(2, 3, 4, 8).astype(jnp.bfloat16)  # of any number of blocks
    candidates = candidate_spans(4, 2)
    scorer = SpanScorer(width=3)
    found = apply_module(scorer, init_params(scorer, jax.random.key(0), states, *candidates), states, *candidates)
    assert (found.shape, found.dtype) == ((2, 3, 7), jnp.float32)
