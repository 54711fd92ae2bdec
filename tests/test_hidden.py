"""Negative masks and contrastive directions, with all scores at once and in chunks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dense_jax.config import MeshConfig
from dense_jax.losses.contrastive import contrastive_loss, log_sum_exp_of_negatives
from dense_jax.losses.directions import Directions, EncodedTexts, directional_contrastive_loss
from dense_jax.losses.similarity import NegativeMask, TextIds, false_negative_thresholds
from dense_jax.mesh import batch_sharding, make_mesh

# Four queries; eight passages: the queries' own, then a further one of each. Passage 5 is the text of passage 0 again,
# passage 7 is not there, and passage 6 answers query 1 too.
TEXTS = np.array([10, 11, 12, 13, 14, 10, 16, -1])
KNOWN = np.array([[10, -1], [11, 16], [12, -1], [13, -1]])
SHOWN = np.array(
    [
        [1, 1, 1, 1, 1, 0, 1, 0],  # the same text as the own one is hidden
        [1, 1, 1, 1, 1, 1, 0, 0],  # and so is the other answer
        [1, 1, 1, 1, 1, 1, 1, 0],
        [1, 1, 1, 1, 1, 1, 1, 0],
    ],
    bool,
)


def vectors(seed, count, width=4):
    return jnp.asarray(np.random.default_rng(seed).normal(size=(count, width)), jnp.float64)


def sides(guided=False):
    queries, passages = vectors(0, 4), vectors(1, 8)
    guides = (vectors(2, 4, 3), vectors(3, 8, 3)) if guided else (None, None)
    marks = [TextIds(jnp.asarray(t), g) for t, g in zip((KNOWN, TEXTS[:, None]), guides, strict=True)]
    return queries, passages, NegativeMask(*marks)


def by_hand(queries, passages, shown, temperature=1.0, smoothing=0.0):
    """Cross-entropy over the shown passages, one query at a time."""
    rows = []
    for i, query in enumerate(queries):
        candidates = [j for j in range(len(passages)) if shown[i, j]]
        log_p = jax.nn.log_softmax(passages[jnp.array(candidates)] @ query / temperature)
        rows.append(-(1 - smoothing) * log_p[candidates.index(i)] - smoothing * log_p.mean())
    return jnp.stack(rows)


def gradients(loss, queries, passages):
    """Loss and gradients of a sum in which each query weighs differently."""
    weights = jnp.array([0.5, 1.0, 1.5, 2.0])
    return jax.jit(jax.value_and_grad(lambda q, p: jnp.sum(weights * loss(q, p)), (0, 1)))(queries, passages)


def assert_equal(found, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12), found, expected)  # float64


@pytest.mark.parametrize("chunk", [0, 3, *(pytest.param(chunk, marks=pytest.mark.slow) for chunk in (1, 8, 20))])
@pytest.mark.parametrize("settings", [{}, {"temperature": 0.5, "smoothing": 0.2}], ids=["plain", "smoothed"])
def test_what_shares_a_number_and_what_is_absent_is_no_candidate(x64, chunk, settings):
    queries, passages, hidden = sides()
    loss = lambda q, p: contrastive_loss(q, p, negative_mask=hidden, chunk=chunk, **settings).loss  # noqa: E731
    expected = gradients(lambda q, p: by_hand(q, p, SHOWN, **settings), queries, passages)
    assert_equal(gradients(loss, queries, passages), expected)


@pytest.mark.parametrize("chunk", [0, 3])
@pytest.mark.parametrize("guided", [False, True], ids=["student", "guide"])
@pytest.mark.parametrize("relative", [False, True], ids=["absolute", "relative"])
def test_what_scores_above_the_threshold_is_no_candidate_either(x64, chunk, guided, relative):
    queries, passages, hidden = sides(guided)
    judges = (hidden.queries.guide, hidden.passages.guide) if guided else (queries, passages)
    scores = np.asarray(judges[0] @ judges[1].T)
    own = np.diagonal(scores)
    top = own - (np.abs(own) * 0.3 if relative else 0.3)
    shown = SHOWN & ((scores <= top[:, None]) | np.eye(4, 8, dtype=bool))
    assert 4 < shown.sum() < SHOWN.sum()
    hidden = hidden._replace(thresholds=false_negative_thresholds(jnp.asarray(own), margin=0.3, relative=relative))
    # with a temperature: the threshold is compared with the scores before it
    contrast = lambda q, p: contrastive_loss(q, p, negative_mask=hidden, chunk=chunk, temperature=0.1)  # noqa: E731
    assert contrast(queries, passages).candidates.tolist() == shown.sum(1).tolist()
    expected = gradients(lambda q, p: by_hand(q, p, shown, temperature=0.1), queries, passages)
    assert_equal(gradients(lambda q, p: contrast(q, p).loss, queries, passages), expected)


def test_no_gradient_passes_through_a_threshold():
    found = jax.jit(jax.grad(lambda s: false_negative_thresholds(s, margin=0.1, relative=True).sum()))(
        jnp.array([0.5, -2.0])
    )
    assert found.tolist() == [0.0, 0.0]


@pytest.mark.parametrize("chunk", [0, 1, 3])
def test_the_rank_counts_only_candidates(chunk):
    """Scores 2, 3, 4 and 5, of which the passage of 4 is hidden."""
    hidden = NegativeMask(TextIds(jnp.array([[2]])), TextIds(jnp.arange(4)[:, None]))
    passages = jnp.array([[2.0], [3.0], [4.0], [5.0]])
    result = contrastive_loss(jnp.ones((1, 1)), passages, negative_mask=hidden, chunk=chunk)
    assert (result.rank[0], result.candidates[0], bool(result.correct[0])) == (3, 3, False)


@pytest.mark.parametrize("chunk", [0, 1, 3])
def test_the_own_passage_is_a_candidate_though_all_others_are_hidden(chunk):
    """Then the loss is 0: log(e^s) - s; and so is its gradient."""
    same = TextIds(jnp.zeros((3, 1), int))

    def loss(x):
        return contrastive_loss(x, x, negative_mask=NegativeMask(same, same), chunk=chunk).loss.sum()

    value, gradient = jax.jit(jax.value_and_grad(loss))(jnp.eye(3))
    assert value == 0
    assert not np.any(gradient)


@pytest.mark.parametrize("chunk", [0, 2])
def test_a_normaliser_of_nothing_is_below_any_score_with_a_gradient_of_zero(x64, chunk):
    """Beside a score of 0 it adds nothing: logaddexp(0, nothing) = 0."""
    same = TextIds(jnp.zeros((3, 1), int))

    def total(x):
        return jnp.logaddexp(
            0.0, log_sum_exp_of_negatives(x, x, negative_mask=NegativeMask(same, same), chunk=chunk)
        ).sum()

    value, gradient = jax.jit(jax.value_and_grad(total))(jnp.eye(3))
    assert value == 0
    assert not np.any(gradient)


@pytest.mark.slow
@pytest.mark.parametrize("chunk", [0, 3])
@pytest.mark.parametrize("directions", Directions, ids=lambda d: d.value)
def test_all_of_it_is_the_same_on_eight_devices(x64, chunk, directions):
    rng = np.random.default_rng(5)
    known = rng.integers(-1, 12, size=(16, 3))
    texts = rng.integers(-1, 12, size=(32, 1))

    def step(queries, passages, guides, known, texts):
        def loss(queries, passages):
            result = directional_contrastive_loss(
                EncodedTexts(queries, TextIds(known, guides[0])),
                EncodedTexts(passages, TextIds(texts, guides[1])),
                directions=directions,
                thresholds=false_negative_thresholds(jnp.einsum("qd,qd->q", guides[0], guides[1][:16]), margin=0.1),
                temperature=0.5,
                chunk=chunk,
            )
            return result.loss.mean(), result.candidates

        return jax.jit(jax.value_and_grad(loss, (0, 1), has_aux=True))(queries, passages)

    arrays = vectors(6, 16), vectors(7, 32), (vectors(8, 16, 3), vectors(9, 32, 3)), jnp.array(known), jnp.array(texts)
    over_one = jax.jit(step)(*arrays)
    assert_equal(jax.jit(step)(*jax.device_put(arrays, batch_sharding(make_mesh(MeshConfig())))), over_one)
    assert 16 < over_one[0][1].sum() < 16 * 32


@pytest.mark.slow
@pytest.mark.parametrize("directions", Directions, ids=lambda d: d.value)
def test_in_chunks_all_directions_give_the_same(x64, directions):
    queries, passages, hidden = sides(guided=True)

    def loss(q, p, chunk=0):
        pair = EncodedTexts(q, hidden.queries), EncodedTexts(p, hidden.passages)
        return directional_contrastive_loss(*pair, directions=directions, thresholds=jnp.full(4, 0.3), chunk=chunk).loss

    whole = gradients(loss, queries, passages)
    assert_equal(gradients(lambda q, p: loss(q, p, chunk=3), queries, passages), whole)


@pytest.mark.slow
def test_a_passage_is_no_negative_of_another_query_that_it_answers(x64):
    """Passage 0 is among what query 1 knows, so back from passage 0 only query 0 and query 2 are candidates."""
    queries, passages = vectors(0, 3), vectors(1, 3)
    known = jnp.array([[0, -1], [1, 0], [2, -1]])
    pair = (
        EncodedTexts(queries, TextIds(known)),
        EncodedTexts(passages, TextIds(jnp.arange(3)[:, None])),
    )
    found = directional_contrastive_loss(*pair, directions=Directions.BOTH).loss[0]
    there = by_hand(queries, passages, np.ones((3, 3), bool))[0]
    back = by_hand(passages, queries, np.array([[1, 0, 1], [1, 1, 1], [1, 1, 1]], bool))[0]
    assert found == pytest.approx(float(there + back) / 2, rel=1e-12)
