"""What is told from what: queries' passages, and also passages' queries, or all of both from each other."""

import enum
from typing import NamedTuple

import jax
import jax.numpy as jnp

from dense_jax.arrays import Array, Float, Int
from dense_jax.losses.contrastive import ContrastiveLoss, contrastive_loss, log_sum_exp_of_negatives
from dense_jax.losses.similarity import NegativeMask, TextIds


class Directions(enum.Enum):
    """Who looks for whom."""

    PASSAGES = "passages"  # each query for its passage
    BOTH = "both"  # each passage that answers a query for that query too: the mean of both losses
    JOINT = "joint"  # one softmax over a pair's scores with all others, queries with queries too (GTE)


class EncodedTexts(NamedTuple):
    """All queries, or all passages, of a batch."""

    vectors: Float[Array, "n d"]
    marks: TextIds


def directional_contrastive_loss(
    queries: EncodedTexts,
    passages: EncodedTexts,
    *,
    directions: Directions = Directions.PASSAGES,
    ceiling: Float[Array, " q"] | None = None,
    temperature: float = 1.0,
    smoothing: float = 0.0,
    chunk: int = 0,
) -> ContrastiveLoss:
    """The loss of queries whose own passages stand first among all, the further ones of each after them in rounds.

    Passage n q + i is query i's. Whatever the directions, a query and a passage are hidden from each other if they
    share a number, and what scores above the `ceiling` of a pair is hidden from it. Rank and candidates are the
    query's. Joint: log(exp(loss of the query) + ...) over the four sums of the denominator; smoothing is none of it.
    GTE (Li et al. 2023), section 3.3, where the own pair is counted in both directions.

    >>> import jax.numpy as jnp
    >>> side = Side(jnp.eye(2), Marks(jnp.array([[0], [1]])))
    >>> round(float(contrast_pairs(side, side, directions=Directions.JOINT).loss[0]), 4)  # log(2 + 4 / e)
    1.2446
    """
    golds = jax.tree.map(lambda x: x[: len(queries.vectors)], passages)
    scaled = {"temperature": temperature, "chunk": chunk}

    def softmax(rows: EncodedTexts, columns: EncodedTexts) -> ContrastiveLoss:
        hidden = NegativeMask(rows.marks, columns.marks, ceiling)
        return contrastive_loss(rows.vectors, columns.vectors, negative_mask=hidden, smoothing=smoothing, **scaled)

    def normaliser(rows: EncodedTexts, columns: EncodedTexts) -> Array:
        return log_sum_exp_of_negatives(
            rows.vectors, columns.vectors, negative_mask=NegativeMask(rows.marks, columns.marks, ceiling), **scaled
        )

    result = softmax(queries, passages)
    if directions is Directions.PASSAGES:
        return result
    back = softmax(golds, queries)
    if directions is Directions.BOTH:
        return result._replace(loss=(result.loss + back.loss) / 2)
    positive = jnp.einsum("qd,qd->q", queries.vectors, golds.vectors) / temperature
    others = normaliser(queries, queries), normaliser(_with_group(golds, queries, passages), passages)
    losses = jnp.stack([result.loss, back.loss, *(other - positive for other in others)])
    return result._replace(loss=jax.nn.logsumexp(losses, axis=0))


def _with_group(golds: EncodedTexts, queries: EncodedTexts, passages: EncodedTexts) -> EncodedTexts:
    """`golds`, marked by all that belongs to the same query: what it knows, and its further passages."""
    count = len(queries.vectors)
    group: Int[Array, "q g"] = passages.marks.texts.reshape(-1, count).T
    return golds._replace(marks=golds.marks._replace(texts=jnp.concatenate([queries.marks.texts, group], axis=1)))
