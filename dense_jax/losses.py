"""Pure maths of the losses. Everything is float32, whatever the encoder computes in; float64 stays float64.

A loss is written for the global batch: under `jit` over a mesh, with the batch sharded, each device holds only the
score rows of its own queries, and XLA gathers the passages and sums their gradients over devices.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dense_jax.arrays import Array, Bool, Float, Int, wide

_NEVER = -1e30  # the score of what may not be chosen
_PADDING_LOGIT = -1_000.0  # of DupMAE's released code


class InBatch(NamedTuple):
    """What each query of an in-batch softmax got."""

    loss: Float[Array, " q"]
    correct: Bool[Array, " q"]  # its own passage scored highest


def dot_scores(queries: Float[Array, "q d"], passages: Float[Array, "p d"]) -> Float[Array, "q p"]:
    """Inner products of all queries with all passages, accumulated in float32."""
    exact = jnp.promote_types(queries.dtype, jnp.float32)
    return jnp.einsum("qd,pd->qp", queries, passages, preferred_element_type=exact)


def in_batch_softmax(
    scores: Float[Array, "q p"],
    *,
    positives: Int[Array, " q"] | None = None,
    excluded: Int[Array, " q"] | None = None,
    temperature: float = 1.0,
    smoothing: float = 0.0,
) -> InBatch:
    """Cross-entropy of each query's own passage among all passages of the batch.

    loss_i = logsumexp_j(s_ij / T) - s_ip / T, where p = positives[i] (by default i) and j leaves out excluded[i].
    Passages that are nobody's own are negatives for everyone. Label smoothing puts (1 - smoothing) s_ip + smoothing
    mean_j(s_ij) in the place of s_ip.
    ORQA (Lee et al. 2019), section 5; DPR (Karpukhin et al. 2020), section 3.2.

    >>> import jax.numpy as jnp
    >>> result = in_batch_softmax(jnp.array([[2.0, 0.0], [1.0, 1.0]]))
    >>> [round(float(x), 4) for x in result.loss]  # log(1 + e^-2), log 2
    [0.1269, 0.6931]
    """
    scores = wide(scores) / temperature
    own = _own(scores, positives)
    if excluded is not None:  # a finite number: infinity would become 0 * infinity in the backward pass
        scores = jnp.where(jnp.arange(scores.shape[1])[None] == excluded[:, None], _NEVER, scores)
    positive = jnp.take_along_axis(scores, own[:, None], axis=1)[:, 0]
    target = positive
    if smoothing:
        target = _smoothed(positive, jnp.mean(scores, axis=1, where=scores > _NEVER), smoothing)
    return InBatch(jax.nn.logsumexp(scores, axis=1) - target, jnp.argmax(scores, axis=1) == own)


def contrast(
    queries: Float[Array, "q d"],
    passages: Float[Array, "p d"],
    *,
    positives: Int[Array, " q"] | None = None,
    excluded: Int[Array, " q"] | None = None,
    temperature: float = 1.0,
    smoothing: float = 0.0,
    chunk: int = 0,
) -> InBatch:
    """`in_batch_softmax` of the inner products, `chunk` passages at a time (0: all), and equal to it for any chunk.

    In chunks only [q, chunk] scores exist at once, forward and backward; the sums are kept relative to a running
    maximum, so scores in the hundreds do no harm. Inf-CL (Cheng et al. 2024), section 3; without its ring.

    >>> import jax.numpy as jnp
    >>> x = jnp.array([[3.0, 0.0], [0.0, 2.0], [1.0, 1.0]])
    >>> [jnp.allclose(contrast(x, x, chunk=n).loss, contrast(x, x).loss).item() for n in (1, 2, 3, 5)]
    [True, True, True, True]
    """
    if chunk == 0:
        scores = dot_scores(queries, passages)
        return in_batch_softmax(
            scores, positives=positives, excluded=excluded, temperature=temperature, smoothing=smoothing
        )
    queries, passages = wide(queries) / temperature, wide(passages)
    own = _own(queries, positives)
    positive = jnp.einsum("qd,qd->q", queries, passages[own])
    left_out = jnp.full(own.shape, -1) if excluded is None else excluded
    normaliser, best = _normaliser(queries, passages, left_out, chunk)
    target = positive
    if smoothing:
        total = queries @ jnp.sum(passages, axis=0)
        if excluded is not None:
            total = total - jnp.einsum("qd,qd->q", queries, passages[excluded])
        target = _smoothed(positive, total / (len(passages) - (excluded is not None)), smoothing)
    return InBatch(normaliser - target, best == own)


def queue_softmax(
    queries: Float[Array, "q d"],
    keys: Float[Array, "q d"],
    queue: Float[Array, "k b d"],
    *,
    filled: Int[Array, ""],
    temperature: float = 1.0,
    smoothing: float = 0.0,
) -> InBatch:
    """Cross-entropy of each query's own key among it and the keys of the first `filled` batches of `queue`.

    loss_i = log(exp(q_i k_i / T) + sum_j exp(q_i Q_j / T)) - q_i k_i / T: other keys of this batch are no negatives.
    Where the queue lies on devices as a batch does, each of them scores all queries with its own part of it.
    MoCo (He et al. 2020), section 3.1; Contriever (Izacard et al. 2022), section 3.2, whose equation lacks the log.

    >>> import jax.numpy as jnp
    >>> one = jnp.ones((1, 1))
    >>> round(float(queue_softmax(one, one, jnp.ones((3, 1, 1)), filled=jnp.array(2)).loss[0]), 4)  # log 3
    1.0986
    """
    queries, keys, queue = wide(queries) / temperature, wide(keys), wide(queue)
    positive = jnp.einsum("qd,qd->q", queries, keys)
    scores = jnp.einsum("qd,kbd->qkb", queries, queue)
    is_key = (jnp.arange(queue.shape[0]) < filled)[None, :, None]
    scores = jnp.where(is_key, scores, _NEVER)
    normaliser = jnp.logaddexp(positive, jax.nn.logsumexp(scores, axis=(1, 2)))
    target = positive
    if smoothing:
        total = positive + jnp.sum(jnp.where(is_key, scores, 0), axis=(1, 2))
        target = _smoothed(positive, total / (1 + filled * queue.shape[1]), smoothing)
    return InBatch(normaliser - target, positive >= jnp.max(scores, axis=(1, 2)))


def _smoothed(positive: Float[Array, " q"], mean: Float[Array, " q"], smoothing: float) -> Float[Array, " q"]:
    """The expected score under the smoothed target, of which every candidate has an equal share."""
    return (1 - smoothing) * positive + smoothing * mean


def _own(rows: Float[Array, "q _"], positives: Int[Array, " q"] | None) -> Int[Array, " q"]:
    return jnp.arange(rows.shape[0]) if positives is None else positives


def _running_normaliser(
    queries: Float[Array, "q d"], passages: Float[Array, "p d"], excluded: Int[Array, " q"], chunk: int
) -> tuple[Float[Array, " q"], Int[Array, " q"]]:
    """logsumexp over passages of each query's scores, and the passage that scores highest."""

    def add(running: tuple[Array, Array, Array], tile: _Tile) -> tuple[tuple[Array, Array, Array], None]:
        largest, total, best = running
        scores = _tile_scores(queries, tile, excluded)
        highest = jnp.max(scores, axis=1)
        now = jnp.maximum(largest, highest)
        # where() as well, since in a tile of excluded scores alone the maximum is one of them
        terms = jnp.where(scores > _NEVER, jnp.exp(scores - now[:, None]), 0.0)
        total = total * jnp.exp(largest - now) + jnp.sum(terms, axis=1)
        # the first of equals wins, as with argmax over all, whatever the order of the tiles
        candidate = jnp.min(jnp.where(scores == highest[:, None], tile.numbers[None], passages.shape[0]), axis=1)
        best = jnp.where(
            highest > largest, candidate, jnp.where(highest == largest, jnp.minimum(best, candidate), best)
        )
        return (now, total, best), None

    nothing = jnp.full(queries.shape[:1], _NEVER, queries.dtype)
    first = (nothing, jnp.zeros_like(nothing), jnp.full(nothing.shape, passages.shape[0]))
    (largest, total, best), _ = jax.lax.scan(add, first, _tiles(passages, chunk))
    return largest + jnp.log(total), best


