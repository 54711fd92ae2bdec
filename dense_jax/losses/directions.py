"""Contrastive directions: query-to-passage, symmetric, or joint (GTE)."""

import enum
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dense_jax.arrays import Array, Float, Int
from dense_jax.losses.contrastive import ContrastiveLoss, contrastive_loss, log_sum_exp_of_negatives
from dense_jax.losses.similarity import NegativeMask, TextIds


class Directions(enum.Enum):
    """Softmaxes of a contrastive loss."""

    PASSAGES = "passages"  # over passages, for each query
    BOTH = "both"  # also over queries, for each query's own passage: the mean of both losses
    JOINT = "joint"  # one softmax over all scores of a pair, between queries and between passages too (GTE)


class EncodedTexts(NamedTuple):
    """Vectors and ids of all queries, or of all passages, of a batch."""

    vectors: Float[Array, "n d"]
    text_ids: TextIds


def directional_contrastive_loss(
    queries: EncodedTexts,
    passages: EncodedTexts,
    *,
    directions: Directions = Directions.PASSAGES,
    thresholds: Float[Array, " q"] | None = None,
    temperature: float = 1.0,
    smoothing: float = 0.0,
    chunk: int = 0,
) -> ContrastiveLoss:
    """Contrastive loss of q queries with g passages each, the own ones first: passage n q + i belongs to query i.

    In every direction, two texts that share an id are no negatives of each other, nor is a text that scores above the
    pair's threshold (`NegativeMask`). Rank and candidates are those of query-to-passage.

    JOINT is logsumexp over the four losses of a pair, query-to-passage, passage-to-query, query-to-query and
    passage-to-passage, so that their denominators add up; smoothing applies to the first two only.
    GTE (Li et al. 2023), section 3.3, where the own pair is counted in both directions.

    >>> import jax.numpy as jnp
    >>> texts = EncodedTexts(jnp.eye(2), TextIds(jnp.array([[0], [1]])))
    >>> result = directional_contrastive_loss(texts, texts, directions=Directions.JOINT)
    >>> round(float(result.loss[0]), 4)  # log(2 + 4 / e)
    1.2446
    """
    positives = jax.tree.map(lambda x: x[: len(queries.vectors)], passages)
    common = {"temperature": temperature, "chunk": chunk}

    def softmax(rows: EncodedTexts, columns: EncodedTexts) -> ContrastiveLoss:
        mask = NegativeMask(rows.text_ids, columns.text_ids, thresholds)
        return contrastive_loss(rows.vectors, columns.vectors, negative_mask=mask, smoothing=smoothing, **common)

    def negatives(rows: EncodedTexts, columns: EncodedTexts) -> Array:
        mask = NegativeMask(rows.text_ids, columns.text_ids, thresholds)
        return log_sum_exp_of_negatives(rows.vectors, columns.vectors, negative_mask=mask, **common)

    forward = softmax(queries, passages)
    if directions is Directions.PASSAGES:
        return forward
    backward = softmax(positives, queries)
    if directions is Directions.BOTH:
        return forward._replace(loss=(forward.loss + backward.loss) / 2)
    positive_score = jnp.einsum("qd,qd->q", queries.vectors, positives.vectors) / temperature
    within = negatives(queries, queries), negatives(_with_group_ids(positives, queries, passages), passages)
    losses = jnp.stack([forward.loss, backward.loss, *(log_sum - positive_score for log_sum in within)])
    return forward._replace(loss=jax.nn.logsumexp(losses, axis=0))


def _with_group_ids(positives: EncodedTexts, queries: EncodedTexts, passages: EncodedTexts) -> EncodedTexts:
    """Add the ids of the query's known positives and of all its passages: none is a negative of the positive."""
    count = len(queries.vectors)
    group: Int[Array, "q g"] = passages.text_ids.ids.reshape(-1, count).T
    ids = jnp.concatenate([queries.text_ids.ids, group], axis=1)
    return positives._replace(text_ids=positives.text_ids._replace(ids=ids))
