"""Masked language modelling of whole words: the pre-training of BERT, and the baseline of comparisons.

Devlin et al. 2019, "BERT", section 3.1; whole-word selection as in Condenser (Gao and Callan 2021).
"""

from dataclasses import dataclass, field

import jax
import numpy as np

from dense_jax.arrays import Array, Batch, Carry, Encoded, Example, Metrics, Params, PRNGKeyArray
from dense_jax.config.rules import RESUMABLE, Length, ShareInside
from dense_jax.data.masking import masked_passage
from dense_jax.errors import require
from dense_jax.losses.language import masked_lm_loss
from dense_jax.models.encoder import Encoder
from dense_jax.models.heads import init_mlm, mlm_logits
from dense_jax.models.pooling import Pooling
from dense_jax.objectives.dual_encoder import DualEncoder
from dense_jax.types import Passage, Vocabulary


@dataclass
class MLM(DualEncoder[Encoder]):
    query_length: Length = field(default=64, metadata=RESUMABLE)  # tokens; of queries at search time
    mask_rate: ShareInside[float] = 0.15  # share of tokens that are predicted
    query_prompt: str = field(default="", metadata=RESUMABLE)  # put before a query at search time
    pool_prompts: bool = field(default=True, metadata=RESUMABLE)  # else a mean leaves [CLS] and the prompt out

    learns_queries = False

    def __post_init__(self) -> None:
        require(
            self.pool_prompts or self.encoder.pooling is Pooling.MEAN,
            f"objective.pool_prompts=false concerns a mean, but objective.encoder.pooling={self.encoder.pooling.value}"
            "; use --objective.pool_prompts=true",
        )
        super().__post_init__()

    def example(self, passage: Passage, vocabulary: Vocabulary, rng: np.random.Generator) -> Example | None:
        length, prompt = self.passage_length, vocabulary.prompt_ids(self.passage_prompt)
        text = passage.title, passage.tokens
        return masked_passage(*text, length, self.layout, vocabulary, self.mask_rate, rng, prompt=prompt)

    def init(self, rng: PRNGKeyArray) -> Params:
        encoder_rng, head_rng = jax.random.split(rng)
        return {**super().init(encoder_rng), "mlm": init_mlm(self.encoder.bert, head_rng)}

    def encode(self, params: Params, carry: Carry, batch: Batch, *, rng: PRNGKeyArray | None) -> Encoded:
        hidden = self.encoder.hidden_states(params["encoder"], batch["tokens"], rng=rng)
        logits = mlm_logits(self.encoder.bert, params, hidden, batch["positions"])
        return masked_lm_loss(logits, batch["labels"], batch["weights"])

    def combine(
        self, carry: Carry, encoded: Encoded, batch: Batch, *, step: Array
    ) -> tuple[Array, tuple[Metrics, Carry]]:
        """loss = mean over masked tokens of their cross-entropy."""
        return encoded.loss, ({"accuracy": encoded.accuracy}, carry)
