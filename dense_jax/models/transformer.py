"""Base of the model families: the settings that all share, attention with heads, and the run through the layers.

A family, such as bert.py or modernbert.py, is a `TransformerConfig`, a module of one layer, and a `Transformer` that
embeds tokens. Parameters are float32 whatever the compute type. Their tree is the same with unrolled layers, `scan` and
`remat`:

    word                  embedding [v d], and what else the family embeds by
    norm                  scale, bias
    layer_0 ... layer_n   as the family's layer names them
"""

import abc
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, ClassVar, NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from dense_jax.arrays import Array, Bool, Float, Int, Params, PRNGKeyArray, np
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
    rotate,
)
from dense_jax.types import Tokens

_SPLASH_FROM = 256  # tokens; for shorter sequences the plain kernel is as fast on a TPU


@dataclass
class TransformerConfig(abc.ABC):
    """Sizes and computation of a transformer that encodes texts; the base of a family's own settings."""

    layers: Positive[int]
    width: Positive[int]
    heads: Positive[int]
    feed_forward: Positive[int]
    vocab_size: NotNegative[int] = 0  # 0: the tokenizer's
    # tokens of the longest sequence; in the family of RoBERTa two more, the rows of its table
    positions: Positive[int] = 512
    dropout: ShareBelow1[float] = 0.1
    attention_dropout: ShareBelow1[float] = 0.1  # of attention weights; by the xla kernel only
    epsilon: Positive[float] = 1e-12  # of layer normalisation, inside the root
    initializer: Positive[float] = 0.02  # standard deviation of fresh kernels and embeddings
    # of the computation; parameters, softmax and normalisation are float32
    dtype: Dtype = field(default=Dtype.AUTO, metadata=AT_SEARCH)
    attention: Attention = field(default=Attention.AUTO, metadata=RESUMABLE)
    scan: bool = field(default=False, metadata=RESUMABLE)  # layers as one loop: compiles faster, runs slower
    # layers computed again in the backward pass: less memory, a third more work
    remat: bool = field(default=False, metadata=RESUMABLE)

    kernel_bias: ClassVar[bool] = True  # of the affine layers in attention and feed-forward network
    norm_bias: ClassVar[bool] = True  # of layer normalisations, and of the affine layer in the masked-LM head

    def __post_init__(self) -> None:
        require(
            self.heads > 0 and self.width % self.heads == 0,
            f"bert.width={self.width} is not divisible by bert.heads={self.heads}",
        )

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return self.positions

    @property
    def first_position(self) -> int:
        """The row of the position table, if there is one, that belongs to the first token."""
        return 0

    @property
    def pad(self) -> int | None:
        """Required id of padding; None: any."""
        return None

    @property
    def segments(self) -> int:
        """Number of segments that the model distinguishes."""
        return 1

    @abc.abstractmethod
    def model(self) -> "Transformer":
        """The encoder, from tokens to hidden states."""

    @abc.abstractmethod
    def layer(self, index: int, kernel: Attention) -> nn.Module:
        """Layer `index` of the encoder: `layer(x, mask, memory=None, positions=None)`, without a parent.

        Keys and values come from `memory` [b k d], by default from `x` [b q d]. `mask` is that of `attend`; `positions`
        [#b q] replace 0, 1, 2, ..., where a family turns queries and keys by them.
        """

    def head_layer(self, kernel: Attention, *, is_last: bool) -> nn.Module:
        """A layer of a pre-training head, over all tokens, without a parent; the last one normalises its result."""
        return self.layer(0, kernel)

    @abc.abstractmethod
    def activate(self, x: Float[Array, "*n d"]) -> Float[Array, "*n d"]:
        """The activation of the feed-forward network and of the masked-LM head."""


@dataclass
class GeluConfig(TransformerConfig):
    """A family whose activation is GELU."""

    gelu: Gelu = Gelu.ERF

    def activate(self, x: Float[Array, "*n d"]) -> Float[Array, "*n d"]:
        return gelu(x, self.gelu)


def model_configs(node: Any) -> Iterator[TransformerConfig]:
    """Yield every TransformerConfig in a tree of dataclasses."""
    return (config for _, config in named_model_configs(node, ""))


