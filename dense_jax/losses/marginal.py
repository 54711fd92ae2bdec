"""REALM's loss: marginal likelihood of masked tokens over latent documents, p(y | x) = sum_z p(z | x) p(y | z, x).

Candidate 0 is the null document. Gradients reach all scores and all likelihoods; the choice of candidates has none.
Guu et al. 2020, "REALM: Retrieval-Augmented Language Model Pre-Training", section 3.
"""

import enum
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dense_jax.arrays import Array, Bool, Float, Int, to_float32, weighted_mean
from dense_jax.losses.similarity import MASKED_SCORE


class MarginalLikelihood(enum.Enum):
    """Likelihood that is summed over the documents; with one masked token both are the same."""

    SEQUENCE = "sequence"  # of all masked tokens jointly, as published
    TOKEN = "token"  # of each masked token separately, as in the released code


class RealmLoss(NamedTuple):
    """Sums over the terms of each example. The rows may be computed in chunks and concatenated.

    An example without a masked token has no terms and enters no mean.
    """

    losses: Float[Array, " b"]  # -log p(y | x), of all tokens jointly, or summed over them
    terms: Float[Array, " b"]  # 1, or the number of masked tokens
    gains: Float[Array, " b"]  # log p(y_j | x) - log p(y_j | null, x), summed over the tokens
    tokens: Float[Array, " b"]  # number of masked tokens
    log_priors: Float[Array, "b k"]  # log p(z | x)
    log_likelihoods: Float[Array, "b k"]  # log p(y | z, x), summed over the tokens

    @property
    def loss(self) -> Float[Array, ""]:
        """Mean over the examples of the batch, or over their masked tokens; 0 without any."""
        return jnp.sum(self.losses) / jnp.maximum(jnp.sum(self.terms), 1)

    @property
    def utility(self) -> Float[Array, ""]:
        """Retrieval utility: mean gain of a masked token's log-likelihood over that under the null document."""
        return jnp.sum(self.gains) / jnp.maximum(jnp.sum(self.tokens), 1)

    @property
    def null_mass(self) -> Float[Array, ""]:
        """Prior of the null document, averaged over the examples with a masked token."""
        return weighted_mean(jnp.exp(self.log_priors[:, 0]), self.tokens > 0)


def token_log_likelihoods(logits: Float[Array, "b k m v"], targets: Int[Array, "b m"]) -> Float[Array, "b k m"]:
    """log p(y_j | z, x) of the original tokens at the masked positions, under each candidate document.

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
    is_valid: Bool[Array, "b k"] | None = None,
    marginal: MarginalLikelihood = MarginalLikelihood.SEQUENCE,
) -> RealmLoss:
    """-log p(y | x) of the tokens of weight 1 (others: 0), with p(z | x) = softmax(scores) over the valid candidates.

    sequence: -log sum_z p(z | x) prod_j p(y_j | z, x), averaged over examples;
    token:    -sum_j log sum_z p(z | x) p(y_j | z, x), averaged over all masked tokens.
    The gradient of log p(y | x) into a score is the posterior minus the prior of its document (appendix A).

    >>> import jax.numpy as jnp
    >>> tokens = jnp.log(jnp.array([[[0.5, 0.5], [0.1, 0.1]]]))  # two tokens, under the null document and another
    >>> result = realm_loss(jnp.zeros((1, 2)), tokens, jnp.ones((1, 2)))
    >>> round(float(jnp.exp(-result.loss)), 4)  # (0.25 + 0.01) / 2
    0.13
    >>> result = realm_loss(jnp.zeros((1, 2)), tokens, jnp.ones((1, 2)), marginal=MarginalLikelihood.TOKEN)
    >>> round(float(jnp.exp(-result.loss)), 4)  # (0.5 + 0.1) / 2
    0.3
    """
    scores = to_float32(scores) if is_valid is None else jnp.where(is_valid, to_float32(scores), MASKED_SCORE)
    log_priors = jax.nn.log_softmax(scores, axis=1)
    by_token = to_float32(log_likelihoods) * weights[:, None]
    by_document = jnp.sum(by_token, axis=-1)
    tokens = jnp.sum(weights, axis=1)
    token_marginals = jax.nn.logsumexp(log_priors[..., None] + by_token, axis=1) * weights
    if marginal is MarginalLikelihood.TOKEN:
        losses, terms = -jnp.sum(token_marginals, axis=1), tokens
    else:
        has_tokens = tokens > 0
        losses = jnp.where(has_tokens, -jax.nn.logsumexp(log_priors + by_document, axis=1), 0)
        terms = has_tokens.astype(tokens.dtype)
    gains = jnp.sum(token_marginals - by_token[:, 0], axis=1)
    return RealmLoss(losses, terms, gains, tokens, log_priors, by_document)
