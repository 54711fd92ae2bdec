"""The inverse cloze task: a sentence looks for the passage it was taken from.

Lee, Chang and Toutanova 2019, "Latent Retrieval for Weakly Supervised Open Domain Question Answering" (ORQA), section
4; the pre-training stage of REALM (Guu et al. 2020) too.
"""

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dense_jax import losses
from dense_jax.arrays import Array, Batch, Carry, Encoded, Example, Float, Metrics, Params, PRNGKeyArray, split_key
from dense_jax.config.rules import AT_SEARCH, RESUMABLE, Length, NotNegative, Positive, Share
from dense_jax.data.inputs import build_inputs
from dense_jax.data.masking import inverse_cloze
from dense_jax.losses.collapse import collapse_metrics
from dense_jax.models.encoder import Encoder
from dense_jax.objective import Objective
from dense_jax.types import Layout, Passage, Similarity, Tokens, Tower, Towers, Vocabulary


class Pairs(NamedTuple):
    """Vectors of both sides."""

    queries: Float[Array, "q d"]
    passages: Float[Array, "q d"]


@dataclass
class ICT(Objective):
    encoder: Encoder
    query_length: Length = field(default=64, metadata=AT_SEARCH)  # tokens
    passage_length: Length = field(default=288, metadata=AT_SEARCH)  # tokens
    layout: Layout = field(default=Layout.PAIR, metadata=AT_SEARCH)  # of passages
    removal_rate: Share[float] = 0.9  # how often the sentence is taken out of its passage
    shared: bool = True  # one encoder for both sides, as released; the papers write two
    temperature: Positive[float] = 1.0  # divides the scores
    # passages scored at a time; 0: all of the batch
    score_chunk: NotNegative[int] = field(default=0, metadata=RESUMABLE)

    def __post_init__(self) -> None:
        for name in ("query_length", "passage_length"):
            self.encoder.check_input(name, getattr(self, name), self.layout)

    def example(self, passage: Passage, vocabulary: Vocabulary, rng: np.random.Generator) -> Example | None:
        task = inverse_cloze(passage, self.removal_rate, rng)
        if task is None:
            return None
        no_title = passage.title[:0]
        return {
            "query": build_inputs(no_title, task.query, self.query_length, Layout.BODY, vocabulary),
            "passage": build_inputs(passage.title, task.body, self.passage_length, self.layout, vocabulary),
            "removed": np.bool_(task.removed),
        }

    def init(self, rng: PRNGKeyArray) -> Params:
        if self.shared:
            return {"encoder": self.encoder.init(rng)}
        query, passage = jax.random.split(rng)
        return {"query": self.encoder.init(query), "passage": self.encoder.init(passage)}

    def encode(self, params: Params, carry: Carry, batch: Batch, *, rng: PRNGKeyArray | None) -> Encoded:
        query_params, passage_params = self._sides(params)
        query_rng, passage_rng = split_key(rng, 2)
        return Pairs(
            self.encoder.apply(query_params, batch["query"], rng=query_rng),
            self.encoder.apply(passage_params, batch["passage"], rng=passage_rng),
        )

    def combine(
        self, carry: Carry, encoded: Encoded, batch: Batch, *, step: Array
    ) -> tuple[Array, tuple[Metrics, Carry]]:
        result = losses.contrast(*encoded, temperature=self.temperature, chunk=self.score_chunk)
        removed = batch["removed"]
        metrics = {
            "accuracy_removed": losses.weighted_mean(result.correct, removed),
            "accuracy_kept": losses.weighted_mean(result.correct, ~removed),
            "removed": jnp.mean(removed, dtype=jnp.float32),
            "query_fill": _fill(batch["query"]),
            "passage_fill": _fill(batch["passage"]),
        }
        return jnp.mean(result.loss), (metrics, carry)

    def diagnose(self, params: Params, carry: Carry, batch: Batch) -> Metrics:
        return collapse_metrics(*self.encode(params, carry, batch, rng=None))

    def towers(self, params: Params) -> Towers:
        query, passage = self._sides(params)
        return Towers(
            query=Tower(self.encoder, query, self.query_length),
            passage=Tower(self.encoder, passage, self.passage_length, self.layout),
            similarity=Similarity.COSINE if self.encoder.normalize else Similarity.DOT,
        )

    def _sides(self, params: Params) -> tuple[Any, Any]:
        if self.shared:
            return params["encoder"], params["encoder"]
        return params["query"], params["passage"]


def _fill(tokens: Tokens) -> Array:
    """Share of positions that hold a real token."""
    return jnp.mean(tokens.mask, dtype=jnp.float32)
