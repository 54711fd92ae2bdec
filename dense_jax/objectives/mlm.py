"""Masked language modelling of whole words: what BERT-style encoders start from, and the baseline of comparisons.

Devlin et al. 2019, "BERT", section 3.1; whole-word selection as in Condenser (Gao and Callan 2021).
"""

import functools
from dataclasses import dataclass, field

import jax
import numpy as np

from dense_jax import losses
from dense_jax.arrays import Array, Batch, Carry, Encoded, Example, Metrics, Params, PRNGKeyArray
from dense_jax.config import require
from dense_jax.config.rules import AT_SEARCH, RESUMABLE, Length, ShareInside
from dense_jax.data.masking import masked_passage
from dense_jax.models.encoder import Encoder, init_mlm, mlm_logits
from dense_jax.models.heads import Pooling
from dense_jax.objective import Objective
from dense_jax.types import Layout, Passage, Similarity, Tower, Towers, Vocabulary


@dataclass
class MLM(Objective):
    encoder: Encoder
    length: Length = field(default=288, metadata=AT_SEARCH)  # tokens
    query_length: Length = field(default=64, metadata=RESUMABLE)  # tokens; of queries at search time
    layout: Layout = field(default=Layout.JOINED, metadata=AT_SEARCH)
    mask_rate: ShareInside[float] = 0.15  # share of tokens that are predicted
    query_prompt: str = field(default="", metadata=RESUMABLE)  # put before a query when searching
    passage_prompt: str = field(default="", metadata=RESUMABLE)  # put before a passage
    pool_prompts: bool = field(default=True, metadata=RESUMABLE)  # else a mean leaves [CLS] and the prompt out

    def __post_init__(self) -> None:
        require(
            self.pool_prompts or self.encoder.pooling is Pooling.MEAN,
            f"objective.pool_prompts=false concerns a mean, but objective.encoder.pooling={self.encoder.pooling.value}"
            "; use --objective.pool_prompts=true",
        )
        self.encoder.check_input("length", self.length, self.layout)
        self.encoder.check_input("query_length", self.query_length, Layout.BODY)

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
        side = functools.partial(Tower, self.encoder, params["encoder"], pools_prompt=self.pool_prompts)
        return Towers(
            query=side(length=self.query_length, prompt=self.query_prompt),
            passage=side(length=self.length, layout=self.layout, prompt=self.passage_prompt),
            similarity=Similarity.COSINE if self.encoder.normalize else Similarity.DOT,
        )
