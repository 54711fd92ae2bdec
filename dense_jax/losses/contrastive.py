"""Contrastive losses: softmax of a query's own passage over in-batch negatives, or over a queue of keys."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dense_jax.arrays import Array, Bool, Float, Int, to_float32
from dense_jax.losses.blockwise import BlockInputs, BlockwiseSums, blockwise_sums
from dense_jax.losses.similarity import MASKED_SCORE, NegativeMask, dot_scores


class ContrastiveLoss(NamedTuple):
    """Loss and ranking metrics of each query."""

    loss: Float[Array, " q"]
    rank: Int[Array, " q"]  # of its own passage among the candidates, from 1
    candidates: Int[Array, " q"]  # number of passages in the softmax, its own included

    @property
    def correct(self) -> Bool[Array, " q"]:
        """True where the query's own passage scores highest."""
        return self.rank == 1


def in_batch_softmax(
    scores: Float[Array, "q p"],
    *,
    positives: Int[Array, " q"] | None = None,
    masked: Bool[Array, "q p"] | None = None,
    temperature: float = 1.0,
    smoothing: float = 0.0,
) -> ContrastiveLoss:
    """Cross-entropy of each query's own passage among all passages of the batch.

    loss_i = logsumexp_j(s_ij / T) - s_ip / T, where p = positives[i] (by default i) and j runs over all passages but
    those `masked` for i; p always stays. A passage that belongs to no query is a negative of every query. Label
    smoothing replaces s_ip by (1 - smoothing) s_ip + smoothing mean_j(s_ij).
    ORQA (Lee et al. 2019), section 5; DPR (Karpukhin et al. 2020), section 3.2.

    >>> import jax.numpy as jnp
    >>> result = in_batch_softmax(jnp.array([[2.0, 0.0], [1.0, 1.0]]))
    >>> [round(float(x), 4) for x in result.loss]  # log(1 + e^-2), log 2
    [0.1269, 0.6931]
    """
    scores = to_float32(scores) / temperature
    own = _own(scores, positives)
    positive_score = jnp.take_along_axis(scores, own[:, None], axis=1)[:, 0]
    if masked is not None:
        masked &= jnp.arange(scores.shape[1])[None] != own[:, None]
    return _from_sums(_sums(scores, masked, positive_score), positive_score, own, smoothing)


def contrastive_loss(
    queries: Float[Array, "q d"],
    passages: Float[Array, "p d"],
    *,
    positives: Int[Array, " q"] | None = None,
    negative_mask: NegativeMask | None = None,
    temperature: float = 1.0,
    smoothing: float = 0.0,
    chunk: int = 0,
) -> ContrastiveLoss:
    """`in_batch_softmax` of the inner products, `chunk` passages at a time (0: all); equal for every chunk.

    Candidates that `negative_mask` marks are masked, except the query's own. With a chunk, only
    [q, chunk] scores exist at once, forward and backward.

    >>> import jax.numpy as jnp
    >>> x = jnp.array([[3.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    >>> whole = contrastive_loss(x, x).loss
    >>> [jnp.allclose(contrastive_loss(x, x, chunk=n).loss, whole).item() for n in (1, 2, 3, 5)]
    [True, True, True, True]
    """
    if chunk == 0:
        scores = dot_scores(queries, passages)
        masked = None if negative_mask is None else negative_mask.mask(scores)
        return in_batch_softmax(
            scores, positives=positives, masked=masked, temperature=temperature, smoothing=smoothing
        )
    queries, passages, own = to_float32(queries), to_float32(passages), _own(queries, positives)
    positive_score = jnp.einsum("qd,qd->q", queries, passages[own]) / temperature
    inputs = BlockInputs(own, jax.lax.stop_gradient(positive_score), negative_mask)
    return _from_sums(blockwise_sums(queries, passages, inputs, temperature, chunk), positive_score, own, smoothing)


def log_sum_exp_of_negatives(
    queries: Float[Array, "q d"],
    passages: Float[Array, "p d"],
    *,
    negative_mask: NegativeMask,
    temperature: float = 1.0,
    chunk: int = 0,
) -> Float[Array, " q"]:
    """logsumexp_j(q_i p_j / T) over the passages that are not masked for query i. No passage is a positive.

    Where all passages are masked, the result is below any score.

    >>> import jax.numpy as jnp
    >>> from dense_jax.losses.similarity import TextIds
    >>> texts = TextIds(jnp.array([[0], [1], [2]]))  # a text is no negative of itself: two candidates each, score 0
    >>> found = log_sum_exp_of_negatives(jnp.zeros((3, 2)), jnp.zeros((3, 2)), negative_mask=NegativeMask(texts, texts))
    >>> [round(float(x), 4) for x in found]  # log 2
    [0.6931, 0.6931, 0.6931]
    """
    queries, passages = to_float32(queries), to_float32(passages)
    if chunk == 0:
        scores = dot_scores(queries, passages)
        return _sums(scores / temperature, negative_mask.mask(scores), scores[:, 0]).log_sum_exp
    inputs = BlockInputs(jnp.full(len(queries), -1), jnp.zeros(len(queries), queries.dtype), negative_mask)
    return blockwise_sums(queries, passages, inputs, temperature, chunk).log_sum_exp


