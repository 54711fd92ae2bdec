"""REALM's losses: masked tokens y of a text x, whose document z is not known: p(y | x) = sum_z p(z | x) p(y | z, x).

The first candidate is the null document. Gradients reach all scores and all likelihoods; only which documents are
candidates is not learned. Guu et al. 2020, "REALM: Retrieval-Augmented Language Model Pre-Training", section 3.
"""

import enum
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dense_jax.arrays import Array, Bool, Float, Int, to_float32
from dense_jax.losses.language import weighted_mean
from dense_jax.losses.similarity import MASKED_SCORE


class MarginalLikelihood(enum.Enum):
    """What is summed over the documents where several tokens are masked; of one token both are the same."""

    SEQUENCE = "sequence"  # the likelihood of all of them together, as published
    TOKEN = "token"  # the likelihood of each of them alone, as in the released code


class RealmLoss(NamedTuple):
    """What each example got, summed over what it counts: rows may be computed apart and put together.

    An example without a masked token counts nothing: it is no part of any mean.
    """

    losses: Float[Array, " b"]  # -log p(y | x), of all tokens together or summed over them
    terms: Float[Array, " b"]  # how many: 1, or as many as tokens
    gains: Float[Array, " b"]  # log p(y_j | x) - log p(y_j | null, x), summed over the tokens, each of them alone
    tokens: Float[Array, " b"]  # how many are masked
    log_priors: Float[Array, "b k"]  # log p(z | x)
    log_likelihoods: Float[Array, "b k"]  # log p(y | z, x), the sum over the tokens

    @property
    def loss(self) -> Float[Array, ""]:
        """The mean over the examples of the batch, or over their masked tokens; 0 if there is none."""
        return jnp.sum(self.losses) / jnp.maximum(jnp.sum(self.terms), 1)

    @property
    def utility(self) -> Float[Array, ""]:
        """How much better a masked token is known for the documents: the mean of the gains over all tokens."""
        return jnp.sum(self.gains) / jnp.maximum(jnp.sum(self.tokens), 1)

    @property
    def null_mass(self) -> Float[Array, ""]:
        """The prior of the null document, the mean over the examples that have a masked token."""
        return weighted_mean(jnp.exp(self.log_priors[:, 0]), self.tokens > 0)


def token_log_likelihoods(logits: Float[Array, "b k m v"], targets: Int[Array, "b m"]) -> Float[Array, "b k m"]:
    """log p(y_j | z, x) of the tokens that stood at the masked positions, under each candidate document.

    >>> import jax.numpy as jnp
    >>> found = token_log_likelihoods(jnp.zeros((1, 2, 1, 4)), jnp.array([[3]]))
    >>> [round(float(x), 4) for x in found[0, :, 0]]  # -log 4
    [-1.3863, -1.3863]
    """
    logits = to_float32(logits)
    target = jnp.take_along_axis(logits, targets[:, None, :, None], axis=-1)[..., 0]
    return target - jax.nn.logsumexp(logits, axis=-1)


def realm_loss(
    scores: Float[Array, "b k"],
    log_likelihoods: Float[Array, "b k m"],
    weights: Float[Array, "b m"],
    *,
    there: Bool[Array, "b k"] | None = None,
    marginal: MarginalLikelihood = MarginalLikelihood.SEQUENCE,
) -> RealmLoss:
    """-log p(y | x) of the tokens of weight 1 (others: 0), where p(z | x) = softmax(scores) over what is `there`.

    sequence: -log sum_z p(z | x) prod_j p(y_j | z, x), and the mean is over examples;
    token:    -sum_j log sum_z p(z | x) p(y_j | z, x), and the mean is over all masked tokens.
    The gradient of log p(y | x) into a score is the posterior less the prior of its document (appendix A).

    >>> import jax.numpy as jnp
    >>> both = jnp.log(jnp.array([[[0.5, 0.5], [0.1, 0.1]]]))  # two tokens, under the null document and another
    >>> result = marginalise(jnp.zeros((1, 2)), both, jnp.ones((1, 2)))
    >>> round(float(jnp.exp(-result.loss)), 4)  # (0.25 + 0.01) / 2
    0.13
    >>> result = marginalise(jnp.zeros((1, 2)), both, jnp.ones((1, 2)), marginal=Marginal.TOKEN)
    >>> round(float(jnp.exp(-result.loss)), 4)  # (0.5 + 0.1) / 2
    0.3
    """
    scores = to_float32(scores) if there is None else jnp.where(there, to_float32(scores), MASKED_SCORE)
    log_priors = jax.nn.log_softmax(scores, axis=1)
    each = to_float32(log_likelihoods) * weights[:, None]
    together = jnp.sum(each, axis=-1)
    tokens = jnp.sum(weights, axis=1)
    found = jax.nn.logsumexp(log_priors[..., None] + each, axis=1) * weights
    if marginal is MarginalLikelihood.TOKEN:
        losses, terms = -jnp.sum(found, axis=1), tokens
    else:
        asked = tokens > 0
        losses = jnp.where(asked, -jax.nn.logsumexp(log_priors + together, axis=1), 0)
        terms = asked.astype(tokens.dtype)
    return RealmLoss(losses, terms, jnp.sum(found - each[:, 0], axis=1), tokens, log_priors, together)
