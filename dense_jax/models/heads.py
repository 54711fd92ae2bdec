"""What stands on BERT: pooling, the projection, the masked-language-model head."""

import enum

import jax.numpy as jnp
from flax import linen as nn

from dense_jax.arrays import Array, Bool, Float, Int, np, to_float32
from dense_jax.models.bert import BertConfig, Block, attention_on_mesh, dense_layer, layer_norm
from dense_jax.models.layers import apply_to_rows, dropout, dropout_rng, gelu

PROJECTION_EPSILON = 1e-3  # of the layer normalisation of ORQA's released code


class Pooling(enum.Enum):
    """How hidden states become one vector."""

    CLS = "cls"  # the first token's
    MEAN = "mean"  # the mean over real tokens
    POOLER = "pooler"  # BERT's: tanh of an affine layer over the first token's


def mean_pool(hidden: Float[Array, "b l d"], mask: Bool[Array | np.ndarray, "b l"]) -> Float[Array, "b d"]:
    """The float32 mean over real tokens; 0 where a row has none."""
    hidden = to_float32(hidden)
    weights = jnp.asarray(mask, hidden.dtype)
    total = jnp.einsum("bld,bl->bd", hidden, weights)
    return total / jnp.maximum(weights.sum(-1, keepdims=True), 1)


def pool_segments(
    hidden: Float[Array, "r l d"], segments: Int[Array, "r l"], starts: Int[Array, "r s"], pooling: Pooling
) -> Float[Array, "r s d"]:
    """What `pooling` takes of each of the s texts of a row; 0 where a mean is asked for and there is no text."""
    if pooling is not Pooling.MEAN:
        return to_float32(jnp.take_along_axis(hidden, starts[..., None], axis=1))
    hidden = to_float32(hidden)
    members = (segments[:, None] == jnp.arange(starts.shape[1])[None, :, None]).astype(hidden.dtype)
    total = jnp.einsum("rld,rsl->rsd", hidden, members)
    return total / jnp.maximum(members.sum(-1)[..., None], 1)


class Pooler(nn.Module):
    """tanh(W h + b) of the first token's hidden state h."""

    config: BertConfig

    @nn.compact
    def __call__(self, first: Float[Array, "*n d"]) -> Float[Array, "*n d"]:
        return jnp.tanh(_dense32(self.config.width, nn.initializers.normal(self.config.initializer))(first))


class Projection(nn.Module):
    """LayerNorm(W x + b): the retrieval head of ORQA, section 4 (Lee et al. 2019); dropout follows in training."""

    width: int
    dropout: float

    @nn.compact
    def __call__(self, pooled: Float[Array, "*n d"]) -> Float[Array, "*n p"]:
        x = _dense32(self.width, nn.initializers.glorot_uniform())(pooled)
        x = nn.LayerNorm(PROJECTION_EPSILON, use_fast_variance=False, name="norm")(x)
        return dropout(x, self.dropout, dropout_rng(self))


class MlmHead(nn.Module):
    """Scores of every token of the vocabulary, at the masked positions only.

    LayerNorm(gelu(W h + b)) E' + c, with the word embeddings E of the encoder and a free bias c (Devlin et al. 2019).
    """

    config: BertConfig

    @nn.compact
    def __call__(
        self, hidden: Float[Array, "b l d"], positions: Int[Array, "b m"], embedding: Float[Array, "v d"]
    ) -> Float[Array, "b m v"]:
        c = self.config
        masked = jnp.take_along_axis(hidden, positions[..., None], axis=1)
        x = layer_norm(c, "norm")(gelu(apply_to_rows(dense_layer(c, c.width, "dense"), masked), c.gelu))
        bias = self.param("bias", nn.initializers.zeros, (c.vocab_size,))
        rows = x.reshape(-1, c.width)  # as one matrix: half the time on a CPU
        logits = jnp.einsum("nd,vd->nv", rows, embedding.astype(x.dtype), preferred_element_type=to_float32(rows).dtype)
        return (logits + bias[None]).reshape(*positions.shape, c.vocab_size)


class CondenserHead(nn.Module):
    """BERT layers over the last state of the first token and the early states of all others.

    What the early states lack of the text's meaning can reach them through the first token only, so that token must
    hold it. Condenser (Gao and Callan 2021), section 3.1.
    """

    config: BertConfig
    layers: int

    @nn.compact
    def __call__(
        self, last: Float[Array, "b l d"], early: Float[Array, "b l d"], mask: Bool[Array, "b l"]
    ) -> Float[Array, "b l d"]:
        kernel = attention_on_mesh(self.config, mask.shape[-1])
        x = jnp.concatenate([last[:, :1], early[:, 1:]], axis=1)
        for i in range(self.layers):
            x = Block(self.config, kernel, name=f"layer_{i}")(x, mask[:, None])
        return x


def _dense32(width: int, initializer: nn.initializers.Initializer) -> nn.Dense:
    """For wide inputs, whatever the compute type: vectors are compared to many digits, and there are few of them."""
    return nn.Dense(width, kernel_init=initializer, name="dense")
