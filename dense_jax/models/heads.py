"""Pre-training heads on a transformer: masked LM, Condenser's head, RetroMAE's decoder, ORQA's span scorer.

Each has a Flax module and two pure functions: one initialises its parameters, one applies it.
"""

import jax.numpy as jnp
from flax import linen as nn

from dense_jax.arrays import Array, Bool, Float, Int, Params, PRNGKeyArray, np, split_key, to_float32
from dense_jax.models.attention import Attention
from dense_jax.models.layers import apply_module, apply_to_rows, init_params, multiply
from dense_jax.models.packing import attention_mask, first_tokens, model_inputs, spread
from dense_jax.models.pooling import PROJECTION_EPSILON
from dense_jax.models.transformer import TransformerConfig, attention_on_mesh, dense_layer, layer_norm
from dense_jax.types import PackedTokens, PackedVectors, Tokens


class MlmHead(nn.Module):
    """Logits of the vocabulary at the masked positions only: LayerNorm(f(W h + b)) E' + c.

    f is the family's activation, E are the word embeddings of the encoder, c is a free bias. BERT (Devlin et al.
    2019), as in its released code.
    """

    config: TransformerConfig

    @nn.compact
    def __call__(
        self, hidden: Float[Array, "b l d"], positions: Int[Array, "b m"], embedding: Float[Array, "v d"]
    ) -> Float[Array, "b m v"]:
        c = self.config
        masked = jnp.take_along_axis(hidden, positions[..., None], axis=1)
        dense = dense_layer(c, c.width, "dense", use_bias=c.norm_bias)
        x = layer_norm(c, "norm")(c.activate(apply_to_rows(dense, masked)))
        bias = self.param("bias", nn.initializers.zeros, (c.vocab_size,))
        rows = x.reshape(-1, c.width)  # one matrix product takes half the time on a CPU
        logits = multiply(rows, embedding.T, to_float32(rows).dtype.name)
        return (logits + bias[None]).reshape(*positions.shape, c.vocab_size)


class CondenserHead(nn.Module):
    """Layers of the family over the last hidden state of the first token and the early ones of all other tokens.

    The late layers reach the masked tokens through the first token only, so its vector must summarise the text.
    Condenser (Gao and Callan 2021), section 3.1.
    """

    config: TransformerConfig
    layers: int

    @nn.compact
    def __call__(
        self, last: Float[Array, "b l d"], early: Float[Array, "b l d"], tokens: Tokens | PackedTokens
    ) -> Float[Array, "b l d"]:
        kernel = attention_on_mesh(self.config, tokens.mask.shape[-1])
        x = jnp.where(first_tokens(tokens)[..., None], last, early)
        for i in range(self.layers):
            layer = self.config.head_layer(kernel, is_last=i == self.layers - 1)
            layer = layer.clone(parent=self, name=f"layer_{i}")
            x = layer(x, attention_mask(tokens), None, model_inputs(tokens)[1])
        return x


class SpanScorer(nn.Module):
    """Scores w LayerNorm(relu(A h_start + B h_end + b)) + c of spans from `starts` to `ends`, both inclusive.

    h are the reader's hidden states; A and B, with `width` rows each, are the halves of one kernel. Float32, whatever
    the type of h. ORQA (Lee et al. 2019), as in its released code.
    """

    width: int = 256

    @nn.compact
    def __call__(
        self, hidden: Float[Array, "*n l d"], starts: Int[Array | np.ndarray, " s"], ends: Int[Array | np.ndarray, " s"]
    ) -> Float[Array, "*n s"]:
        initializer = nn.initializers.truncated_normal(0.02)
        both = apply_to_rows(nn.Dense(2 * self.width, kernel_init=initializer, name="dense"), hidden)
        first, last = jnp.split(both, 2, axis=-1)
        x = nn.relu(first[..., starts, :] + last[..., ends, :])
        x = nn.LayerNorm(PROJECTION_EPSILON, use_fast_variance=False, name="norm")(x)
        return nn.Dense(1, kernel_init=initializer, name="score")(x)[..., 0]


def init_condenser(config: TransformerConfig, layers: int, rng: PRNGKeyArray) -> Params:
    """Initial parameters of Condenser's head: the subtree "condenser" of an objective's parameters."""
    hidden, word = jnp.zeros((1, 1, config.width)), jnp.zeros((1, 1), jnp.int32)
    return init_params(CondenserHead(config, layers), rng, hidden, hidden, Tokens(word, word, word == 0))


