"""Hidden states to one vector of a text: pooling, BERT's pooler, an affine layer, and the projection of ORQA."""

import enum

import jax.numpy as jnp
from flax import linen as nn

from dense_jax.arrays import Array, Bool, Float, np, to_float32
from dense_jax.models.layers import dropout, dropout_rng
from dense_jax.models.transformer import TransformerConfig

PROJECTION_EPSILON = 1e-3  # of the layer normalisations in ORQA's released code


class Pooling(enum.Enum):
    """Reduction of hidden states to one vector."""

    CLS = "cls"  # the first token's hidden state
    MEAN = "mean"  # the mean over real tokens
    POOLER = "pooler"  # BERT's pooler: tanh of an affine layer over the first token's hidden state


def mean_pool(hidden: Float[Array, "b l d"], mask: Bool[Array | np.ndarray, "b l"]) -> Float[Array, "b d"]:
    """Mean over real tokens, in float32; 0 for a row without any.

    >>> mean_pool(jnp.array([[[1.0], [3.0], [99.0]]]), jnp.array([[True, True, False]])).tolist()
    [[2.0]]
    """
    hidden = to_float32(hidden)
    weights = jnp.asarray(mask, hidden.dtype)
    total = jnp.einsum("bld,bl->bd", hidden, weights)
    return total / jnp.maximum(weights.sum(-1, keepdims=True), 1)


class Pooler(nn.Module):
    """BERT's pooler: tanh(W h + b) of the first token's hidden state h. Float32."""

    config: TransformerConfig

    @nn.compact
    def __call__(self, first: Float[Array, "*n d"]) -> Float[Array, "*n d"]:
        return jnp.tanh(_dense32(self.config.width, nn.initializers.normal(self.config.initializer))(first))


class Projection(nn.Module):
    """LayerNorm(W x + b), then dropout: the retrieval head of ORQA (Lee et al. 2019), section 4. Float32."""

    width: int
    dropout: float

    @nn.compact
    def __call__(self, pooled: Float[Array, "*n d"]) -> Float[Array, "*n p"]:
        x = _dense32(self.width, nn.initializers.glorot_uniform())(pooled)
        x = nn.LayerNorm(PROJECTION_EPSILON, use_fast_variance=False, name="norm")(x)
        return dropout(x, self.dropout, dropout_rng(self))


def _dense32(width: int, initializer: nn.initializers.Initializer) -> nn.Dense:
    """Affine layer in float32 whatever the compute type: applied to few vectors, which are compared to many digits."""
    return nn.Dense(width, kernel_init=initializer, name="dense")
