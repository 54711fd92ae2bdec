"""Losses over the vocabulary: masked language modelling and the bag of words."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dense_jax.arrays import Array, Bool, Float, Int, to_float32

_PADDING_LOGIT = -1_000.0  # of DupMAE's released code


class MaskedLMLoss(NamedTuple):
    """Sums over the masked positions of each row. The rows may be computed in chunks and concatenated."""

    losses: Float[Array, " b"]
    correct: Float[Array, " b"]
    positions: Float[Array, " b"]  # number of masked positions

    @property
    def loss(self) -> Float[Array, ""]:
        """Mean over all masked positions of all rows; 0 without any."""
        return jnp.sum(self.losses) / jnp.maximum(jnp.sum(self.positions), 1)

    @property
    def accuracy(self) -> Float[Array, ""]:
        """Share of all masked positions whose token scores highest."""
        return jnp.sum(self.correct) / jnp.maximum(jnp.sum(self.positions), 1)


def masked_lm_loss(
    logits: Float[Array, "b m v"], labels: Int[Array, "b m"], weights: Float[Array, "b m"]
) -> MaskedLMLoss:
    """Cross-entropy of `labels` at the positions of weight 1, by row; its `loss` is the mean over the batch.

    loss = sum(w * (logsumexp(logits) - logits[label])) / max(1, sum(w)). BERT (Devlin et al. 2019), section 3.1.

    >>> import jax.numpy as jnp
    >>> result = masked_lm_loss(jnp.zeros((1, 2, 4)), jnp.array([[3, 0]]), jnp.array([[1.0, 0.0]]))
    >>> round(float(result.loss), 4)  # log 4
    1.3863
    """
    logits = to_float32(logits)
    target = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    cross_entropy = jax.nn.logsumexp(logits, axis=-1) - target
    correct = jnp.argmax(logits, axis=-1) == labels
    return MaskedLMLoss(jnp.sum(cross_entropy * weights, 1), jnp.sum(correct * weights, 1), jnp.sum(weights, 1))


def bag_of_words_loss(
    logits: Float[Array, "b l v"], pooled: Bool[Array, "b l"], ids: Int[Array, "b l"], words: Bool[Array, "b l"]
) -> Float[Array, " b"]:
    """Cross-entropy of the tokens of a row under the maximum of their logits over the positions of `pooled`.

    loss = -1/n sum over the distinct t of log softmax(max_l logits_l)[t], where t runs over the `ids` at the n
    positions of `words`; 0 for n = 0. DupMAE (Liu et al. 2023), section 3.3. As in the released code, a repeated token
    adds to n but not to the sum.

    >>> import jax.numpy as jnp
    >>> every = jnp.ones((1, 4), bool)
    >>> loss = bag_of_words_loss(jnp.zeros((1, 4, 4)), every, jnp.array([[1, 2, 1, 3]]), every)
    >>> round(float(loss[0]), 4)  # 3/4 log 4
    1.0397
    """
    scores = to_float32(logits) + jnp.where(pooled, 0.0, _PADDING_LOGIT)[..., None]
    log_probability = jax.nn.log_softmax(jnp.max(scores, axis=1), axis=-1)
    rows = jnp.arange(ids.shape[0])[:, None]
    present = jnp.zeros(log_probability.shape, bool).at[rows, ids].max(words)
    count = jnp.maximum(jnp.sum(words, axis=-1), 1)
    return -jnp.sum(jnp.where(present, log_probability, 0.0), axis=-1) / count
