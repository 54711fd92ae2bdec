"""coCondenser: two spans of one document find each other among all of the batch; Condenser's losses are added.

Gao and Callan 2022, "Unsupervised Corpus Aware Language Model Pre-training for Dense Passage Retrieval".
"""

from dataclasses import dataclass, field
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dense_jax.arrays import Array, Batch, Carry, Encoded, Example, Float, Metrics, Params, PRNGKeyArray, split_key
from dense_jax.config.rules import RESUMABLE, NotNegative
from dense_jax.losses.collapse import collapse_metrics
from dense_jax.losses.contrastive import contrastive_loss
from dense_jax.losses.similarity import NegativeMask, TextIds
from dense_jax.objective import unpack
from dense_jax.objectives.condenser import Condenser, Encodings
from dense_jax.types import Layout, PackedVectors, Passage, Vocabulary


class Spans(NamedTuple):
    """Vectors and masked-word predictions of each document's two spans, or the predictions of each packed row."""

    vectors: Float[Array, "b 2 d"] | PackedVectors
    masked_lm: Encodings


@dataclass
class CoCondenser(Condenser):
    """Condenser's settings; `passage_length` is that of a span. Prepare with `passages.unit=spans`."""

    layout: Layout = field(default=Layout.BODY, metadata=RESUMABLE)  # of passages at search time; spans have no title
    mlm_weight: NotNegative[float] = 1.0  # of Condenser's losses, added to the contrastive one
    score_chunk: NotNegative[int] = field(default=0, metadata=RESUMABLE)  # spans scored at a time; 0: all of the batch

    def example(self, passage: Passage, vocabulary: Vocabulary, rng: np.random.Generator) -> Example | None:
        """Two different spans of a document, drawn uniformly, each masked."""
        if len(passage.sentences) < 2:
            return None
        drawn = rng.choice(len(passage.sentences), size=2, replace=False)
        bodies = [passage.tokens[passage.sentence(int(i))] for i in drawn]
        spans = [self.masked(body[:0], body, Layout.BODY, vocabulary, rng) for body in bodies]
        return jax.tree.map(lambda *parts: np.stack(parts), *spans)

    def encode(self, params: Params, carry: Carry, batch: Batch, *, rng: PRNGKeyArray | None) -> Encoded:
        encoder_rng, rest = split_key(rng, 2)
        in_rows = self.packing < 1
        spans = batch if in_rows else jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), batch)  # d0a, d0b, d1a, ...
        states = self.encoder.all_hidden_states(params["encoder"], spans["tokens"], rng=encoder_rng)
        vectors = self.encoder.pool(params["encoder"], states[-1], spans["tokens"])
        masked_lm = self.masked_lm(params, states, spans, rng=rest)
        encoded = Spans(vectors, masked_lm)
        return encoded if in_rows else jax.tree.map(lambda x: x.reshape(-1, 2, *x.shape[1:]), encoded)

    def combine(
        self, carry: Carry, encoded: Encoded, batch: Batch, *, step: Array
    ) -> tuple[Array, tuple[Metrics, Carry]]:
        """loss = mean over spans of -log softmax at the partner, of inner products with all other spans, + MLM.

        Section 3.2, equation 7; its MLM term is the released code's, the mean over all masked tokens.
        """
        spans = encoded.vectors.reshape(-1, encoded.vectors.shape[-1])
        itself = jnp.arange(len(spans))
        marks = TextIds(itself[:, None])
        result = contrastive_loss(
            spans, spans, positives=itself ^ 1, negative_mask=NegativeMask(marks, marks), chunk=self.score_chunk
        )
        of_spans = jax.tree.map(lambda x: x.reshape(-1), encoded.masked_lm)
        masked_lm, (metrics, _) = super().combine(carry, of_spans, batch, step=step)
        contrast = jnp.mean(result.loss)
        metrics |= {"loss_contrast": contrast, "accuracy_contrast": jnp.mean(result.correct, dtype=jnp.float32)}
        return contrast + self.mlm_weight * masked_lm, (metrics, carry)

    def collapse_metrics(self, params: Params, carry: Carry, batch: Batch) -> Metrics:
        vectors = unpack(self.encode(params, carry, batch, rng=None)).vectors
        return collapse_metrics(vectors[:, 0], vectors[:, 1])