def apply_condenser(
    config: TransformerConfig,
    params: Params,
    last: Float[Array, "b l d"],
    early: Float[Array, "b l d"],
    tokens: Tokens | PackedTokens,
    *,
    rng: PRNGKeyArray | None = None,
) -> Float[Array, "b l d"]:
    """Hidden states of Condenser's head `params["condenser"]` for the encoder's last and early hidden states."""
    head = params["condenser"]
    return apply_module(CondenserHead(config, len(head)), head, last, early, tokens, rng=rng)


def init_decoder(config: TransformerConfig, rng: PRNGKeyArray) -> Params:
    """Initial parameters of RetroMAE's decoder: the subtree "decoder" of an objective's parameters."""
    return init_params(_decoder(config), rng, jnp.zeros((1, 1, config.width)), jnp.ones((1, 1, 1), bool))


def apply_decoder(
    config: TransformerConfig,
    params: Params,
    vectors: Float[Array, "b d"] | PackedVectors,
    tokens: Tokens | PackedTokens,
    visible: Bool[Array, "b l l"],
    *,
    embed_queries: bool = False,
    rng: PRNGKeyArray | None = None,
) -> Float[Array, "b l d"]:
    """Hidden states of RetroMAE's enhanced decoder, one layer, given a text's vectors and its tokens.

    Position i attends to those positions that `visible[:, i]` allows: the vector replaces the first token, the others
    are token embeddings. Its query is the vector plus the position embedding, or the vector turned by its position in a
    family with rotary positions. RetroMAE (Xiao et al. 2022), section 3.2.
    `embed_queries` adds the segment embedding and the layer normalisation of embeddings to the query, as in DupMAE's
    released code.
    """
    model, bert = config.model(), params["encoder"]["bert"]
    memory_rng, query_rng, layer_rng = split_key(rng, 3)
    inputs, positions, _ = model_inputs(tokens)
    embedded = apply_module(model, bert, inputs, positions, rng=memory_rng, method="embed")
    repeated = spread(vectors, tokens).astype(embedded.dtype)
    memory = jnp.where(first_tokens(tokens)[..., None], repeated, embedded)
    queries = (
        apply_module(model, bert, repeated, positions, rng=query_rng, method="embed_vectors")
        if embed_queries
        else apply_module(model, bert, repeated, None, positions, method="summed")
    )
    return apply_module(_decoder(config), params["decoder"], queries, visible, memory, positions, rng=layer_rng)


def init_mlm(config: TransformerConfig, rng: PRNGKeyArray) -> Params:
    """Initial parameters of the masked-LM head: the subtree "mlm" of an objective's parameters."""
    hidden, positions = jnp.zeros((1, 1, config.width)), jnp.zeros((1, 1), jnp.int32)
    return init_params(MlmHead(config), rng, hidden, positions, jnp.zeros((config.vocab_size, config.width)))


def mlm_logits(
    config: TransformerConfig, params: Params, hidden: Float[Array, "b l d"], positions: Int[Array, "b m"]
) -> Float[Array, "b m v"]:
    """Float32 logits of the vocabulary at `positions`, from the head `params["mlm"]` and the encoder's embeddings."""
    embedding = params["encoder"]["bert"]["word"]["embedding"]
    return apply_module(MlmHead(config), params["mlm"], hidden, positions, embedding)


def init_span_scorer(width: int, rng: PRNGKeyArray) -> Params:
    """Initial parameters for hidden states of `width`: the subtree "spans" of a reader's parameters."""
    first = np.zeros(1, np.int32)
    return init_params(SpanScorer(), rng, jnp.zeros((1, width)), first, first)


def score_spans(
    params: Params, hidden: Float[Array, "n l d"], starts: Int[np.ndarray, " s"], ends: Int[np.ndarray, " s"]
) -> Float[Array, "n s"]:
    """Scores, from the head `params["spans"]`, of the spans from `starts` to `ends`, both inclusive."""
    return apply_module(SpanScorer(), params["spans"], hidden, starts, ends)


def _decoder(config: TransformerConfig) -> nn.Module:
    return config.head_layer(Attention.XLA, is_last=True)  # the fused kernels mask the same keys for all queries