def named_model_configs(node: Any, path: str) -> Iterator[tuple[str, TransformerConfig]]:
    """Yield every TransformerConfig in a tree of dataclasses that is called `path`, after its own path."""
    if isinstance(node, TransformerConfig):
        yield path, node
    elif is_dataclass(node):
        for setting in fields(node):
            yield from named_model_configs(getattr(node, setting.name), f"{path}.{setting.name}")


class AttentionChoice(NamedTuple):
    """Attention kernel and the reason for it, for the log."""

    attention: Attention
    reason: str


def choose_attention(config: TransformerConfig, platform: str, length: int) -> AttentionChoice:
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


def attention_on_mesh(config: TransformerConfig, length: int) -> Attention:
    """Choose the kernel for sequences of `length` tokens on the devices of the mesh of `jax.set_mesh`."""
    return choose_attention(config, platform(), length).attention


def compute_type(config: TransformerConfig) -> str:
    """Name of the compute type on the devices of the mesh of `jax.set_mesh`."""
    return config.dtype.on(platform()).value


def _automatic(config: TransformerConfig, platform: str, length: int) -> AttentionChoice:
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


def _obstacle(kernel: Attention, config: TransformerConfig, platform: str) -> str:
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


class Transformer(nn.Module):
    """Encoder from tokens to hidden states. Dropout is on with a "dropout" random stream.

    A family adds its tables in `setup` and sums them with the words in `summed`.
    """

    config: Any  # the family's own kind of TransformerConfig

    def setup(self) -> None:
        c = self.config
        require(
            c.vocab_size > 0, "bert.vocab_size=0 stands for the tokenizer's; set it with config.tree.with_vocabulary"
        )
        self.word = self.table(c.vocab_size)
        self.norm = layer_norm(c)
        # Layers are parameters, not submodules, so that `scan` and the unrolled form share one parameter tree.
        self.layers = [self.param(f"layer_{i}", self._init_layer, i) for i in range(c.layers)]

    def table(self, rows: int) -> nn.Embed:
        """Embeddings for `rows` ids."""
        return nn.Embed(rows, self.config.width, embedding_init=nn.initializers.normal(self.config.initializer))

    def summed(
        self, words: Float[Array, "b l d"], types: Array | None = None, positions: Array | None = None
    ) -> Float[Array, "b l d"]:
        """Sum of the embeddings of a token before normalisation; without `types` that of its segment is left out."""
        del types, positions
        return words

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

    def hidden_states(
        self,
        tokens: Tokens,
        positions: Int[Array, "b l"] | None = None,
        segments: Int[Array, "b l"] | None = None,
    ) -> tuple[Array, ...]:
        """Hidden states H[0] (the normalised embeddings), H[1] after the first layer, ..., H[n] after the last."""
        return self._run(tokens, positions, segments)[1]

    def embed(
        self,
        tokens: Tokens,
        positions: Int[Array, "#b l"] | None = None,
        view_tokens: Float[Array, "n d"] | None = None,
    ) -> Float[Array, "b l d"]:
        """Embeddings H[0]: those of word, and in some families of segment and position, normalised, with dropout."""
        words = look_up(self.word, tokens.ids, self.config.width)
        if view_tokens is not None:
            words = words.at[:, : len(view_tokens)].set(view_tokens.astype(words.dtype))
        return self._normed(words, tokens.types, positions)

    def embed_vectors(self, vectors: Float[Array, "b l d"], positions: Array | None = None) -> Float[Array, "b l d"]:
        """Embeddings H[0] with `vectors` instead of word embeddings, in segment 0."""
        return self._normed(vectors, jnp.zeros(vectors.shape[:2], jnp.int32), positions)

    def _run(
        self,
        tokens: Tokens,
        positions: Array | None = None,
        segments: Array | None = None,
        view_tokens: Array | None = None,
    ) -> tuple[Array, tuple[Array, ...]]:
        x = self.embed(tokens, positions, view_tokens)
        mask = jnp.asarray(tokens.mask)[:, None, :] if segments is None else segments
        rng = dropout_rng(self)
        keys = None if rng is None else jax.random.split(rng, self.config.layers)
        if self.config.scan:
            layer = self._layer(0, mask, positions)
            stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *self.layers)
            last, states = jax.lax.scan(lambda x, inputs: (y := layer(x, *inputs), y), x, (stacked, keys))
            return last, (x, *states)
        states = [x]
        for i, params in enumerate(self.layers):
            states.append(self._layer(i, mask, positions)(states[-1], params, None if keys is None else keys[i]))
        return states[-1], tuple(states)

    def _normed(self, words: Array, types: Array | np.ndarray, positions: Array | None) -> Array:
        c, length = self.config, words.shape[1]
        fits = positions is not None or length <= c.longest
        require(fits, f"{length} tokens are more than the {c.longest} of bert.positions={c.positions}")
        summed = self.summed(words.astype(_exact(c)), jnp.asarray(types), positions)
        # The tables may be sharded along the width, activations never are; later activations follow this one.
        return shard_rows(dropout(self.norm(summed), c.dropout, dropout_rng(self)))

    def _layer(
        self, index: int, mask: Array, positions: Array | None
    ) -> Callable[[Array, Params, PRNGKeyArray | None], Array]:
        """Return layer `index` as a pure function of its input, parameters and dropout key."""
        block = self.config.layer(index, attention_on_mesh(self.config, mask.shape[-1]))

        def layer(x: Array, params: Params, key: PRNGKeyArray | None) -> Array:
            return apply_module(block, params, x, mask, None, positions, rng=key)

        return jax.checkpoint(layer) if self.config.remat else layer

    def _init_layer(self, rng: PRNGKeyArray, index: int) -> Params:
        block = self.config.layer(index, Attention.XLA)
        return init_params(block, rng, jnp.zeros((1, 1, self.config.width)), jnp.ones((1, 1, 1), bool))


