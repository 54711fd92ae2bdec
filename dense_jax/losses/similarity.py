"""What queries and passages are compared by, and which passages are no candidates of a query."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dense_jax.arrays import Array, Bool, Float, Int

MASKED_SCORE = (
    -1e30
)  # the score of what may not be chosen; finite: infinity would become 0 * infinity in a backward pass


def dot_scores(queries: Float[Array, "q d"], passages: Float[Array, "p d"]) -> Float[Array, "q p"]:
    """Inner products of all queries with all passages, accumulated in float32."""
    exact = jnp.promote_types(queries.dtype, jnp.float32)
    return jnp.einsum("qd,pd->qp", queries, passages, preferred_element_type=exact)


class TextIds(NamedTuple):
    """What is known of texts beside their vectors."""

    texts: Int[Array, "n k"]  # numbers, such as a passage's own, or those of all that answers a query; -1: none
    guide: Float[Array, "n e"] | None = None  # another model's vectors


class NegativeMask(NamedTuple):
    """Which passages are hidden from a query, its own not excepted: that is left to whoever knows it.

    Those that share a number with it, those without any number, which are not there, and those that score above its
    ceiling: by the guide's vectors, or without a guide by the scores themselves, before the temperature.
    """

    queries: TextIds
    passages: TextIds
    ceiling: Float[Array, " q"] | None = None

    def mask(self, scores: Float[Array, "q p"]) -> Bool[Array, "q p"]:
        """
        >>> import jax.numpy as jnp
        >>> texts = jnp.array([[7], [8], [-1]])
        >>> Hidden(Marks(jnp.array([[7, 9]])), Marks(texts)).mask(jnp.zeros((1, 3))).tolist()
        [[True, False, True]]
        """
        mine, theirs = self.queries.texts, self.passages.texts
        absent = jnp.all(theirs < 0, axis=1)
        mine = jnp.where(mine < 0, -2, mine)  # what is none is not the same as another that is none
        shared = jnp.any(mine[:, None, :, None] == theirs[None, :, None, :], axis=(2, 3))  # XLA holds [q, p] of it
        hidden = shared | absent[None]
        if self.ceiling is not None:
            hidden |= self._compared(scores) > self.ceiling[:, None]
        return hidden

    def _compared(self, scores: Array) -> Array:
        if self.queries.guide is None or self.passages.guide is None:
            return scores
        return dot_scores(self.queries.guide, self.passages.guide)


def false_negative_thresholds(
    positives: Float[Array, " q"], *, margin: float, relative: bool = False
) -> Float[Array, " q"]:
    """The score from which on a passage is taken for an answer: s+ - margin, or s+ - |s+| margin where `relative`.

    `positives` are the queries' scores with their own passages, through which no gradient passes. GISTEmbed (Solatorio
    2024), section 3; the margins are those of NV-Retriever (Moreira et al. 2024).

    >>> import jax.numpy as jnp
    >>> [round(float(x), 2) for x in ceilings(jnp.array([0.8, -0.4]), margin=0.1, relative=True)]
    [0.72, -0.44]
    """
    positives = jax.lax.stop_gradient(positives)
    return positives - margin * (jnp.abs(positives) if relative else 1)
