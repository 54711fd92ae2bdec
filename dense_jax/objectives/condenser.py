"""Condenser: masked language modelling through a head that learns what a text says from its first token only.

Gao and Callan 2021, "Condenser: a Pre-training Architecture for Dense Retrieval".
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import numpy as np

from dense_jax.arrays import Array, Batch, Carry, Encoded, Example, Float, Int, Metrics, Params, PRNGKeyArray, split_key
from dense_jax.config.rules import AT_SEARCH, RESUMABLE, Length, NotNegative, Positive, ShareInside
from dense_jax.data.masking import masked_passage
from dense_jax.errors import require
from dense_jax.losses.language import MaskedLMLoss, masked_lm_loss
from dense_jax.models.encoder import Encoder
from dense_jax.models.heads import apply_condenser, init_condenser, init_mlm, mlm_logits
from dense_jax.objectives.dual_encoder import DualEncoder
from dense_jax.types import Layout, Passage, Vocabulary


class Encodings(NamedTuple):
    """Predictions by the head and by the encoder's last layer; `late` is None without `late_mlm`."""

    head: MaskedLMLoss
    late: MaskedLMLoss | None


@dataclass
class Condenser(DualEncoder[Encoder]):
    query_length: Length = field(default=32, metadata=RESUMABLE)  # tokens; of queries at search time
    passage_length: Length = field(default=128, metadata=AT_SEARCH)  # tokens
    layout: Layout = field(default=Layout.BODY, metadata=AT_SEARCH)
    query_prompt: str = field(default="", metadata=RESUMABLE)  # put before a query at search time
    head_layers: Positive[int] = 2
    # the layer after which the head sees the tokens; it sees the first token after the last layer
    skip_from: NotNegative[int] = 6
    late_mlm: bool = True  # masked words are predicted from the encoder's last layer too
    mask_rate: ShareInside[float] = 0.15  # share of tokens that are predicted

    learns_queries = False

    def __post_init__(self) -> None:
        bert = self.encoder.bert
        require(
            0 <= self.skip_from <= bert.layers,
            f"objective.skip_from={self.skip_from} is not one of the encoder's layers, 0 to {bert.layers}",
        )
        super().__post_init__()

    def example(self, passage: Passage, vocabulary: Vocabulary, rng: np.random.Generator) -> Example | None:
        return self.masked(passage.title, passage.tokens, self.layout, vocabulary, rng)

    def masked(
        self,
        title: Int[np.ndarray, " t"],
        body: Int[np.ndarray, " l"],
        layout: Layout,
        vocabulary: Vocabulary,
        rng: np.random.Generator,
    ) -> Example:
        """A passage after its prompt, with whole words masked: see `masked_passage`."""
        length, prompt = self.passage_length, vocabulary.prompt_ids(self.passage_prompt)
        return masked_passage(title, body, length, layout, vocabulary, self.mask_rate, rng, prompt=prompt)

    def init(self, rng: PRNGKeyArray) -> Params:
        encoder, mlm, head = jax.random.split(rng, 3)
        bert = self.encoder.bert
        condenser = init_condenser(bert, self.head_layers, head)
        return {**super().init(encoder), "mlm": init_mlm(bert, mlm), "condenser": condenser}

    def encode(self, params: Params, carry: Carry, batch: Batch, *, rng: PRNGKeyArray | None) -> Encoded:
        encoder_rng, head_rng = split_key(rng, 2)
        states = self.encoder.all_hidden_states(params["encoder"], batch["tokens"], rng=encoder_rng)
        return self.masked_lm(params, states, batch, rng=head_rng)

    def masked_lm(
        self, params: Params, states: tuple[Float[Array, "b l d"], ...], batch: Batch, *, rng: PRNGKeyArray | None
    ) -> Encodings:
        """Both predictions of the masked words of `batch`, whose hidden states are given."""
        bert = self.encoder.bert
        head = apply_condenser(bert, params, states[-1], states[self.skip_from], batch["tokens"], rng=rng)

        def predict(hidden: Array) -> MaskedLMLoss:
            logits = mlm_logits(bert, params, hidden, batch["positions"])
            return masked_lm_loss(logits, batch["labels"], batch["weights"])

        return Encodings(predict(head), predict(states[-1]) if self.late_mlm else None)

    def combine(
        self, carry: Carry, encoded: Encoded, batch: Batch, *, step: Array
    ) -> tuple[Array, tuple[Metrics, Carry]]:
        """loss = MLM of the head + MLM of the encoder: equations 10 and 11."""
        metrics = {"loss_head": encoded.head.loss, "accuracy_head": encoded.head.accuracy}
        if encoded.late is None:
            return encoded.head.loss, (metrics, carry)
        metrics |= {"loss_late": encoded.late.loss, "accuracy_late": encoded.late.accuracy}
        return encoded.head.loss + encoded.late.loss, (metrics, carry)