def queue_softmax(
    queries: Float[Array, "q d"],
    keys: Float[Array, "q d"],
    queue: Float[Array, "k b d"],
    *,
    filled: Int[Array, ""],
    temperature: float = 1.0,
    smoothing: float = 0.0,
) -> ContrastiveLoss:
    """Cross-entropy of each query's own key against the keys of the first `filled` batches of `queue`.

    loss_i = log(exp(q_i k_i / T) + sum_j exp(q_i Q_j / T)) - q_i k_i / T. Other keys of this batch are no negatives.
    If the queue is sharded like the batch, each device scores all queries against its own part of the queue.
    MoCo (He et al. 2020), section 3.1; Contriever (Izacard et al. 2022), section 3.2, whose equation lacks the log.

    >>> import jax.numpy as jnp
    >>> one = jnp.ones((1, 1))
    >>> round(float(queue_softmax(one, one, jnp.ones((3, 1, 1)), filled=jnp.array(2)).loss[0]), 4)  # log 3
    1.0986
    """
    queries, keys, queue = to_float32(queries) / temperature, to_float32(keys), to_float32(queue)
    positive_score = jnp.einsum("qd,qd->q", queries, keys)
    scores = jnp.einsum("qd,kbd->qkb", queries, queue)
    is_key = (jnp.arange(queue.shape[0]) < filled)[None, :, None]
    scores = jnp.where(is_key, scores, MASKED_SCORE)
    log_sum_exp = jnp.logaddexp(positive_score, jax.nn.logsumexp(scores, axis=(1, 2)))
    candidates, target = 1 + filled * queue.shape[1], positive_score
    if smoothing:
        score_sum = positive_score + jnp.sum(jnp.where(is_key, scores, 0), axis=(1, 2))
        target = _smoothed(positive_score, score_sum / candidates, smoothing)
    rank = 1 + jnp.sum(scores > positive_score[:, None, None], axis=(1, 2))
    return ContrastiveLoss(log_sum_exp - target, rank, jnp.broadcast_to(candidates, rank.shape))


def _sums(
    scores: Float[Array, "q p"], masked: Bool[Array, "q p"] | None, positive_score: Float[Array, " q"]
) -> BlockwiseSums:
    score_sum, count = jnp.sum(scores, axis=1), jnp.full(scores.shape[0], scores.shape[1])
    if masked is not None:  # else no second matrix is kept for the backward pass
        score_sum, count = jnp.sum(jnp.where(masked, 0, scores), axis=1), jnp.sum(~masked, axis=1)
        scores = jnp.where(masked, MASKED_SCORE, scores)
    return BlockwiseSums(
        log_sum_exp=jax.nn.logsumexp(scores, axis=1),
        score_sum=score_sum,
        candidates=count,
        argmax=jnp.argmax(scores, axis=1),
        above=jnp.sum(scores > positive_score[:, None], axis=1),
    )


def _from_sums(
    sums: BlockwiseSums, positive_score: Float[Array, " q"], own: Int[Array, " q"], smoothing: float
) -> ContrastiveLoss:
    target = _smoothed(positive_score, sums.score_sum / sums.candidates, smoothing) if smoothing else positive_score
    # the first of equals ranks first; in chunks its own score may differ in the last digit from the one in `sums`
    rank = jnp.where(sums.argmax == own, 1, jnp.maximum(sums.above + 1, 2))
    return ContrastiveLoss(sums.log_sum_exp - target, rank, sums.candidates)


def _smoothed(positive_score: Float[Array, " q"], mean: Float[Array, " q"], smoothing: float) -> Float[Array, " q"]:
    """Expected score under the smoothed target, in which all candidates have an equal share of `smoothing`."""
    return (1 - smoothing) * positive_score + smoothing * mean


def _own(rows: Float[Array, "q _"], positives: Int[Array, " q"] | None) -> Int[Array, " q"]:
    return jnp.arange(rows.shape[0]) if positives is None else positives
