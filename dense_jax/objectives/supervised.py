"""Fine-tuning: a query finds the passage that answers it among those of all queries of the batch, hard ones included.

Karpukhin et al. 2020, "Dense Passage Retrieval for Open-Domain Question Answering" (DPR). What later work added to it
are settings: false negatives masked (GISTEmbed, NV-Retriever), a teacher's scores, both directions, shorter vectors.
"""

import enum
from collections.abc import Iterator
from dataclasses import dataclass, field, fields

import jax
import jax.numpy as jnp
import numpy as np

from dense_jax.arrays import Array, Batch, Carry, Encoded, Example, Float, Metrics, Params, l2_normalize
from dense_jax.config.rules import RESUMABLE, NotNegative, Positive, ShareBelow1
from dense_jax.errors import require
from dense_jax.losses.collapse import collapse_metrics
from dense_jax.losses.contrastive import ContrastiveLoss
from dense_jax.losses.directions import Directions, EncodedTexts, directional_contrastive_loss
from dense_jax.losses.distillation import has_scores, kl_divergence, margin_mse
from dense_jax.losses.similarity import false_negative_thresholds
from dense_jax.models.encoder import Encoder
from dense_jax.objective import unpack
from dense_jax.objectives.dual_encoder import Pairs
from dense_jax.objectives.fine_tuning import FineTuning, interleave_by_rank, metrics_of, text_ids
from dense_jax.types import TrainingQuery, Vocabulary


class FalseNegatives(enum.Enum):
    """The model whose scores detect false negatives: passages that score about as high as the positive are masked."""

    NONE = "none"  # only known positives are masked
    STUDENT = "student"  # the model's own
    GUIDE = "guide"  # another model's, whose vectors are stored with the queries


class Distillation(enum.Enum):
    """The loss against a teacher's scores of a query's own passages."""

    NONE = "none"
    KL = "kl"  # their softmax
    MARGIN_MSE = "margin_mse"  # by how much the positive scores higher


