"""MVR's losses: a passage has several vectors, its views, and a query is answered by the best of them.

Zhang et al. 2022, "Multi-View Document Representation Learning for Open-Domain Dense Retrieval", sections 3.2 and 3.3.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dense_jax.arrays import Array, Float, Int, Metrics, l2_normalize, to_float32
from dense_jax.losses.contrastive import ContrastiveLoss, in_batch_softmax
from dense_jax.losses.similarity import NegativeMask


class MaxViewScores(NamedTuple):
    """Each passage's best view for each query."""

    scores: Float[Array, "q p"]
    views: Int[Array, "q p"]


class MvrLoss(NamedTuple):
    """What each query got."""

    contrast: ContrastiveLoss  # the global loss: its own passage among all
    local: Float[Array, " q"]  # the best view of its own passage among that passage's views


def max_view_scores(queries: Float[Array, "q d"], passages: Float[Array, "p n d"]) -> MaxViewScores:
    """max_i q p_i, and which i. Of equal views the first is taken, and it alone has the gradient.

    (A maximum would split the gradient among equal views, and views that are equal once would stay so.)

    >>> import jax.numpy as jnp
    >>> found = best_views(jnp.array([[1.0, 0.0]]), jnp.array([[[2.0, 0.0], [0.0, 9.0]], [[1.0, 1.0], [3.0, 0.0]]]))
    >>> found.scores.tolist(), found.views.tolist()
    ([[2.0, 3.0]], [[0, 1]])
    """
    scores = jnp.einsum("qd,pnd->qpn", to_float32(queries), to_float32(passages))
    views = jnp.argmax(scores, axis=-1)
    return MaxViewScores(jnp.take_along_axis(scores, views[..., None], axis=-1)[..., 0], views)


def mvr_loss(
    queries: Float[Array, "q d"],
    passages: Float[Array, "p n d"],
    *,
    temperature: float | Float[Array, "#q"],
    positives: Int[Array, " q"] | None = None,
    hidden: NegativeMask | None = None,
) -> MvrLoss:
    """The global and the local loss, whose sum, the latter weighted, is the method's. T may be each query's own.

    global_i = -log(exp(f(q_i, p+) / T) / sum_j exp(f(q_i, p_j) / T)), where f is the score of the best view;
    local_i  = -log(exp(f(q_i, p+) / T) / sum_n exp(q_i p+_n / T)): over the views of its own passage, by default
    passage i. It lies between 0 and log n. Equations 5 to 7.

    >>> import jax.numpy as jnp
    >>> same = jnp.ones((2, 4, 3))  # four equal views
    >>> [round(float(x), 4) for x in multi_view(jnp.ones((2, 3)), same, temperature=1.0).local]  # log 4
    [1.3863, 1.3863]
    """
    best = max_view_scores(queries, passages)
    own = jnp.arange(queries.shape[0]) if positives is None else positives
    scale = jnp.reshape(jnp.asarray(temperature), (-1, 1))
    views = jnp.einsum("qd,qnd->qn", to_float32(queries), to_float32(passages)[own]) / scale
    scores = best.scores / scale
    winner = jnp.take_along_axis(scores, own[:, None], axis=1)[:, 0]
    mask = None if hidden is None else hidden.mask(best.scores)
    return MvrLoss(in_batch_softmax(scores, positives=own, excluded=mask), jax.nn.logsumexp(views, axis=1) - winner)


def annealed_temperature(epoch: int | Int[Array, "*b"], *, rate: float, floor: float) -> Float[Array, "*b"]:
    """The temperature of an epoch, counted from 0: max(floor, exp(-rate epoch)). Equation 8.

    >>> round(float(annealed(1, rate=0.1, floor=0.3)), 3), round(float(annealed(13, rate=0.1, floor=0.3)), 3)
    (0.905, 0.3)
    """
    return jnp.maximum(jnp.exp(-rate * jnp.asarray(epoch)), floor)


def view_collapse_metrics(queries: Float[Array, "q d"], own: Float[Array, "q n d"]) -> Metrics:
    """What is to be watched of the views of the passages that answer `queries`. Section 4.4.

    viewer_perplexity: exp of the entropy of which view scores highest, from 1, always the same, to n. (Over all queries
    of a batch; the paper takes it over those of one document.) local_variation: the highest cosine with the query less
    the mean of the others', 0 where views are equal.

    >>> import jax.numpy as jnp
    >>> views = jnp.array([[[3.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [2.0, 0.0]]])
    >>> found = signs_of_equal_views(jnp.array([[1.0, 0.0], [1.0, 0.0]]), views)
    >>> {name: round(float(x), 3) for name, x in found.items()}
    {'viewer_perplexity': 2.0, 'local_variation': 1.0}
    """
    count = own.shape[1]
    winners = jnp.argmax(jnp.einsum("qd,qnd->qn", to_float32(queries), to_float32(own)), axis=1)
    shares = jnp.mean(jax.nn.one_hot(winners, count), axis=0)
    cosines = jnp.einsum("qd,qnd->qn", l2_normalize(to_float32(queries)), l2_normalize(to_float32(own)))
    highest = jnp.max(cosines, axis=1)
    others = (jnp.sum(cosines, axis=1) - highest) / max(count - 1, 1)
    return {
        "viewer_perplexity": jnp.exp(jnp.sum(jax.scipy.special.entr(shares))),
        "local_variation": jnp.mean(highest - others) if count > 1 else jnp.zeros(()),
    }
