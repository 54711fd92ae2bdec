"""DistilBERT (Sanh et al. 2019): BERT's layers, without segments.

word position         embedding [v d] [l d]
norm                  scale, bias
layer_0 ... layer_n   as in bert.py
"""

from dataclasses import dataclass

from dense_jax.arrays import Array, Float
from dense_jax.models.attention import Attention
from dense_jax.models.bert import Block, position_rows
from dense_jax.models.transformer import GeluConfig, Transformer


@dataclass
class DistilBertConfig(GeluConfig):
    def model(self) -> "DistilBert":
        return DistilBert(self)

    def layer(self, index: int, kernel: Attention) -> Block:
        return Block(self, kernel, parent=None)


class DistilBert(Transformer):
    """DistilBERT's encoder: tokens to hidden states."""

    config: DistilBertConfig

    def setup(self) -> None:
        super().setup()
        self.position = self.table(self.config.positions)

    def summed(
        self, words: Float[Array, "b l d"], types: Array | None = None, positions: Array | None = None
    ) -> Float[Array, "b l d"]:
        return words + position_rows(self.position, 0, words.shape[1], positions).astype(words.dtype)
