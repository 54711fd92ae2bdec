"""The head of ORQA's reader: a score of every candidate span."""

import jax.numpy as jnp
from flax import linen as nn

from dense_jax.arrays import Array, Float, Int, Params, PRNGKeyArray, np
from dense_jax.models.heads import PROJECTION_EPSILON
from dense_jax.models.layers import apply_module, apply_to_rows, init_params


class SpanScorer(nn.Module):
    """w LayerNorm(relu(A h_start + B h_end + b)) + c, for spans from `starts` to `ends`, both inclusive.

    h are the reader's hidden states; A and B, of `width` rows each, are the halves of one kernel. Float32, whatever the
    type of h. The released code of ORQA (Lee et al. 2019).
    """

    width: int = 256

    @nn.compact
    def __call__(
        self, hidden: Float[Array, "*n l d"], starts: Int[Array | np.ndarray, " s"], ends: Int[Array | np.ndarray, " s"]
    ) -> Float[Array, "*n s"]:
        drawn = nn.initializers.truncated_normal(0.02)
        both = apply_to_rows(nn.Dense(2 * self.width, kernel_init=drawn, name="dense"), hidden)
        first, last = jnp.split(both, 2, axis=-1)
        x = nn.relu(first[..., starts, :] + last[..., ends, :])
        x = nn.LayerNorm(PROJECTION_EPSILON, use_fast_variance=False, name="norm")(x)
        return nn.Dense(1, kernel_init=drawn, name="score")(x)[..., 0]


def init_span_scorer(width: int, rng: PRNGKeyArray) -> Params:
    """Fresh parameters over hidden states of `width`: the subtree "spans" of a reader's parameters."""
    first = np.zeros(1, np.int32)
    return init_params(SpanScorer(), rng, jnp.zeros((1, width)), first, first)


def score_spans(
    params: Params, hidden: Float[Array, "n l d"], starts: Int[np.ndarray, " s"], ends: Int[np.ndarray, " s"]
) -> Float[Array, "n s"]:
    """The scores by `params["spans"]` of the spans from `starts` to `ends`, both inclusive."""
    return apply_module(SpanScorer(), params["spans"], hidden, starts, ends)
