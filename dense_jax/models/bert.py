"""BERT (Devlin et al. 2019) and RoBERTa (Liu et al. 2019), with layer normalisation after each residual sum.

word type position    embedding [v d] [2 d] [l d]
norm                  scale, bias
layer_0 ... layer_n   attention/{query key value output}, attention_norm, up, down, output_norm
"""

import enum
from dataclasses import dataclass, replace
from typing import Any

from flax import linen as nn

from dense_jax.arrays import Array, Bool, Float, Int, to_float32
from dense_jax.config.rules import Positive
from dense_jax.errors import require
from dense_jax.models.attention import Attention
from dense_jax.models.layers import dropout, dropout_rng
from dense_jax.models.transformer import GeluConfig, MultiHeadAttention, Transformer, affine, layer_norm


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
class BertConfig(GeluConfig):
    types: Positive[int] = 2  # segments
    family: Family = Family.BERT

    def __post_init__(self) -> None:
        require(
            self.longest > 0,
            f"bert.positions={self.positions} leaves no token a position in family={self.family.value}",
        )
        super().__post_init__()

    @property
    def pad(self) -> int | None:
        return self.family.pad

    @property
    def first_position(self) -> int:
        """The row of the position table that belongs to the first token; in RoBERTa the one after that of padding."""
        return 0 if self.family.pad is None else self.family.pad + 1

    @property
    def longest(self) -> int:
        return self.positions - self.first_position

    @property
    def segments(self) -> int:
        return self.types

    def model(self) -> "Bert":
        return Bert(self)

    def layer(self, index: int, kernel: Attention) -> "Block":
        return Block(self, kernel, parent=None)


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


class Bert(Transformer):
    """BERT's encoder: tokens to hidden states."""

    config: BertConfig

    def setup(self) -> None:
        super().setup()
        self.type = self.table(self.config.types)
        self.position = self.table(self.config.positions)

    def summed(
        self, words: Float[Array, "b l d"], types: Array | None = None, positions: Array | None = None
    ) -> Float[Array, "b l d"]:
        words = words if types is None else words + self.type(types).astype(words.dtype)
        position = position_rows(self.position, self.config.first_position, words.shape[1], positions)
        return words + position.astype(words.dtype)


def position_rows(
    table: nn.Embed, first: int, length: int, positions: Int[Array, "#b l"] | None = None
) -> Float[Array, "#b l d"]:
    """Embeddings of `positions`, by default 0 to `length` - 1, in a table whose row `first` is that of position 0."""
    return table.embedding[first : first + length][None] if positions is None else table(positions + first)


class Block(nn.Module):
    """Transformer layer: attention and a feed-forward network, each with a residual sum and layer normalisation.

    Keys and values come from `memory`, by default the input itself. `mask` is that of `attend`. Positions are those of
    the embeddings.
    """

    config: Any  # of the family
    kernel: Attention

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b q d"],
        mask: Bool[Array, "b #q k"] | Int[Array, "b k"],
        memory: Float[Array, "b k d"] | None = None,
        positions: Int[Array, "#b q"] | None = None,
    ) -> Float[Array, "b q d"]:
        attended = self.attention(x, x if memory is None else memory, mask, positions)
        x = self._add(x, attended, "attention_norm")
        return self._add(x, self.feed_forward(x), "output_norm")

    def attention(self, x: Array, memory: Array, mask: Array, positions: Array | None) -> Float[Array, "b q d"]:
        return MultiHeadAttention(self.config, self.kernel, name="attention")(x, memory, mask)

    def feed_forward(self, x: Float[Array, "b q d"]) -> Float[Array, "b q d"]:
        c = self.config
        return affine(c, c.activate(affine(c, x, c.feed_forward, "up")), c.width, "down")

    def _add(self, x: Array, change: Array, name: str) -> Array:
        change = dropout(change, self.config.dropout, dropout_rng(self))
        return layer_norm(self.config, name)(to_float32(x) + change)
