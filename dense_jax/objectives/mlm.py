"""Masked language modelling of whole words: what BERT-style encoders start from, and the baseline of comparisons.

Devlin et al. 2019, "BERT", section 3.1; whole-word selection as in Condenser (Gao and Callan 2021).
"""

from dataclasses import dataclass, field

import jax
import numpy as np

from dense_jax import losses
from dense_jax.arrays import Array, Batch, Carry, Encoded, Example, Metrics, Params, PRNGKeyArray
from dense_jax.config import require
from dense_jax.config.marks import AT_SEARCH, RESUMABLE
from dense_jax.contracts import Layout, Objective, Passage, Similarity, Tower, Towers, Vocabulary
from dense_jax.data.spans import masked_passage
from dense_jax.models.encoder import Encoder, init_mlm, mlm_logits


@dataclass
class MLM(Objective):
    encoder: Encoder
    length: int = field(default=288, metadata=AT_SEARCH)  # tokens
    query_length: int = field(default=64, metadata=RESUMABLE)  # tokens; of queries at search time
    layout: Layout = field(default=Layout.JOINED, metadata=AT_SEARCH)
    mask_rate: float = 0.15  # share of tokens that are predicted
    query_prompt: str = field(default="", metadata=RESUMABLE)  # put before a query when searching
    passage_prompt: str = field(default="", metadata=RESUMABLE)  # put before a passage when searching

    def __post_init__(self) -> None:
        require(0 < self.mask_rate < 1, f"objective.mask_rate={self.mask_rate} is not between 0 and 1")
        self.encoder.check_input("length", self.length, self.layout)

    def example(self, passage: Passage, vocabulary: Vocabulary, rng: np.random.Generator) -> Example | None:
        return masked_passage(passage.title, passage.tokens, self.length, self.layout, vocabulary, self.mask_rate, rng)

    def init(self, rng: PRNGKeyArray) -> Params:
        encoder_rng, head_rng = jax.random.split(rng)
        return {"encoder": self.encoder.init(encoder_rng), "mlm": init_mlm(self.encoder.bert, head_rng)}

    def encode(self, params: Params, carry: Carry, batch: Batch, *, rng: PRNGKeyArray | None) -> Encoded:
        hidden = self.encoder.hidden_states(params["encoder"], batch["tokens"], rng=rng)
        logits = mlm_logits(self.encoder.bert, params, hidden, batch["positions"])
        return losses.masked_lm(logits, batch["labels"], batch["weights"])

    def combine(
        self, carry: Carry, encoded: Encoded, batch: Batch, *, step: Array
    ) -> tuple[Array, tuple[Metrics, Carry]]:
        return encoded.loss, ({"accuracy": encoded.accuracy}, carry)

    def towers(self, params: Params) -> Towers:
        return Towers(
            query=Tower(self.encoder, params["encoder"], self.query_length, prompt=self.query_prompt),
            passage=Tower(self.encoder, params["encoder"], self.length, self.layout, self.passage_prompt),
            similarity=Similarity.COSINE if self.encoder.normalize else Similarity.DOT,
        )
