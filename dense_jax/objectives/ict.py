"""The inverse cloze task: a sentence retrieves the passage that it was taken from.

Lee, Chang and Toutanova 2019, "Latent Retrieval for Weakly Supervised Open Domain Question Answering" (ORQA), section
4; the pre-training stage of REALM (Guu et al. 2020) too.
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from dense_jax.arrays import Array, Batch, Carry, Encoded, Example, Int, Metrics, weighted_mean
from dense_jax.config.rules import AT_SEARCH, RESUMABLE, NotNegative, Positive, Share
from dense_jax.losses.contrastive import contrastive_loss
from dense_jax.models.encoder import Encoder
from dense_jax.objectives.dual_encoder import DualEncoder, fill
from dense_jax.types import Layout, Passage, Vocabulary


@dataclass
class ICT(DualEncoder[Encoder]):
    layout: Layout = field(default=Layout.PAIR, metadata=AT_SEARCH)  # of passages
    removal_rate: Share[float] = 0.9  # how often the sentence is taken out of its passage
    shared: bool = True  # one encoder for both sides, as released; the papers write two
    temperature: Positive[float] = 1.0  # divides the scores
    # passages scored at a time; 0: all of the batch
    score_chunk: NotNegative[int] = field(default=0, metadata=RESUMABLE)

    def example(self, passage: Passage, vocabulary: Vocabulary, rng: np.random.Generator) -> Example | None:
        task = inverse_cloze(passage, self.removal_rate, rng)
        if task is None:
            return None
        return {
            "query": self.query_inputs(task.query, vocabulary),
            "passage": self.passage_inputs(passage.title, task.body, vocabulary),
            "removed": np.bool_(task.removed),
        }

    def combine(
        self, carry: Carry, encoded: Encoded, batch: Batch, *, step: Array
    ) -> tuple[Array, tuple[Metrics, Carry]]:
        """loss = mean over sentences of -log softmax at the own passage, of inner products with all of the batch."""
        result = contrastive_loss(*encoded, temperature=self.temperature, chunk=self.score_chunk)
        removed = batch["removed"]
        metrics = {
            "accuracy_removed": weighted_mean(result.correct, removed),
            "accuracy_kept": weighted_mean(result.correct, ~removed),
            "removed": jnp.mean(removed, dtype=jnp.float32),
            "query_fill": fill(batch["query"]),
            "passage_fill": fill(batch["passage"]),
        }
        return jnp.mean(result.loss), (metrics, carry)


class InverseCloze(NamedTuple):
    """A sentence and its passage."""

    query: Int[np.ndarray, " q"]
    body: Int[np.ndarray, " l"]
    removed: bool  # the body is without the sentence


def inverse_cloze(passage: Passage, removal_rate: float, rng: np.random.Generator) -> InverseCloze | None:
    """One sentence of `passage`, uniformly drawn, as a query for the rest.

    The sentence is removed from the body with probability `removal_rate`; otherwise the body stays whole, so that the
    encoder also learns to match words. None if the sentence to be removed is the whole body.
    ORQA (Lee et al. 2019), section 4.
    """
    chosen = passage.sentence(int(rng.integers(len(passage.sentences))))
    removed = bool(rng.random() < removal_rate)
    if removed and len(passage.sentences) == 1:
        return None
    query = passage.tokens[chosen]
    body = np.delete(passage.tokens, chosen) if removed else passage.tokens
    return InverseCloze(query, body, removed)
