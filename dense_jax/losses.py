"""Pure maths of the losses. Everything is float32 whatever the encoder computes in.

A loss is written for the global batch: under `jit` over a mesh, with the batch sharded, each device holds only the
score rows of its own queries, and XLA gathers the passages and sums their gradients over devices.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dense_jax.arrays import Array, Bool, Float, Int


class InBatch(NamedTuple):
    """What each query of an in-batch softmax got."""

    loss: Float[Array, " q"]
    correct: Bool[Array, " q"]  # its own passage scored highest


def dot_scores(queries: Float[Array, "q d"], passages: Float[Array, "p d"]) -> Float[Array, "q p"]:
    """Inner products of all queries with all passages, accumulated in float32."""
    return jnp.einsum("qd,pd->qp", queries, passages, preferred_element_type=jnp.float32)


def in_batch_softmax(scores: Float[Array, "q p"], *, temperature: float = 1.0) -> InBatch:
    """Cross-entropy of each query's own passage among all passages of the batch.

    loss_i = logsumexp_j(s_ij / T) - s_ii / T. Passages beyond the first q are negatives for everyone.
    ORQA (Lee et al. 2019), section 5; DPR (Karpukhin et al. 2020), section 3.2.

    >>> import jax.numpy as jnp
    >>> result = in_batch_softmax(jnp.array([[2.0, 0.0], [1.0, 1.0]]))
    >>> [round(float(x), 4) for x in result.loss]  # log(1 + e^-2), log 2
    [0.1269, 0.6931]
    """
    scores = scores.astype(jnp.float32) / temperature
    own = jnp.arange(scores.shape[0])
    positive = jnp.take_along_axis(scores, own[:, None], axis=1)[:, 0]
    return InBatch(jax.nn.logsumexp(scores, axis=1) - positive, jnp.argmax(scores, axis=1) == own)


class MaskedLM(NamedTuple):
    """What the masked positions of a batch got."""

    loss: Float[Array, ""]
    accuracy: Float[Array, ""]


def masked_lm(logits: Float[Array, "b m v"], labels: Int[Array, "b m"], weights: Float[Array, "b m"]) -> MaskedLM:
    """Mean cross-entropy of `labels` over the positions of weight 1 in the whole batch; 0 if there is none.

    loss = sum(w * (logsumexp(logits) - logits[label])) / max(1, sum(w)). BERT (Devlin et al. 2019), section 3.1.

    >>> import jax.numpy as jnp
    >>> result = masked_lm(jnp.zeros((1, 2, 4)), jnp.array([[3, 0]]), jnp.array([[1.0, 0.0]]))
    >>> round(float(result.loss), 4)  # log 4
    1.3863
    """
    logits = logits.astype(jnp.float32)
    target = jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    losses = jax.nn.logsumexp(logits, axis=-1) - target
    correct = jnp.argmax(logits, axis=-1) == labels
    return MaskedLM(weighted_mean(losses, weights), weighted_mean(correct, weights))


def weighted_mean(values: Array, weights: Array) -> Float[Array, ""]:
    """sum(values * weights) / sum(weights), and 0 where no weight is left.

    >>> import jax.numpy as jnp
    >>> float(weighted_mean(jnp.array([1.0, 3.0]), jnp.array([1.0, 0.0])))
    1.0
    """
    weights = weights.astype(jnp.float32)
    return jnp.sum(values.astype(jnp.float32) * weights) / jnp.maximum(jnp.sum(weights), 1.0)
