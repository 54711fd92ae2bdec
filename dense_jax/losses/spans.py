"""ORQA's losses: marginal likelihood of the answer's spans in the blocks retrieved for a question.

Lee et al. 2019, "Latent Retrieval for Weakly Supervised Open Domain Question Answering". One softmax over
the spans of all blocks, scored with their block, is that of the released code.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dense_jax.arrays import Array, Bool, Float, Int, np, to_float32

_EXCLUDED = -10_000.0  # added to a score; finite: infinity would give 0 * infinity if no candidate is correct


class CandidateSpans(NamedTuple):
    """First and last token of each candidate span."""

    starts: Int[np.ndarray, " s"]
    ends: Int[np.ndarray, " s"]  # inclusive


class OrqaLoss(NamedTuple):
    """Losses of each question; a part is 0 where it has no correct candidate."""

    early: Float[Array, " b"]  # over all retrieved blocks
    full: Float[Array, " b"]  # over all spans of the blocks that were read
    correct: Bool[Array, " b"]  # the best span is a gold span

    @property
    def losses(self) -> Float[Array, " b"]:
        """Sum of both parts."""
        return self.early + self.full


def candidate_spans(length: int, max_width: int) -> CandidateSpans:
    """All spans of 1 to `max_width` tokens over `length` positions, by width, then from left to right.

    >>> spans = candidate_spans(3, max_width=2)
    >>> spans.starts.tolist(), spans.ends.tolist()
    ([0, 1, 2, 0, 1], [0, 1, 2, 1, 2])
    """
    widths = range(1, min(max_width, length) + 1)
    starts = np.concatenate([np.arange(length - width + 1) for width in widths])
    return CandidateSpans(starts, starts + np.repeat(np.array(widths) - 1, [length - width + 1 for width in widths]))


def valid_spans(candidates: CandidateSpans, block: Bool[Array, "*b l"]) -> Bool[Array, "*b s"]:
    """Return True for candidates that begin and end at tokens of the block, not of the question or at a separator.

    >>> import jax.numpy as jnp
    >>> valid_spans(candidate_spans(3, 2), jnp.array([False, True, True])).tolist()
    [False, True, True, False, True]
    """
    return block[..., candidates.starts] & block[..., candidates.ends]


def gold_spans(
    candidates: CandidateSpans, starts: Int[np.ndarray, "*b g"], ends: Int[np.ndarray, "*b g"]
) -> Bool[np.ndarray, "*b s"]:
    """Return True for candidates that are an answer from `starts` to `ends`, both inclusive; -1 fills up.

    An answer wider than all candidates matches none. Runs on the host, where an answer may occur any number of times.

    >>> gold_spans(candidate_spans(3, 2), np.array([1, 0, -1]), np.array([2, 2, -1])).tolist()
    [False, False, False, False, True]
    """
    same_starts = starts[..., None] == candidates.starts
    return (same_starts & (ends[..., None] == candidates.ends)).any(axis=-2)


def marginal_loss(scores: Float[Array, "b n"], right: Bool[Array, "b n"]) -> Float[Array, " b"]:
    """-log of the probability of all `right` candidates under softmax(scores); 0, without gradient, if none is right.

    logsumexp(s) - logsumexp(s + (1 - right) (-10000)). The gradient is softmax(s) minus the softmax over right ones.

    >>> import jax.numpy as jnp
    >>> right = jnp.array([[True, True, False], [False, False, False]])
    >>> [round(float(x), 4) for x in marginal_loss(jnp.zeros((2, 3)), right)]  # log 3/2
    [0.4055, 0.0]
    """
    scores = to_float32(scores)
    among = jnp.where(right, scores, scores + _EXCLUDED)
    loss = jax.nn.logsumexp(scores, axis=1) - jax.nn.logsumexp(among, axis=1)
    return jnp.where(jnp.any(right, axis=1), loss, 0)


def joint_scores(
    blocks: Float[Array, "b c"], spans: Float[Array, "b k s"], valid: Bool[Array, "b k s"]
) -> Float[Array, "b k s"]:
    """Score of a span plus that of its block, for the first k of the c retrieved blocks; lowered by 10000 if invalid.

    >>> import jax.numpy as jnp
    >>> joint_scores(jnp.array([[3.0, 2.0, 1.0]]), jnp.array([[[0.5], [0.0]]]), jnp.ones((1, 2, 1), bool)).tolist()
    [[[3.5], [2.0]]]
    """
    scores = to_float32(spans) + to_float32(blocks)[:, : spans.shape[1], None]
    return jnp.where(valid, scores, scores + _EXCLUDED)


def best_span(scores: Float[Array, "b k s"]) -> tuple[Int[Array, " b"], Int[Array, " b"]]:
    """Block and candidate with the highest of the `joint_scores`; the first of equals.

    >>> import jax.numpy as jnp
    >>> [x.tolist() for x in best_span(jnp.array([[[0.0, 1.0, 0.0], [0.0, 0.0, 2.0]]]))]
    [[1], [2]]
    """
    best = jnp.argmax(scores.reshape(len(scores), -1), axis=1)
    return best // scores.shape[2], best % scores.shape[2]


def orqa_loss(
    blocks: Float[Array, "b c"],
    holds_answer: Bool[Array, "b c"],
    spans: Float[Array, "b k s"],
    *,
    valid: Bool[Array, "b k s"],
    gold: Bool[Array, "b k s"],
) -> OrqaLoss:
    """Early loss over the scores of all c blocks, and full loss over all spans of the first k blocks jointly.

    The scores of missing blocks are MASKED_SCORE, and `holds_answer` is False for them.

    >>> import jax.numpy as jnp
    >>> blocks, holds = jnp.zeros((1, 4)), jnp.ones((1, 4), bool)
    >>> spans, valid, gold = jnp.zeros((1, 2, 1)), jnp.ones((1, 2, 1), bool), jnp.array([[[True], [False]]])
    >>> found = orqa_loss(blocks, holds, spans, valid=valid, gold=gold)
    >>> round(float(found.early[0]), 4), round(float(found.full[0]), 4)  # four of four blocks; one of two spans: log 2
    (0.0, 0.6931)
    """
    scores = joint_scores(blocks, spans, valid)
    block, span = best_span(scores)
    return OrqaLoss(
        early=marginal_loss(blocks, holds_answer),
        full=marginal_loss(scores.reshape(len(scores), -1), gold.reshape(len(gold), -1)),
        correct=gold[jnp.arange(len(gold)), block, span],
    )
