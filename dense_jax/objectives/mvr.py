"""MVR: a passage has several vectors, and a query is answered by the best of them.

Zhang et al. 2022, "Multi-View Document Representation Learning for Open-Domain Dense Retrieval".
"""

import dataclasses
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from dense_jax.arrays import Array, Batch, Carry, Encoded, Example, Metrics, Params
from dense_jax.config.rules import NotNegative, ShareAbove0
from dense_jax.losses.collapse import collapse_metrics
from dense_jax.losses.multi_view import annealed_temperature, mvr_loss, view_collapse_metrics
from dense_jax.losses.similarity import NegativeMask
from dense_jax.models.encoder import MultiViewEncoder
from dense_jax.objectives.fine_tuning import FineTuning, interleave_by_rank, metrics_of, text_ids
from dense_jax.types import TrainingQuery, Vocabulary


@dataclass
class MVR(FineTuning[MultiViewEncoder]):
    """Shared encoders read queries by the first view token of passages."""

    shared: bool = False
    local_weight: NotNegative[float] = 0.01  # lambda, which the paper does not give: the value is ours
    annealing: NotNegative[float] = 0.1  # alpha: the temperature falls by exp(-alpha) from epoch to epoch
    lowest_temperature: ShareAbove0[float] = 0.3

    packs = False  # view tokens stand at the start of a row

    def example(self, source: TrainingQuery, vocabulary: Vocabulary, rng: np.random.Generator) -> Example:
        """The query, its passages, which they are, and the epoch, which the temperature depends on."""
        return super().example(source, vocabulary, rng) | {"epoch": np.int32(source.epoch)}

    def combine(
        self, carry: Carry, encoded: Encoded, batch: Batch, *, step: Array
    ) -> tuple[Array, tuple[Metrics, Carry]]:
        """loss = global + local_weight * local, the means over queries."""
        temperature = annealed_temperature(batch["epoch"], rate=self.annealing, floor=self.lowest_temperature)
        passages = interleave_by_rank(self._viewed(encoded.passages))
        found = mvr_loss(
            encoded.queries, passages, temperature=temperature, negative_mask=NegativeMask(*text_ids(batch))
        )
        of_all, local = jnp.mean(found.contrastive.loss), jnp.mean(found.local)
        metrics = metrics_of(found.contrastive, batch) | {
            "loss_global": of_all,
            "loss_local": local,
            "temperature": jnp.mean(temperature, dtype=jnp.float32),
        }
        return of_all + self.local_weight * local, (metrics, carry)

    def collapse_metrics(self, params: Params, carry: Carry, batch: Batch) -> Metrics:
        """Metrics of queries and the best view of the positive of each, and of the differences between views."""
        vectors = self.encode(params, carry, batch, rng=None)
        own = self._viewed(vectors.passages)[:, 0]
        winners = jnp.argmax(jnp.einsum("bd,bnd->bn", vectors.queries, own), axis=1)
        best = jnp.take_along_axis(own, winners[:, None, None], axis=1)[:, 0]
        return collapse_metrics(vectors.queries, best) | view_collapse_metrics(vectors.queries, own)

    @property
    def query_encoder(self) -> MultiViewEncoder:
        """The encoder with one view token."""
        return dataclasses.replace(self.encoder, views=1)

    def _viewed(self, passages: Array) -> Array:
        """[b g n d], of a single view too."""
        b, g = passages.shape[:2]
        return passages.reshape(b, g, self.encoder.views, self.encoder.width)
