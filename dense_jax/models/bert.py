"""BERT (Devlin et al. 2019) and RoBERTa (Liu et al. 2019), with layer normalisation after each residual sum.

Parameters are float32 whatever the compute type. Their tree is the same with unrolled layers, `scan` and `remat`:

    word type position    embedding [v d] [2 d] [l d]
    norm                  scale, bias
    layer_0 ... layer_n   attention/{query key value output}, attention_norm, up, down, output_norm
"""

import enum
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from dense_jax.arrays import Array, Bool, Float, Int, Params, PRNGKeyArray, np, to_float32
from dense_jax.config.rules import AT_SEARCH, RESUMABLE, NotNegative, Positive, ShareBelow1
from dense_jax.errors import require
from dense_jax.mesh import look_up, platform, shard_rows
from dense_jax.models.attention import Attention, attend
from dense_jax.models.layers import (
    Dense,
    Dtype,
    Gelu,
    apply_module,
    apply_to_rows,
    dropout,
    dropout_rng,
    gelu,
    init_params,
)
from dense_jax.types import Tokens

_SPLASH_FROM = 256  # tokens; for shorter sequences the plain kernel is as fast on a TPU


class Family(enum.Enum):
    """Model family: decides the first position and the names in Hugging Face's files."""

    BERT = "bert"
    ROBERTA = "roberta"
    XLM_ROBERTA = "xlm_roberta"

    @property
    def pad(self) -> int | None:
        """Required id of padding, after which positions are numbered; None: any."""
        return None if self is Family.BERT else 1


@dataclass
class BertConfig:
    layers: Positive[int]
    width: Positive[int]
    heads: Positive[int]
    feed_forward: Positive[int]
    vocab_size: NotNegative[int] = 0  # 0: the tokenizer's
    # rows of the table: tokens of the longest sequence, and two more in the family of RoBERTa
    positions: Positive[int] = 512
    types: Positive[int] = 2  # segments
    family: Family = Family.BERT
    dropout: ShareBelow1[float] = 0.1
    attention_dropout: ShareBelow1[float] = 0.1  # of attention weights; by the xla kernel only
    epsilon: Positive[float] = 1e-12  # of layer normalisation, inside the root
    gelu: Gelu = Gelu.ERF
    initializer: Positive[float] = 0.02  # standard deviation of fresh kernels and embeddings
    # of the computation; parameters, softmax and normalisation are float32
    dtype: Dtype = field(default=Dtype.AUTO, metadata=AT_SEARCH)
    attention: Attention = field(default=Attention.AUTO, metadata=RESUMABLE)
    scan: bool = field(default=False, metadata=RESUMABLE)  # layers as one loop: compiles faster, runs slower
    # layers computed again in the backward pass: less memory, a third more work
    remat: bool = field(default=False, metadata=RESUMABLE)

    def __post_init__(self) -> None:
        require(
            self.longest > 0,
            f"bert.positions={self.positions} leaves no token a position in family={self.family.value}",
        )
        require(
            self.heads > 0 and self.width % self.heads == 0,
            f"bert.width={self.width} is not divisible by bert.heads={self.heads}",
        )

    @property
    def first_position(self) -> int:
        """The row of the position table that belongs to the first token; in RoBERTa the one after that of padding."""
        return 0 if self.family.pad is None else self.family.pad + 1

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return self.positions - self.first_position


# Layers, width, heads, feed-forward width of Google's released models (Turc et al. 2019 for the small ones).
SIZES = {
    "tiny": BertConfig(2, 128, 2, 512),
    "mini": BertConfig(4, 256, 4, 1024),
    "small": BertConfig(4, 512, 8, 2048),
    "medium": BertConfig(8, 512, 8, 2048),
    "base": BertConfig(12, 768, 12, 3072),
    "large": BertConfig(24, 1024, 16, 4096),
}


def bert(size: str, **overrides: Any) -> BertConfig:
    """Config of a released size, with `overrides` of its fields.

    >>> bert("tiny", dropout=0.0).width
    128
    """
    require(size in SIZES, f"BERT size {size!r} is unknown; use one of {', '.join(SIZES)}")
    return replace(SIZES[size], **overrides)


def bert_configs(node: Any) -> Iterator[BertConfig]:
    """Yield every BertConfig in a tree of dataclasses."""
    if isinstance(node, BertConfig):
        yield node
    elif is_dataclass(node):
        for field in fields(node):
            yield from bert_configs(getattr(node, field.name))


class AttentionChoice(NamedTuple):
    """Attention kernel and the reason for it, for the log."""

    attention: Attention
    reason: str


