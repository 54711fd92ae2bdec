"""Contrastive losses: a query's own passage among the others of the batch, or among a queue."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dense_jax.arrays import Array, Bool, Float, Int, to_float32
from dense_jax.losses.blockwise import BlockInputs, BlockwiseSums, blockwise_sums
from dense_jax.losses.similarity import MASKED_SCORE, NegativeMask, dot_scores


class ContrastiveLoss(NamedTuple):
    """What each query of a contrastive loss got."""

    loss: Float[Array, " q"]
    rank: Int[Array, " q"]  # of its own passage among its candidates; 1: it scored highest
    candidates: Int[Array, " q"]  # how many passages were not hidden from it, its own among them

    @property
    def correct(self) -> Bool[Array, " q"]:
        """Its own passage scored highest."""
        return self.rank == 1


def in_batch_softmax(
    scores: Float[Array, "q p"],
    *,
    positives: Int[Array, " q"] | None = None,
    hidden: Bool[Array, "q p"] | None = None,
    temperature: float = 1.0,
    smoothing: float = 0.0,
) -> ContrastiveLoss:
    """Cross-entropy of each query's own passage among all passages of the batch.

    loss_i = logsumexp_j(s_ij / T) - s_ip / T, where p = positives[i] (by default i) and j leaves out what is hidden
    from i; p never is. Passages that are nobody's own are negatives for everyone. Label smoothing puts
    (1 - smoothing) s_ip + smoothing mean_j(s_ij) in the place of s_ip.
    ORQA (Lee et al. 2019), section 5; DPR (Karpukhin et al. 2020), section 3.2.

    >>> import jax.numpy as jnp
    >>> result = in_batch_softmax(jnp.array([[2.0, 0.0], [1.0, 1.0]]))
    >>> [round(float(x), 4) for x in result.loss]  # log(1 + e^-2), log 2
    [0.1269, 0.6931]
    """
    scores = to_float32(scores) / temperature
    own = _own(scores, positives)
    positive = jnp.take_along_axis(scores, own[:, None], axis=1)[:, 0]
    if hidden is not None:
        hidden &= jnp.arange(scores.shape[1])[None] != own[:, None]
    return _outcome(_sums(scores, hidden, positive), positive, own, smoothing)


def contrastive_loss(
    queries: Float[Array, "q d"],
    passages: Float[Array, "p d"],
    *,
    positives: Int[Array, " q"] | None = None,
    hidden: NegativeMask | None = None,
    temperature: float = 1.0,
    smoothing: float = 0.0,
    chunk: int = 0,
) -> ContrastiveLoss:
    """`in_batch_softmax` of the inner products, `chunk` passages at a time (0: all), and equal to it for any chunk.

    In chunks only [q, chunk] scores exist at once, forward and backward, and scores in the hundreds do no harm.

    >>> import jax.numpy as jnp
    >>> x = jnp.array([[3.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    >>> [jnp.allclose(contrast(x, x, chunk=n).loss, contrast(x, x).loss).item() for n in (1, 2, 3, 5)]
    [True, True, True, True]
    """
    if chunk == 0:
        scores = dot_scores(queries, passages)
        mask = None if hidden is None else hidden.mask(scores)
        return in_batch_softmax(
            scores, positives=positives, excluded=mask, temperature=temperature, smoothing=smoothing
        )
    queries, passages, own = to_float32(queries), to_float32(passages), _own(queries, positives)
    positive = jnp.einsum("qd,qd->q", queries, passages[own]) / temperature
    told = BlockInputs(own, jax.lax.stop_gradient(positive), hidden)
    return _outcome(blockwise_sums(queries, passages, told, temperature, chunk), positive, own, smoothing)


def log_sum_exp_of_negatives(
    queries: Float[Array, "q d"],
    passages: Float[Array, "p d"],
    *,
    hidden: NegativeMask,
    temperature: float = 1.0,
    chunk: int = 0,
) -> Float[Array, " q"]:
    """logsumexp_j(q_i p_j / T) over the passages that are not hidden from i, none of which is its own.

    Where all are hidden, a number below any score.
    """
    queries, passages = to_float32(queries), to_float32(passages)
    if chunk == 0:
        scores = dot_scores(queries, passages)
        return _sums(scores / temperature, hidden.mask(scores), scores[:, 0]).normaliser
    told = BlockInputs(jnp.full(len(queries), -1), jnp.zeros(len(queries), queries.dtype), hidden)
    return blockwise_sums(queries, passages, told, temperature, chunk).normaliser


def queue_softmax(
    queries: Float[Array, "q d"],
    keys: Float[Array, "q d"],
    queue: Float[Array, "k b d"],
    *,
    filled: Int[Array, ""],
    temperature: float = 1.0,
    smoothing: float = 0.0,
) -> ContrastiveLoss:
    """Cross-entropy of each query's own key among it and the keys of the first `filled` batches of `queue`.

    loss_i = log(exp(q_i k_i / T) + sum_j exp(q_i Q_j / T)) - q_i k_i / T: other keys of this batch are no negatives.
    Where the queue lies on devices as a batch does, each of them scores all queries with its own part of it.
    MoCo (He et al. 2020), section 3.1; Contriever (Izacard et al. 2022), section 3.2, whose equation lacks the log.

    >>> import jax.numpy as jnp
    >>> one = jnp.ones((1, 1))
    >>> round(float(queue_softmax(one, one, jnp.ones((3, 1, 1)), filled=jnp.array(2)).loss[0]), 4)  # log 3
    1.0986
    """
    queries, keys, queue = to_float32(queries) / temperature, to_float32(keys), to_float32(queue)
    positive = jnp.einsum("qd,qd->q", queries, keys)
    scores = jnp.einsum("qd,kbd->qkb", queries, queue)
    is_key = (jnp.arange(queue.shape[0]) < filled)[None, :, None]
    scores = jnp.where(is_key, scores, MASKED_SCORE)
    normaliser = jnp.logaddexp(positive, jax.nn.logsumexp(scores, axis=(1, 2)))
    candidates, target = 1 + filled * queue.shape[1], positive
    if smoothing:
        total = positive + jnp.sum(jnp.where(is_key, scores, 0), axis=(1, 2))
        target = _smoothed(positive, total / candidates, smoothing)
    rank = 1 + jnp.sum(scores > positive[:, None, None], axis=(1, 2))
    return ContrastiveLoss(normaliser - target, rank, jnp.broadcast_to(candidates, rank.shape))


def _sums(
    scores: Float[Array, "q p"], hidden: Bool[Array, "q p"] | None, positive: Float[Array, " q"]
) -> BlockwiseSums:
    total, count = jnp.sum(scores, axis=1), jnp.full(scores.shape[0], scores.shape[1])
    if hidden is not None:  # else no second matrix is kept for the backward pass
        total, count = jnp.sum(jnp.where(hidden, 0, scores), axis=1), jnp.sum(~hidden, axis=1)
        scores = jnp.where(hidden, MASKED_SCORE, scores)
    return BlockwiseSums(
        normaliser=jax.nn.logsumexp(scores, axis=1),
        total=total,
        count=count,
        best=jnp.argmax(scores, axis=1),
        above=jnp.sum(scores > positive[:, None], axis=1),
    )


def _outcome(
    sums: BlockwiseSums, positive: Float[Array, " q"], own: Int[Array, " q"], smoothing: float
) -> ContrastiveLoss:
    target = _smoothed(positive, sums.total / sums.count, smoothing) if smoothing else positive
    # of equals the first wins; and in chunks its own score may differ in the last digit from the one in `sums`
    rank = jnp.where(sums.best == own, 1, jnp.maximum(sums.above + 1, 2))
    return ContrastiveLoss(sums.normaliser - target, rank, sums.count)


def _smoothed(positive: Float[Array, " q"], mean: Float[Array, " q"], smoothing: float) -> Float[Array, " q"]:
    """The expected score under the smoothed target, of which every candidate has an equal share."""
    return (1 - smoothing) * positive + smoothing * mean


def _own(rows: Float[Array, "q _"], positives: Int[Array, " q"] | None) -> Int[Array, " q"]:
    return jnp.arange(rows.shape[0]) if positives is None else positives
