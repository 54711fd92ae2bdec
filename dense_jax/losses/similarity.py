"""Similarity scores of queries and passages, and the mask that removes false negatives."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dense_jax.arrays import Array, Bool, Float, Int

MASKED_SCORE = -1e30  # score of a masked candidate; finite: infinity would give 0 * infinity in a backward pass


def dot_scores(queries: Float[Array, "q d"], passages: Float[Array, "p d"]) -> Float[Array, "q p"]:
    """Inner products of all queries with all passages, accumulated in float32.

    >>> import jax.numpy as jnp
    >>> dot_scores(jnp.array([[1.0, 2.0]]), jnp.array([[3.0, 4.0], [5.0, 6.0]])).tolist()
    [[11.0, 17.0]]
    """
    exact = jnp.promote_types(queries.dtype, jnp.float32)
    return jnp.einsum("qd,pd->qp", queries, passages, preferred_element_type=exact)


class TextIds(NamedTuple):
    """Identifiers of n texts, and optionally a guide model's vectors of them."""

    ids: Int[Array, "n k"]  # of a passage: its own id; of a query: those of its known positives; -1: padding
    guide: Float[Array, "n e"] | None = None


class NegativeMask(NamedTuple):
    """Rule by which passages are masked as negatives of a query. Callers must keep the query's own passage.

    A passage is masked if it shares an id with the query, if it has no id (an empty slot of the batch), or if its
    score exceeds the query's threshold. The score is the guide's, or without a guide the model's own before the
    temperature.
    """

    queries: TextIds
    passages: TextIds
    thresholds: Float[Array, " q"] | None = None

    def mask(self, scores: Float[Array, "q p"]) -> Bool[Array, "q p"]:
        """Return True where a passage is masked.

        >>> import jax.numpy as jnp
        >>> passages = TextIds(jnp.array([[7], [8], [-1]]))
        >>> NegativeMask(TextIds(jnp.array([[7, 9]])), passages).mask(jnp.zeros((1, 3))).tolist()
        [[True, False, True]]
        """
        queries, passages = self.queries.ids, self.passages.ids
        is_empty = jnp.all(passages < 0, axis=1)
        queries = jnp.where(queries < 0, -2, queries)  # padding of a query does not match padding of a passage
        same_id = jnp.any(queries[:, None, :, None] == passages[None, :, None, :], axis=(2, 3))  # XLA holds only [q, p]
        is_masked = same_id | is_empty[None]
        if self.thresholds is not None:
            is_masked |= self._filter_scores(scores) > self.thresholds[:, None]
        return is_masked

    def _filter_scores(self, scores: Array) -> Array:
        if self.queries.guide is None or self.passages.guide is None:
            return scores
        return dot_scores(self.queries.guide, self.passages.guide)


def false_negative_thresholds(
    positives: Float[Array, " q"], *, margin: float, relative: bool = False
) -> Float[Array, " q"]:
    """Score above which a passage counts as a false negative: s+ - margin, or s+ - |s+| margin if `relative`.

    `positives` are the scores of the queries with their own passages; no gradient passes through them. GISTEmbed
    (Solatorio 2024), section 3; the two margins are those of NV-Retriever (Moreira et al. 2024).

    >>> import jax.numpy as jnp
    >>> [round(float(x), 2) for x in false_negative_thresholds(jnp.array([0.8, -0.4]), margin=0.1, relative=True)]
    [0.72, -0.44]
    """
    positives = jax.lax.stop_gradient(positives)
    return positives - margin * (jnp.abs(positives) if relative else 1)