def choose_attention(config: BertConfig, platform: str, length: int) -> AttentionChoice:
    """Choose the kernel for sequences of `length` tokens on `platform` (cpu, gpu or tpu).

    AUTO prefers a fused kernel, although those have no attention dropout; the reason says so.

    Raises:
        ConfigError: the kernel named in `config` cannot run on `platform`.
    """
    if config.attention is Attention.AUTO:
        return _automatic(config, platform, length)
    problem = _obstacle(config.attention, config, platform)
    if config.attention is not Attention.XLA and config.attention_dropout > 0:
        problem = problem or f"has no attention dropout; set attention_dropout=0 (it is {config.attention_dropout})"
    require(not problem, f"bert.attention={config.attention.value} {problem}, or attention=auto")
    return AttentionChoice(config.attention, "named by the config")


def attention_on_mesh(config: BertConfig, length: int) -> Attention:
    """Choose the kernel for sequences of `length` tokens on the devices of the mesh of `jax.set_mesh`."""
    return choose_attention(config, platform(), length).attention


def compute_type(config: BertConfig) -> str:
    """Name of the compute type on the devices of the mesh of `jax.set_mesh`."""
    return config.dtype.on(platform()).value


def _automatic(config: BertConfig, platform: str, length: int) -> AttentionChoice:
    fused = {"gpu": Attention.CUDNN, "tpu": Attention.SPLASH}.get(platform)
    if fused is None:
        return AttentionChoice(Attention.XLA, f"{platform} has no fused kernel")
    if problem := _obstacle(fused, config, platform):
        return AttentionChoice(Attention.XLA, f"{fused.value} {problem}")
    if fused is Attention.SPLASH and length < _SPLASH_FROM:
        return AttentionChoice(
            Attention.XLA, f"{length} tokens are fewer than {_SPLASH_FROM}, from where splash is faster"
        )
    without = f", without attention_dropout={config.attention_dropout}" if config.attention_dropout else ""
    return AttentionChoice(fused, f"the fused kernel of {platform}{without}")


def _obstacle(kernel: Attention, config: BertConfig, platform: str) -> str:
    """Reason why `kernel` cannot run on `platform`; empty if it can."""
    head = config.width // config.heads
    if kernel is Attention.CUDNN:
        if platform != "gpu":
            return f"runs on NVIDIA GPUs, not on {platform}; use attention=xla"
        if (dtype := config.dtype.on(platform)) is not Dtype.BFLOAT16:
            return f"needs dtype=bfloat16, not {dtype.value}"
        if head % 8 or head > 128:
            return f"needs a width/heads that is a multiple of 8 and at most 128, not {head}"
    if kernel is Attention.SPLASH and platform != "tpu":
        return f"runs on TPUs, not on {platform}; use attention=xla"
    return ""


class Bert(nn.Module):
    """BERT's encoder: tokens to hidden states. Dropout is on with a "dropout" random stream."""

    config: BertConfig

    def setup(self) -> None:
        c = self.config
        require(
            c.vocab_size > 0, "bert.vocab_size=0 stands for the tokenizer's; set it with config.tree.with_vocabulary"
        )
        normal = nn.initializers.normal(c.initializer)
        self.word = nn.Embed(c.vocab_size, c.width, embedding_init=normal)
        self.type = nn.Embed(c.types, c.width, embedding_init=normal)
        self.position = nn.Embed(c.positions, c.width, embedding_init=normal)
        self.norm = layer_norm(c)
        # Layers are parameters, not submodules, so that `scan` and the unrolled form share one parameter tree.
        self.layers = [self.param(f"layer_{i}", self._init_layer) for i in range(c.layers)]

    def __call__(
        self,
        tokens: Tokens,
        positions: Int[Array, "#b l"] | None = None,
        segments: Int[Array, "b l"] | None = None,
        view_tokens: Float[Array, "n d"] | None = None,
    ) -> Float[Array, "b l d"]:
        """Last hidden states. `positions` replace 0, 1, 2, ... in every family.

        With `segments`, a token attends to tokens of its own segment only. `view_tokens` replace the word embeddings of
        the first n tokens.
        """
        return self._run(tokens, positions, segments, view_tokens)[0]

    def hidden_states(self, tokens: Tokens, positions: Int[Array, "b l"] | None = None) -> tuple[Array, ...]:
        """Hidden states H[0] (the normalised embeddings), H[1] after the first layer, ..., H[n] after the last."""
        return self._run(tokens, positions)[1]

    def embed(
        self,
        tokens: Tokens,
        positions: Int[Array, "#b l"] | None = None,
        view_tokens: Float[Array, "n d"] | None = None,
    ) -> Float[Array, "b l d"]:
        """Embeddings H[0]: word, segment and position embeddings summed, normalised, with dropout."""
        words = look_up(self.word, tokens.ids)
        if view_tokens is not None:
            words = words.at[:, : len(view_tokens)].set(view_tokens.astype(words.dtype))
        return self._normed(words, tokens.types, positions)

    def embed_vectors(self, vectors: Float[Array, "b l d"]) -> Float[Array, "b l d"]:
        """Embeddings H[0] with `vectors` instead of word embeddings, in segment 0."""
        return self._normed(vectors, jnp.zeros(vectors.shape[:2], jnp.int32), None)

    def _run(
        self,
        tokens: Tokens,
        positions: Array | None = None,
        segments: Array | None = None,
        view_tokens: Array | None = None,
    ) -> tuple[Array, tuple[Array, ...]]:
        x = self.embed(tokens, positions, view_tokens)
        layer = self._layer(jnp.asarray(tokens.mask)[:, None, :] if segments is None else segments)
        rng = dropout_rng(self)
        keys = None if rng is None else jax.random.split(rng, self.config.layers)
        if self.config.scan:
            stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *self.layers)
            last, states = jax.lax.scan(lambda x, inputs: (y := layer(x, *inputs), y), x, (stacked, keys))
            return last, (x, *states)
        states = [x]
        for i, params in enumerate(self.layers):
            states.append(layer(states[-1], params, None if keys is None else keys[i]))
        return states[-1], tuple(states)

    def _normed(self, words: Array, types: Array | np.ndarray, positions: Array | None) -> Array:
        c, length = self.config, words.shape[1]
        fits = positions is not None or length <= c.longest
        require(fits, f"{length} tokens are more than the {c.longest} of bert.positions={c.positions}")
        first = c.first_position
        rows = self.position.embedding[first : first + length]
        position = rows[None] if positions is None else self.position(positions + first)
        exact = jnp.promote_types(compute_type(c), jnp.float32)
        summed = words.astype(exact) + self.type(types).astype(exact) + position.astype(exact)
        # The tables may be sharded along the width, activations never are; later activations follow this one.
        return shard_rows(dropout(self.norm(summed), c.dropout, dropout_rng(self)))

    def _layer(self, mask: Array) -> Callable[[Array, Params, PRNGKeyArray | None], Array]:
        """Return one layer as a pure function of its input, parameters and dropout key."""
        block = Block(self.config, attention_on_mesh(self.config, mask.shape[-1]), parent=None)

        def layer(x: Array, params: Params, key: PRNGKeyArray | None) -> Array:
            return apply_module(block, params, x, mask, rng=key)

        return jax.checkpoint(layer) if self.config.remat else layer

    def _init_layer(self, rng: PRNGKeyArray) -> Params:
        block = Block(self.config, Attention.XLA, parent=None)
        return init_params(block, rng, jnp.zeros((1, 1, self.config.width)), jnp.ones((1, 1, 1), bool))


