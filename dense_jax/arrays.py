"""Array types of the package, and the letters of their axes.

    b batch   q queries   p passages   l tokens   m masked positions   d width
    h heads   v vocabulary   n views   k queue or top-k

`Float[Array, "q p"]` is checked in the tests only (jaxtyping); einsum uses the same letters.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, PRNGKeyArray
from jaxtyping import Integer as Int  # signed or not: stored token ids are unsigned

Params = Mapping[str, Any]  # a tree of arrays under plain string keys
Carry = Mapping[str, Any]  # state of an objective without gradient, such as a queue; {} for most
Batch = Mapping[str, Any]  # stacked examples: arrays and Tokens, first axis b
Example = dict[str, Any]  # one row of a batch: numpy arrays and Tokens of fixed shapes
Encoded = Any  # output of an objective's `encode`, row by row: a tree of arrays, first axis b
Metrics = dict[str, Array]  # float32 scalars

_SMALLEST_NORM = 1e-12


def to_float32(x: Array) -> Array:
    """Convert to float32; float64 stays float64. The type of sums, norms and softmax."""
    return jnp.asarray(x, jnp.promote_types(x.dtype, jnp.float32))


def l2_normalize(vectors: Float[Array, "*n d"]) -> Float[Array, "*n d"]:
    """x / |x|; 0 stays 0, with a finite gradient.

    >>> [round(float(x), 2) for x in l2_normalize(jnp.array([3.0, 4.0]))]
    [0.6, 0.8]
    """
    square = jnp.sum(vectors * vectors, -1, keepdims=True)
    return vectors * jax.lax.rsqrt(jnp.maximum(square, _SMALLEST_NORM**2))


def weighted_mean(values: Array, weights: Array) -> Float[Array, ""]:
    """sum(values * weights) / sum(weights); 0 if all weights are 0.

    >>> float(weighted_mean(jnp.array([1.0, 3.0]), jnp.array([1.0, 0.0])))
    1.0
    """
    weights = weights.astype(jnp.float32)
    return jnp.sum(to_float32(values) * weights) / jnp.maximum(jnp.sum(weights), 1.0)


def split_key(rng: PRNGKeyArray | None, count: int) -> Sequence[PRNGKeyArray | None]:
    """Split a key into `count` keys; None into `count` times None."""
    return (None,) * count if rng is None else list(jax.random.split(rng, count))


def first_occurrences(numbers: Int[np.ndarray, " n"]) -> Int[np.ndarray, " m"]:
    """Return the position of the first occurrence of each different number, in ascending order.

    >>> first_occurrences(np.array([7, 7, 3, 7, 5, 3])).tolist()
    [0, 2, 4]
    """
    return np.sort(np.unique(numbers, return_index=True)[1])


__all__ = [
    "Array",
    "Batch",
    "Bool",
    "Carry",
    "Encoded",
    "Example",
    "Float",
    "Int",
    "Metrics",
    "PRNGKeyArray",
    "Params",
    "first_occurrences",
    "l2_normalize",
    "np",
    "split_key",
    "to_float32",
    "weighted_mean",
]