_normaliser: Any = jax.custom_vjp(_running_normaliser, nondiff_argnums=(3,))


def _normaliser_forward(queries: Array, passages: Array, excluded: Array, chunk: int) -> tuple[Any, Any]:
    normaliser, best = _normaliser(queries, passages, excluded, chunk)
    return (normaliser, best), (queries, passages, excluded, normaliser)


def _normaliser_backward(chunk: int, residuals: Any, cotangents: Any) -> tuple[Array, Array, None]:
    queries, passages, excluded, normaliser = residuals

    def add(of_queries: Array, tile: _Tile) -> tuple[Array, Array]:
        scores = _tile_scores(queries, tile, excluded)
        weights = jnp.where(scores > _NEVER, jnp.exp(scores - normaliser[:, None]), 0.0) * cotangents[0][:, None]
        return of_queries + jnp.einsum("qp,pd->qd", weights, tile.rows), jnp.einsum("qp,qd->pd", weights, queries)

    of_queries, of_tiles = jax.lax.scan(add, jnp.zeros_like(queries), _tiles(passages, chunk))
    of_passages = of_tiles.swapaxes(0, 1).reshape(-1, passages.shape[1])[: passages.shape[0]]
    return of_queries, of_passages, None


_normaliser.defvjp(_normaliser_forward, _normaliser_backward)