@dataclass
class Supervised(FineTuning[Encoder]):
    temperature: Positive[float] = 1.0  # divides the scores
    directions: Directions = Directions.PASSAGES
    label_smoothing: ShareBelow1[float] = 0.0
    # passages scored at a time; 0: all of the batch
    score_chunk: NotNegative[int] = field(default=0, metadata=RESUMABLE)
    false_negatives: FalseNegatives = FalseNegatives.NONE
    margin: NotNegative[float] = 0.0  # passages that score above (positive - margin) are masked
    relative_margin: bool = False  # the margin is a share of the positive's score
    contrast_weight: NotNegative[float] = 1.0
    distillation: Distillation = Distillation.NONE
    distillation_weight: NotNegative[float] = 1.0
    distillation_temperature: Positive[float] = 1.0  # divides both scores; kl
    distillation_squared: bool = True  # times the temperature squared, as sentence-transformers; Tevatron: false; kl
    # widths whose first components are to serve alone, the whole width among them
    matryoshka: tuple[Positive[int], ...] = ()
    matryoshka_weights: tuple[NotNegative[float], ...] = ()  # of the loss at each width; empty: all alike

    def __post_init__(self) -> None:
        super().__post_init__()
        defaults = {field.name: field.default for field in fields(self)}
        for name, effective, reason in self._conditions():
            value, default = getattr(self, name), defaults[name]
            shown = getattr(value, "value", value)
            require(effective or value == default, f"objective.{name}={shown} has no effect {reason}")
        self._check_distillation()
        self._check_matryoshka()

    def example(self, source: TrainingQuery, vocabulary: Vocabulary, rng: np.random.Generator) -> Example:
        """The query, its passages and, where they are used, the teacher's scores and the guide's vectors.

        Raises:
            ConfigError: the setting is `guide` and the query has no guide's vectors.
        """
        require(
            self.false_negatives is not FalseNegatives.GUIDE or source.guide is not None,
            "objective.false_negatives=guide needs a guide's vectors of queries and passages: name what `mine` wrote "
            "with mine.guide by --corpus.guide=FOLDER, or use --objective.false_negatives=student",
        )
        return super().example(source, vocabulary, rng)

    def combine(
        self, carry: Carry, encoded: Encoded, batch: Batch, *, step: Array
    ) -> tuple[Array, tuple[Metrics, Carry]]:
        """loss = contrast_weight * contrast + distillation_weight * distillation, the mean over widths."""
        loss, metrics = (self._nested if self.matryoshka else self._loss)(encoded, batch)
        return loss, (metrics, carry)

    def collapse_metrics(self, params: Params, carry: Carry, batch: Batch) -> Metrics:
        """Metrics of queries and their positives."""
        vectors = unpack(self.encode(params, carry, batch, rng=None))
        return collapse_metrics(vectors.queries, vectors.passages[:, 0])

    def further_inputs(self) -> Iterator[str]:
        if self.false_negatives is FalseNegatives.GUIDE:
            yield from ("guide_query", "guide_passages")
        if self.distillation is not Distillation.NONE:
            yield "scores"

    def _nested(self, vectors: Pairs, batch: Batch) -> tuple[Array, Metrics]:
        """The weighted mean of the losses at all widths; the other metrics are of the whole width."""
        parts = {width: self._loss(_first(vectors, width), batch) for width in self.matryoshka}
        losses = jnp.stack([loss for loss, _ in parts.values()])
        weights = jnp.array(self.matryoshka_weights or (1.0,) * len(parts), losses.dtype)
        metrics = {f"loss_{width}": loss for width, (loss, _) in parts.items()}
        return weights @ losses / jnp.sum(weights), parts[max(parts)][1] | metrics

    def _loss(self, vectors: Pairs, batch: Batch) -> tuple[Array, Metrics]:
        result = self._contrast(vectors, batch)
        metrics = metrics_of(result, batch)
        loss = self.contrast_weight * jnp.mean(result.loss) if self.contrast_weight else jnp.zeros(())
        if self.distillation is Distillation.NONE:
            return loss, metrics
        distilled = jnp.mean(self._distilled(vectors, batch["scores"]))
        metrics |= {"loss_contrast": jnp.mean(result.loss), "loss_distillation": distilled}
        metrics["with_scores"] = jnp.mean(has_scores(batch["scores"]), dtype=jnp.float32)
        return loss + self.distillation_weight * distilled, metrics

    def _contrast(self, vectors: Pairs, batch: Batch) -> ContrastiveLoss:
        queries, passages = text_ids(batch)
        guides = None
        if self.false_negatives is FalseNegatives.GUIDE:
            guides = Pairs(batch["guide_query"], batch["guide_passages"])
            queries = queries._replace(guide=guides.queries)
            passages = passages._replace(guide=interleave_by_rank(guides.passages))
        return directional_contrastive_loss(
            EncodedTexts(vectors.queries, queries),
            EncodedTexts(interleave_by_rank(vectors.passages), passages),
            directions=self.directions,
            thresholds=self._thresholds(guides or vectors),
            temperature=self.temperature,
            smoothing=self.label_smoothing,
            chunk=self.score_chunk,
        )

    def _thresholds(self, vectors: Pairs) -> Float[Array, " b"] | None:
        if self.false_negatives is FalseNegatives.NONE:
            return None
        positive_scores = jnp.einsum("bd,bd->b", vectors.queries, vectors.passages[:, 0])
        return false_negative_thresholds(positive_scores, margin=self.margin, relative=self.relative_margin)

    def _distilled(self, vectors: Pairs, teacher: Float[Array, "b g"]) -> Float[Array, " b"]:
        student = jnp.einsum("bd,bgd->bg", vectors.queries, vectors.passages)
        if self.distillation is Distillation.MARGIN_MSE:
            return margin_mse(student, teacher)
        return kl_divergence(
            student, teacher, temperature=self.distillation_temperature, squared=self.distillation_squared
        )

    def _conditions(self) -> Iterator[tuple[str, bool, str]]:
        """(setting, whether it has an effect, why not)."""
        weighs, learns = self.contrast_weight > 0, self.distillation is not Distillation.NONE
        filters, joint = self.false_negatives is not FalseNegatives.NONE, self.directions is Directions.JOINT
        for name in ("temperature", "directions", "label_smoothing", "false_negatives"):
            yield name, weighs, "with contrast_weight=0"
        yield "label_smoothing", not joint, "with directions=joint"
        for name in ("margin", "relative_margin"):
            yield name, filters, "with false_negatives=none; use --objective.false_negatives=student or guide"
        yield "distillation_weight", learns, "with distillation=none; use --objective.distillation=kl"
        for name in ("distillation_temperature", "distillation_squared"):
            yield name, self.distillation is Distillation.KL, f"with distillation={self.distillation.value}"
        yield "matryoshka_weights", bool(self.matryoshka), "without widths; give --objective.matryoshka=WIDTH"

    def _check_distillation(self) -> None:
        learns = self.distillation is not Distillation.NONE
        require(
            self.contrast_weight > 0 or (learns and self.distillation_weight > 0),
            f"objective.contrast_weight={self.contrast_weight} and no distillation leave nothing to be learned; "
            "use --objective.contrast_weight=1",
        )
        require(
            not learns or self.distillation_weight > 0,
            f"objective.distillation_weight={self.distillation_weight} turns objective.distillation="
            f"{self.distillation.value} off; use --objective.distillation=none",
        )
        require(
            not learns or self.negatives > 0,
            f"objective.distillation={self.distillation.value} compares a query's passages, and "
            f"objective.negatives={self.negatives} leaves it one; use --objective.negatives=7",
        )

    def _check_matryoshka(self) -> None:
        widths, whole = self.matryoshka, self.encoder.width
        if not widths:
            return
        require(
            len(set(widths)) == len(widths) and max(widths) == whole,
            f"objective.matryoshka={widths} must be different widths from 1 up to the whole, {whole}, which is the "
            f"one that is searched by; add --objective.matryoshka={whole}",
        )
        require(
            self.encoder.normalize,
            "objective.matryoshka learns vectors of length 1, and so must be those that are searched by; "
            "use --objective.encoder.normalize=true",
        )
        weights = self.matryoshka_weights
        require(
            not weights or (len(weights) == len(widths) and min(weights) > 0),
            f"objective.matryoshka_weights={weights} is not one positive number for each of {widths}",
        )


def _first(vectors: Pairs, width: int) -> Pairs:
    """The first components, at length 1. Kusupati et al. 2022, "Matryoshka Representation Learning"."""
    return jax.tree.map(lambda x: l2_normalize(x[..., :width]), vectors)