class Block(nn.Module):
    """Transformer layer: attention and a feed-forward network, each with a residual sum and layer normalisation.

    Keys and values come from `memory`, by default the input itself. `mask` is that of `attend`.
    """

    config: BertConfig
    kernel: Attention

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b q d"],
        mask: Bool[Array, "b #q k"] | Int[Array, "b k"],
        memory: Float[Array, "b k d"] | None = None,
    ) -> Float[Array, "b q d"]:
        c = self.config
        attended = MultiHeadAttention(c, self.kernel, name="attention")(x, x if memory is None else memory, mask)
        x = self._add(x, attended, "attention_norm")
        up = gelu(apply_to_rows(dense_layer(c, c.feed_forward, "up"), x), c.gelu)
        return self._add(x, apply_to_rows(dense_layer(c, c.width, "down"), up), "output_norm")

    def _add(self, x: Array, change: Array, name: str) -> Array:
        change = dropout(change, self.config.dropout, dropout_rng(self))
        return layer_norm(self.config, name)(to_float32(x) + change)


class MultiHeadAttention(nn.Module):
    """Multi-head attention with queries from `x` and keys and values from `memory`."""

    config: BertConfig
    kernel: Attention

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b q d"],
        memory: Float[Array, "b k d"],
        mask: Bool[Array, "b #q k"] | Int[Array, "b k"],
    ) -> Float[Array, "b q d"]:
        c = self.config

        def heads(inputs: Array, name: str) -> Array:
            return apply_to_rows(dense_layer(c, c.width, name), inputs).reshape(*inputs.shape[:2], c.heads, -1)

        query, key, value = heads(x, "query"), heads(memory, "key"), heads(memory, "value")
        rate, rng = c.attention_dropout, dropout_rng(self)
        mixed = attend(query, key, value, mask, kernel=self.kernel, rate=rate, rng=rng)
        return apply_to_rows(dense_layer(c, c.width, "output"), mixed.reshape(x.shape))


def dense_layer(config: BertConfig, features: int, name: str) -> Dense:
    """Affine layer with the model's initialiser and compute type; apply it with `apply_to_rows`."""
    return Dense(features, compute_type(config), nn.initializers.normal(config.initializer), name=name)


def layer_norm(config: BertConfig, name: str | None = None) -> nn.LayerNorm:
    """Layer normalisation with statistics in float32 and the result in the compute type."""
    return nn.LayerNorm(config.epsilon, dtype=compute_type(config), use_fast_variance=False, name=name)
