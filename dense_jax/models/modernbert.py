"""ModernBERT (Warner et al. 2024): normalisation before each part, GeGLU, rotary positions, and no biases.

Every third layer sees all tokens, the others those in a window around each token.

    word                  embedding [v d]
    norm                  scale
    layer_0 ... layer_n   attention_norm (not in layer 0), attention/{query key value output},
                          feed_forward_norm, gate, up, down, and in the last one final_norm
"""

from dataclasses import dataclass
from typing import ClassVar

from flax import linen as nn

from dense_jax.arrays import Array, Bool, Float, Int, to_float32
from dense_jax.config.rules import Positive, ShareBelow1
from dense_jax.errors import require
from dense_jax.models.attention import Attention
from dense_jax.models.layers import dropout, dropout_rng
from dense_jax.models.transformer import (
    GeluConfig,
    MultiHeadAttention,
    Transformer,
    compute_type,
    gated_feed_forward,
    layer_norm,
)


@dataclass
class ModernBertConfig(GeluConfig):
    positions: Positive[int] = 8192
    dropout: ShareBelow1[float] = 0.0
    attention_dropout: ShareBelow1[float] = 0.0
    epsilon: Positive[float] = 1e-5
    global_every: Positive[int] = 3  # layers 0, n, 2n, ... see all tokens
    window: Positive[int] = 128  # tokens that a local layer sees around each token, half of them on each side
    global_base: Positive[float] = 160_000.0  # of rotary positions in global layers
    local_base: Positive[float] = 10_000.0  # the same in local layers

    kernel_bias: ClassVar[bool] = False
    norm_bias: ClassVar[bool] = False

    def __post_init__(self) -> None:
        require(
            not self.scan,
            "bert.scan=true runs the same layer again, but ModernBERT has local and global ones; use bert.scan=false",
        )
        super().__post_init__()

    def is_local(self, index: int) -> bool:
        """True if layer `index` sees a window of tokens only."""
        return index % self.global_every != 0

    def model(self) -> "ModernBert":
        return ModernBert(self)

    def layer(self, index: int, kernel: Attention) -> "ModernBertBlock":
        return ModernBertBlock(
            self, kernel, self.is_local(index), is_first=index == 0, is_last=index == self.layers - 1, parent=None
        )

    def head_layer(self, kernel: Attention, *, is_last: bool) -> "ModernBertBlock":
        return ModernBertBlock(self, kernel, is_last=is_last, parent=None)


class ModernBert(Transformer):
    """ModernBERT's encoder: tokens to hidden states. Those before the last layer's are not normalised."""

    config: ModernBertConfig


class ModernBertBlock(nn.Module):
    """Layer with normalisation before attention and before the feed-forward network: x + f(LayerNorm(x)).

    The first layer's input is normalised already; the last layer normalises its result.
    """

    config: ModernBertConfig
    kernel: Attention
    is_local: bool = False
    is_first: bool = False
    is_last: bool = False

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b q d"],
        mask: Bool[Array, "b #q k"] | Int[Array, "b k"],
        memory: Float[Array, "b k d"] | None = None,
        positions: Int[Array, "#b q"] | None = None,
    ) -> Float[Array, "b q d"]:
        c = self.config
        norm = (lambda x: x) if self.is_first else layer_norm(c, "attention_norm")
        base, window = (c.local_base, c.window // 2) if self.is_local else (c.global_base, None)
        attention = MultiHeadAttention(c, self.kernel, base, window, name="attention")
        x = self._add(x, attention(norm(x), norm(x if memory is None else memory), mask, positions))
        x = self._add(x, gated_feed_forward(c, layer_norm(c, "feed_forward_norm")(x)))
        return layer_norm(c, "final_norm")(x) if self.is_last else x

    def _add(self, x: Array, change: Array) -> Array:
        change = dropout(change, self.config.dropout, dropout_rng(self))
        return (to_float32(x) + change).astype(compute_type(self.config))
