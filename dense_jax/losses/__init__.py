"""Losses as pure functions of arrays, in float32 whatever the encoder's compute type; float64 stays float64.

A loss is written for the global batch: under `jit` over a mesh, with the batch sharded, each device holds only the
score rows of its own queries, and XLA gathers the passages and sums their gradients over devices.
"""

from dense_jax.losses.contrastive import (
    ContrastiveLoss,
    contrastive_loss,
    in_batch_softmax,
    log_sum_exp_of_negatives,
    queue_softmax,
)
from dense_jax.losses.directions import Directions, EncodedTexts, directional_contrastive_loss
from dense_jax.losses.distillation import has_scores, kl_divergence, margin_mse
from dense_jax.losses.language import MaskedLMLoss, bag_of_words_loss, masked_lm_loss, weighted_mean
from dense_jax.losses.marginal import MarginalLikelihood, RealmLoss, realm_loss, token_log_likelihoods
from dense_jax.losses.similarity import NegativeMask, TextIds, dot_scores, false_negative_thresholds

__all__ = [
    "ContrastiveLoss",
    "Directions",
    "EncodedTexts",
    "MarginalLikelihood",
    "MaskedLMLoss",
    "NegativeMask",
    "RealmLoss",
    "TextIds",
    "bag_of_words_loss",
    "contrastive_loss",
    "directional_contrastive_loss",
    "dot_scores",
    "false_negative_thresholds",
    "has_scores",
    "in_batch_softmax",
    "kl_divergence",
    "log_sum_exp_of_negatives",
    "margin_mse",
    "masked_lm_loss",
    "queue_softmax",
    "realm_loss",
    "token_log_likelihoods",
    "weighted_mean",
]
