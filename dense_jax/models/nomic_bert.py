"""nomic_bert (Nussbaum et al. 2024, "Nomic Embed"): BERT with rotary positions, SwiGLU, and no biases in its layers.

word type             embedding [v d] [2 d]
norm                  scale, bias
layer_0 ... layer_n   attention/{query key value output}, attention_norm, gate, up, down, output_norm
"""

from dataclasses import dataclass
from typing import ClassVar

import jax

from dense_jax.arrays import Array, Float
from dense_jax.config.rules import Positive, ShareBelow1
from dense_jax.models.attention import Attention
from dense_jax.models.bert import Block
from dense_jax.models.transformer import MultiHeadAttention, Transformer, TransformerConfig, gated_feed_forward


@dataclass
class NomicBertConfig(TransformerConfig):
    positions: Positive[int] = 2048
    dropout: ShareBelow1[float] = 0.0
    attention_dropout: ShareBelow1[float] = 0.0
    types: Positive[int] = 2  # segments
    rotary_base: Positive[float] = 1_000.0

    kernel_bias: ClassVar[bool] = False

    @property
    def segments(self) -> int:
        return self.types

    def model(self) -> "NomicBert":
        return NomicBert(self)

    def layer(self, index: int, kernel: Attention) -> "NomicBertBlock":
        return NomicBertBlock(self, kernel, parent=None)

    def activate(self, x: Float[Array, "*n d"]) -> Float[Array, "*n d"]:
        return jax.nn.silu(x)


class NomicBert(Transformer):
    """The encoder of nomic_bert: tokens to hidden states."""

    config: NomicBertConfig

    def setup(self) -> None:
        super().setup()
        self.type = self.table(self.config.types)

    def summed(
        self, words: Float[Array, "b l d"], types: Array | None = None, positions: Array | None = None
    ) -> Float[Array, "b l d"]:
        return words if types is None else words + self.type(types).astype(words.dtype)


class NomicBertBlock(Block):
    """BERT's layer with rotary positions and a gated feed-forward network."""

    config: NomicBertConfig

    def attention(self, x: Array, memory: Array, mask: Array, positions: Array | None) -> Float[Array, "b q d"]:
        c = self.config
        return MultiHeadAttention(c, self.kernel, c.rotary_base, name="attention")(x, memory, mask, positions)

    def feed_forward(self, x: Float[Array, "b q d"]) -> Float[Array, "b q d"]:
        return gated_feed_forward(self.config, x)