class _Tile(NamedTuple):
    """Some passages, with their numbers; -1 is none."""

    rows: Float[Array, "*n c d"]
    numbers: Int[Array, "*n c"]


def _tiles(passages: Float[Array, "p d"], chunk: int) -> _Tile:
    """All passages in tiles of `chunk`: each takes every n-th passage, so that it lies on all devices alike."""
    count = -(-passages.shape[0] // chunk)
    padded = jnp.pad(passages, ((0, count * chunk - passages.shape[0]), (0, 0)))
    numbers = jnp.arange(count * chunk)
    numbers = jnp.where(numbers < passages.shape[0], numbers, -1)
    rows = padded.reshape(chunk, count, -1).swapaxes(0, 1)
    return _Tile(rows, numbers.reshape(chunk, count).swapaxes(0, 1))


def _tile_scores(queries: Float[Array, "q d"], tile: _Tile, excluded: Int[Array, " q"]) -> Float[Array, "q c"]:
    numbers = tile.numbers[None]
    scores = dot_scores(queries, tile.rows)
    return jnp.where((numbers < 0) | (numbers == excluded[:, None]), _NEVER, scores)


class MaskedLM(NamedTuple):
    """What the masked positions of each row got, summed over them: rows may be computed apart and put together."""

    losses: Float[Array, " b"]
    correct: Float[Array, " b"]
    positions: Float[Array, " b"]  # how many

    @property
    def loss(self) -> Float[Array, ""]:
        """The mean over all masked positions of all rows; 0 if there is none."""
        return jnp.sum(self.losses) / jnp.maximum(jnp.sum(self.positions), 1)

    @property
    def accuracy(self) -> Float[Array, ""]:
        """The share of all masked positions whose token scored highest."""
        return jnp.sum(self.correct) / jnp.maximum(jnp.sum(self.positions), 1)


def masked_lm(logits: Float[Array, "b m v"], labels: Int[Array, "b m"], weights: Float[Array, "b m"]) -> MaskedLM:
    """Cross-entropy of `labels` at the positions of weight 1, for each row; its `loss` is the mean over the batch.

    loss = sum(w * (logsumexp(logits) - logits[label])) / max(1, sum(w)). BERT (Devlin et al. 2019), section 3.1.

    >>> import jax.numpy as jnp
    >>> result = masked_lm(jnp.zeros((1, 2, 4)), jnp.array([[3, 0]]), jnp.array([[1.0, 0.0]]))
    >>> round(float(result.loss), 4)  # log 4
    1.3863
    """
    logits = wide(logits)
    target = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    cross_entropy = jax.nn.logsumexp(logits, axis=-1) - target
    correct = jnp.argmax(logits, axis=-1) == labels
    return MaskedLM(jnp.sum(cross_entropy * weights, 1), jnp.sum(correct * weights, 1), jnp.sum(weights, 1))


def bag_of_words(
    logits: Float[Array, "b l v"], pooled: Bool[Array, "b l"], ids: Int[Array, "b l"], words: Bool[Array, "b l"]
) -> Float[Array, " b"]:
    """Cross-entropy of the tokens that a row holds, under the highest score that each has at a position of `pooled`.

    loss = -1/n sum over the distinct t of log softmax(max_l logits_l)[t], where t runs over the `ids` at the n
    positions of `words`; 0 if there is none. DupMAE (Liu et al. 2023), section 3.3; that a repeated token adds to n but
    not to the sum is the released code's.

    >>> import jax.numpy as jnp
    >>> every = jnp.ones((1, 4), bool)
    >>> round(float(bag_of_words(jnp.zeros((1, 4, 4)), every, jnp.array([[1, 2, 1, 3]]), every)[0]), 4)  # 3/4 log 4
    1.0397
    """
    scores = wide(logits) + jnp.where(pooled, 0.0, _PADDING_LOGIT)[..., None]
    log_probability = jax.nn.log_softmax(jnp.max(scores, axis=1), axis=-1)
    rows = jnp.arange(ids.shape[0])[:, None]
    present = jnp.zeros(log_probability.shape, bool).at[rows, ids].max(words)
    count = jnp.maximum(jnp.sum(words, axis=-1), 1)
    return -jnp.sum(jnp.where(present, log_probability, 0.0), axis=-1) / count


def weighted_mean(values: Array, weights: Array) -> Float[Array, ""]:
    """sum(values * weights) / sum(weights), and 0 where no weight is left.

    >>> import jax.numpy as jnp
    >>> float(weighted_mean(jnp.array([1.0, 3.0]), jnp.array([1.0, 0.0])))
    1.0
    """
    weights = weights.astype(jnp.float32)
    return jnp.sum(wide(values) * weights) / jnp.maximum(jnp.sum(weights), 1.0)
