"""Collapse metrics: alignment, uniformity, mean cosine, effective rank and norms of an encoder's vectors.

No single number suffices: vectors that differ by noise alone can still have perfect in-batch accuracy, and vectors in a
plane can have a mean cosine of 0.
"""

import jax.numpy as jnp

from dense_jax.arrays import Array, Float, Metrics, l2_normalize, to_float32

_SMALLEST_SHARE = 1e-7  # added to each share of the spectrum, as in RankMe
_KERNEL = 2.0  # t of the Gaussian potential exp(-t |u - v|^2)


def collapse_metrics(queries: Float[Array, "b d"], passages: Float[Array, "b d"]) -> Metrics:
    """All collapse metrics of a batch of pairs: query i belongs to passage i.

    >>> import jax.numpy as jnp
    >>> metrics = collapse_metrics(jnp.ones((2, 3)), jnp.ones((2, 3)))  # both collapsed to one point
    >>> {name: round(float(metrics[name]), 3) for name in ("alignment", "mean_cosine", "rank_me")}
    {'alignment': 0.0, 'mean_cosine': 1.0, 'rank_me': 1.0}
    """
    queries, passages = to_float32(queries), to_float32(passages)
    scores = jnp.einsum("qd,pd->qp", queries, passages)
    norms = {name: jnp.linalg.norm(x, axis=1) for name, x in (("query", queries), ("passage", passages))}
    return {
        "alignment": alignment(queries, passages),
        "uniformity": (uniformity(queries) + uniformity(passages)) / 2,
        "mean_cosine": mean_cosine(passages),
        "rank_me": rank_me(passages),
        "query_norm": jnp.mean(norms["query"]),
        "passage_norm": jnp.mean(norms["passage"]),
        "score_min": jnp.min(scores),
        "score_max": jnp.max(scores),
    }


def alignment(queries: Float[Array, "b d"], passages: Float[Array, "b d"]) -> Float[Array, ""]:
    """Mean of |u - v|^2 over pairs of unit vectors: 0 where they coincide. Wang and Isola 2020, section 4.

    >>> import jax.numpy as jnp
    >>> float(alignment(jnp.array([[2.0, 0.0], [0.0, 1.0]]), jnp.array([[1.0, 0.0], [1.0, 0.0]])))  # (0 + 2) / 2
    1.0
    """
    return jnp.mean(jnp.sum(jnp.square(l2_normalize(queries) - l2_normalize(passages)), axis=1))


def uniformity(vectors: Float[Array, "b d"]) -> Float[Array, ""]:
    """Logarithm of the mean of exp(-2 |u - v|^2) over all pairs of different rows, as unit vectors.

    0 if all rows are one point, about -4 if they are spread over the sphere. Wang and Isola 2020, section 4.

    >>> import jax.numpy as jnp
    >>> round(float(uniformity(jnp.array([[1.0, 0.0], [-3.0, 0.0]]))), 4)  # their distance is 2
    -8.0
    """
    rows = l2_normalize(vectors)
    squares = jnp.maximum(2 - 2 * rows @ rows.T, 0)
    others = ~jnp.eye(len(rows), dtype=bool)
    return jnp.log(jnp.sum(jnp.where(others, jnp.exp(-_KERNEL * squares), 0)) / jnp.sum(others))


def mean_cosine(vectors: Float[Array, "b d"]) -> Float[Array, ""]:
    """Mean cosine of two different rows: 0 if directions are spread out, 1 if all are the same.

    >>> import jax.numpy as jnp
    >>> float(mean_cosine(jnp.array([[2.0, 0.0], [1.0, 0.0], [0.0, 1.0]])))  # 1, 0 and 0
    0.3333333432674408
    """
    count = vectors.shape[0]
    total = jnp.sum(l2_normalize(vectors), axis=0)
    return (total @ total - count) / (count * (count - 1))


def rank_me(vectors: Float[Array, "b d"]) -> Float[Array, ""]:
    """Effective rank: exp of the entropy of the normalised singular values, from 1 to min(b, d).

    Garrido et al. 2023, "RankMe", equation 1; rows are not centred.

    >>> import jax.numpy as jnp
    >>> round(float(rank_me(jnp.eye(4))), 3), round(float(rank_me(jnp.ones((4, 4)))), 3)
    (4.0, 1.0)
    """
    values = jnp.linalg.svd(vectors, compute_uv=False)
    shares = values / jnp.maximum(jnp.sum(values), 1e-30) + _SMALLEST_SHARE
    return jnp.exp(-jnp.sum(shares * jnp.log(shares)))
