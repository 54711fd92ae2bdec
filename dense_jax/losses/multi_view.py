"""MVR's losses: a passage has several vectors, its views, and a query is answered by the best of them.

Zhang et al. 2022, "Multi-View Document Representation Learning for Open-Domain Dense Retrieval", sections 3.2 and 3.3.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dense_jax.arrays import Array, Bool, Float, Int, wide
from dense_jax.losses.contrast import InBatch, in_batch_softmax


class BestViews(NamedTuple):
    """Each passage's best view for each query."""

    scores: Float[Array, "q p"]
    views: Int[Array, "q p"]


class MultiView(NamedTuple):
    """What each query got."""

    contrast: InBatch  # the global loss: its own passage among all
    local: Float[Array, " q"]  # the best view of its own passage among that passage's views


def best_views(queries: Float[Array, "q d"], passages: Float[Array, "p n d"]) -> BestViews:
    """max_i q p_i, and which i. Of equal views the first is taken, and it alone has the gradient.

    (A maximum would split the gradient among equal views, and views that are equal once would stay so.)

    >>> import jax.numpy as jnp
    >>> found = best_views(jnp.array([[1.0, 0.0]]), jnp.array([[[2.0, 0.0], [0.0, 9.0]], [[1.0, 1.0], [3.0, 0.0]]]))
    >>> found.scores.tolist(), found.views.tolist()
    ([[2.0, 3.0]], [[0, 1]])
    """
    scores = jnp.einsum("qd,pnd->qpn", wide(queries), wide(passages))
    views = jnp.argmax(scores, axis=-1)
    return BestViews(jnp.take_along_axis(scores, views[..., None], axis=-1)[..., 0], views)


def multi_view(
    queries: Float[Array, "q d"],
    passages: Float[Array, "p n d"],
    *,
    temperature: float | Float[Array, ""],
    positives: Int[Array, " q"] | None = None,
    hidden: Bool[Array, "q p"] | None = None,
) -> MultiView:
    """The global and the local loss, whose sum, the latter weighted, is the method's.

    global_i = -log(exp(f(q_i, p+) / T) / sum_j exp(f(q_i, p_j) / T)), where f is the score of the best view;
    local_i  = -log(exp(f(q_i, p+) / T) / sum_n exp(q_i p+_n / T)): over the views of its own passage, by default
    passage i. It lies between 0 and log n. Equations 5 to 7.

    >>> import jax.numpy as jnp
    >>> same = jnp.ones((2, 4, 3))  # four equal views
    >>> [round(float(x), 4) for x in multi_view(jnp.ones((2, 3)), same, temperature=1.0).local]  # log 4
    [1.3863, 1.3863]
    """
    best = best_views(queries, passages)
    own = jnp.arange(queries.shape[0]) if positives is None else positives
    views = jnp.einsum("qd,qnd->qn", wide(queries), wide(passages)[own]) / temperature
    winner = jnp.take_along_axis(best.scores, own[:, None], axis=1)[:, 0] / temperature
    return MultiView(
        in_batch_softmax(best.scores / temperature, positives=own, hidden=hidden),
        jax.nn.logsumexp(views, axis=1) - winner,
    )


def annealed(epoch: int | Int[Array, ""], *, rate: float, floor: float) -> Float[Array, ""]:
    """The temperature of an epoch, counted from 0: max(floor, exp(-rate epoch)). Equation 8.

    >>> round(float(annealed(1, rate=0.1, floor=0.3)), 3), round(float(annealed(13, rate=0.1, floor=0.3)), 3)
    (0.905, 0.3)
    """
    return jnp.maximum(jnp.exp(-rate * jnp.asarray(epoch)), floor)


def viewer_perplexity(best: BestViews, own: Int[Array, " q"], count: int) -> Float[Array, ""]:
    """exp of the entropy of which of `count` views wins for the queries' own passages: 1 if it always is the same.

    Over all queries of a batch; the paper takes it over those of one document. Section 4.4.
    """
    winners = jnp.take_along_axis(best.views, own[:, None], axis=1)[:, 0]
    shares = jnp.mean(jax.nn.one_hot(winners, count), axis=0)
    return jnp.exp(-jnp.sum(jnp.where(shares > 0, shares * jnp.log(jnp.maximum(shares, 1e-30)), 0.0)))
