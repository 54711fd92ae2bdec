"""MVR's loss: a passage has several vectors, its views, and scores by the best of them.

Zhang et al. 2022, "Multi-View Document Representation Learning for Open-Domain Dense Retrieval", sections 3.2 and 3.3.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dense_jax.arrays import Array, Float, Int, Metrics, l2_normalize, to_float32
from dense_jax.losses.contrastive import ContrastiveLoss, in_batch_softmax
from dense_jax.losses.similarity import NegativeMask


class MaxViewScores(NamedTuple):
    """Score of each passage's best view for each query."""

    scores: Float[Array, "q p"]
    views: Int[Array, "q p"]  # index of the best view


class MvrLoss(NamedTuple):
    """Global and local loss of each query."""

    contrastive: ContrastiveLoss  # global: its own passage among all passages
    local: Float[Array, " q"]  # the best view of its own passage among that passage's views


def max_view_scores(queries: Float[Array, "q d"], passages: Float[Array, "p n d"]) -> MaxViewScores:
    """max_i q p_i and its argmax. Of equal views the first wins, and it alone receives the gradient.

    (`jnp.max` would split the gradient among equal views, and views that are equal once would stay equal.)

    >>> import jax.numpy as jnp
    >>> passages = jnp.array([[[2.0, 0.0], [0.0, 9.0]], [[1.0, 1.0], [3.0, 0.0]]])
    >>> found = max_view_scores(jnp.array([[1.0, 0.0]]), passages)
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
    negative_mask: NegativeMask | None = None,
) -> MvrLoss:
    """Global and local loss of MVR; the method's loss is global + lambda local. T may differ from query to query.

    global_i = -log(exp(f(q_i, p+) / T) / sum_j exp(f(q_i, p_j) / T)), where f is the score of the best view;
    local_i  = -log(exp(f(q_i, p+) / T) / sum_n exp(q_i p+_n / T)), over the n views of the own passage p+, by default
    passage i. The local loss lies between 0 and log n. Equations 5 to 7.

    >>> import jax.numpy as jnp
    >>> same = jnp.ones((2, 4, 3))  # four equal views
    >>> [round(float(x), 4) for x in mvr_loss(jnp.ones((2, 3)), same, temperature=1.0).local]  # log 4
    [1.3863, 1.3863]
    """
    best = max_view_scores(queries, passages)
    own = jnp.arange(queries.shape[0]) if positives is None else positives
    scale = jnp.reshape(jnp.asarray(temperature), (-1, 1))
    views = jnp.einsum("qd,qnd->qn", to_float32(queries), to_float32(passages)[own]) / scale
    scores = best.scores / scale
    winner = jnp.take_along_axis(scores, own[:, None], axis=1)[:, 0]
    masked = None if negative_mask is None else negative_mask.mask(best.scores)
    contrastive = in_batch_softmax(scores, positives=own, masked=masked)
    return MvrLoss(contrastive, jax.nn.logsumexp(views, axis=1) - winner)


def annealed_temperature(epoch: int | Int[Array, "*b"], *, rate: float, floor: float) -> Float[Array, "*b"]:
    """Temperature of an epoch, counted from 0: max(floor, exp(-rate epoch)). Equation 8.

    >>> [round(float(annealed_temperature(epoch, rate=0.1, floor=0.3)), 3) for epoch in (0, 1, 13)]
    [1.0, 0.905, 0.3]
    """
    return jnp.maximum(jnp.exp(-rate * jnp.asarray(epoch)), floor)


def view_collapse_metrics(queries: Float[Array, "q d"], own: Float[Array, "q n d"]) -> Metrics:
    """Collapse metrics of views: `own` are the n views of the passage that answers each query. Section 4.4.

    view_perplexity: exp of the entropy of the best view's index, from 1 (always the same view) to n. The paper takes it
    over the queries of one document, we take it over those of a batch. local_variation: highest cosine of a view with
    the query minus the mean cosine of the other views; 0 where all views are equal.

    >>> import jax.numpy as jnp
    >>> views = jnp.array([[[3.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [2.0, 0.0]]])
    >>> found = view_collapse_metrics(jnp.array([[1.0, 0.0], [1.0, 0.0]]), views)
    >>> {name: round(float(x), 3) for name, x in found.items()}
    {'view_perplexity': 2.0, 'local_variation': 1.0}
    """
    count = own.shape[1]
    winners = jnp.argmax(jnp.einsum("qd,qnd->qn", to_float32(queries), to_float32(own)), axis=1)
    shares = jnp.mean(jax.nn.one_hot(winners, count), axis=0)
    cosines = jnp.einsum("qd,qnd->qn", l2_normalize(to_float32(queries)), l2_normalize(to_float32(own)))
    highest = jnp.max(cosines, axis=1)
    others = (jnp.sum(cosines, axis=1) - highest) / max(count - 1, 1)
    return {
        "view_perplexity": jnp.exp(jnp.sum(jax.scipy.special.entr(shares))),
        "local_variation": jnp.mean(highest - others) if count > 1 else jnp.zeros(()),
    }