class MultiHeadAttention(nn.Module):
    """Multi-head attention with queries from `x` and keys and values from `memory`."""

    config: TransformerConfig
    kernel: Attention
    rotary_base: float = 0.0  # of `rotate`; 0: queries and keys are not turned
    window: int | None = None  # of `attend`

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b q d"],
        memory: Float[Array, "b k d"],
        mask: Bool[Array, "b #q k"] | Int[Array, "b k"],
        positions: Int[Array, "#b q"] | None = None,
    ) -> Float[Array, "b q d"]:
        c = self.config

        def heads(inputs: Array, name: str) -> Array:
            return affine(c, inputs, c.width, name).reshape(*inputs.shape[:2], c.heads, -1)

        query, key, value = heads(x, "query"), heads(memory, "key"), heads(memory, "value")
        if self.rotary_base:
            places = jnp.arange(x.shape[1])[None] if positions is None else positions
            query, key = (rotate(side, places, self.rotary_base) for side in (query, key))
        rate, rng = c.attention_dropout, dropout_rng(self)
        mixed = attend(query, key, value, mask, kernel=self.kernel, window=self.window, rate=rate, rng=rng)
        return affine(c, mixed.reshape(x.shape), c.width, "output")


def affine(config: TransformerConfig, x: Float[Array, "*n d"], features: int, name: str) -> Float[Array, "*n f"]:
    """Affine layer `name` of a module, with the family's choice of a bias."""
    return apply_to_rows(dense_layer(config, features, name, use_bias=config.kernel_bias), x)


def gated_feed_forward(config: TransformerConfig, x: Float[Array, "*n d"]) -> Float[Array, "*n d"]:
    """down(activation(gate(x)) * up(x)), in a module with the layers gate, up and down.

    Shazeer 2020, "GLU Variants Improve Transformer", equation 6: GeGLU, SwiGLU.
    """
    gate = config.activate(affine(config, x, config.feed_forward, "gate"))
    return affine(config, gate * affine(config, x, config.feed_forward, "up"), config.width, "down")


def dense_layer(config: TransformerConfig, features: int, name: str, *, use_bias: bool = True) -> Dense:
    """Affine layer with the model's initialiser and compute type; apply it with `apply_to_rows`."""
    normal = nn.initializers.normal(config.initializer)
    return Dense(features, compute_type(config), normal, use_bias, name=name)


def layer_norm(config: TransformerConfig, name: str | None = None) -> nn.LayerNorm:
    """Layer normalisation with statistics in float32 and the result in the compute type."""
    return nn.LayerNorm(
        config.epsilon, dtype=compute_type(config), use_fast_variance=False, use_bias=config.norm_bias, name=name
    )


def _exact(config: TransformerConfig) -> Any:
    return jnp.promote_types(compute_type(config), jnp.float32)
