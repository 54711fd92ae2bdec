"""Contriever: two crops of the same text find each other among many others.

Izacard et al. 2022, "Unsupervised Dense Information Retrieval with Contrastive Learning". Negatives come from a queue
that a slowly following copy of the encoder fills (MoCo, He et al. 2020), or from the batch.
"""

import enum
from dataclasses import dataclass, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dense_jax import losses
from dense_jax.arrays import Array, Batch, Carry, Encoded, Example, Float, Metrics, Params, PRNGKeyArray, split, unit
from dense_jax.config import require
from dense_jax.contracts import Layout, Objective, Passage, Similarity, Tokens, Tower, Towers, Vocabulary
from dense_jax.data.passages import lay_out
from dense_jax.data.spans import Noise, crop, disturb
from dense_jax.diagnostics import signs_of_collapse
from dense_jax.models.encoder import Encoder


class Negatives(enum.Enum):
    """What a query's key is told from."""

    MOCO = "moco"  # a queue of the keys of earlier batches, by the momentum encoder
    IN_BATCH = "in_batch"  # the keys of the other queries of the batch, with gradient


class Views(NamedTuple):
    """Vectors of both crops of each text."""

    queries: Float[Array, "b d"]
    keys: Float[Array, "b d"]


@dataclass
class Contriever(Objective):
    encoder: Encoder
    view_length: int = 128  # tokens of a crop, special ones included; of a chunk of 256 none is longer than 129
    crop_min: float = 0.05  # shortest crop, as a share of its text
    crop_max: float = 0.5  # longest
    noise: Noise = Noise.DELETE  # what happens to some tokens of a crop
    noise_rate: float = 0.1  # to which share of them
    negatives: Negatives = Negatives.MOCO
    temperature: float = 0.05  # divides the scores
    label_smoothing: float = 0.0
    normalize_queries: bool = False  # to length 1
    normalize_passages: bool = False
    queue: int = 131_072  # keys; moco
    momentum: float = 0.9995  # of the momentum encoder: what it keeps of itself at a step; moco
    queue_warmup: bool = True  # only real keys are negatives; else the queue starts full of noise, as published; moco
    key_dropout: bool = False  # dropout in the momentum encoder, as the released code has it; moco
    both_directions: bool = False  # keys look for their queries too; in_batch
    score_chunk: int = 0  # keys scored at a time; 0: all of the batch; in_batch
    query_length: int = 64  # tokens; of queries at search time
    passage_length: int = 256  # tokens; of passages at search time
    layout: Layout = Layout.JOINED  # of passages at search time, and of texts with a title

    def __post_init__(self) -> None:
        require(
            0 < self.crop_min <= self.crop_max <= 1,
            f"objective.crop_min={self.crop_min} and objective.crop_max={self.crop_max} must rise from above 0 up to 1",
        )
        require(0 <= self.noise_rate < 1, f"objective.noise_rate={self.noise_rate} must lie in [0, 1)")
        require(self.temperature > 0, f"objective.temperature={self.temperature} must be positive")
        require(0 <= self.label_smoothing < 1, f"objective.label_smoothing={self.label_smoothing} must lie in [0, 1)")
        require(0 <= self.momentum <= 1, f"objective.momentum={self.momentum} is not between 0 and 1")
        require(self.queue > 0, f"objective.queue={self.queue} must be positive")
        require(self.score_chunk >= 0, f"objective.score_chunk={self.score_chunk} must not be negative; 0 means all")
        longest, positions = max(self.view_length, self.query_length, self.passage_length), self.encoder.bert.positions
        require(longest <= positions, f"{longest} tokens exceed objective.encoder.bert.positions={positions}")

    def example(self, passage: Passage, vocabulary: Vocabulary, rng: np.random.Generator) -> Example | None:
        """Two crops of a text, drawn and disturbed independently. Section 3.1; the released code."""
        title = passage.title if self.layout is not Layout.BODY else passage.title[:0]
        text = np.concatenate([title, passage.tokens])
        return {name: self._view(text, vocabulary, rng) for name in ("query", "key")} if len(text) else None

    def init(self, rng: PRNGKeyArray) -> Params:
        return {"encoder": self.encoder.init(rng)}

    def init_carry(self, params: Params, batch: int, rng: PRNGKeyArray) -> Carry:
        """The momentum encoder, a copy; the queue, noise of length 1; where the next keys go; how much is filled.

        Raises:
            ConfigError: the queue does not hold a whole number of batches.
        """
        if self.negatives is Negatives.IN_BATCH:
            return {}
        slots = self.queue // batch
        sizes = [n * batch for n in (slots, slots + 1) if n]
        require(
            self.queue % batch == 0,
            f"objective.queue={self.queue} is not divisible by batch={batch}; "
            f"use --config.objective.queue={' or '.join(map(str, sizes))}",
        )
        return {
            "encoder": jax.tree.map(jnp.copy, params["encoder"]),
            "queue": unit(jax.random.normal(rng, (slots, batch, self.encoder.width), _dtype(params))),
            "next": jnp.zeros((), jnp.int32),
            "filled": jnp.asarray(0 if self.queue_warmup else slots, jnp.int32),
        }

    def update_carry(self, params: Params, carry: Carry) -> Carry:
        """The momentum encoder follows: theta_k <- m theta_k + (1 - m) theta_q. Section 3.2, equation 2."""
        if self.negatives is Negatives.IN_BATCH:
            return carry
        follow = lambda k, q: self.momentum * k + (1 - self.momentum) * jax.lax.stop_gradient(q)  # noqa: E731
        return {**carry, "encoder": jax.tree.map(follow, carry["encoder"], params["encoder"])}

    def encode(self, params: Params, carry: Carry, batch: Batch, *, rng: PRNGKeyArray | None) -> Encoded:
        query_rng, key_rng = split(rng, 2)
        if self.negatives is Negatives.IN_BATCH:
            key_params = params["encoder"]
        else:
            key_params, key_rng = carry["encoder"], key_rng if self.key_dropout else None
        return Views(
            self._query_encoder.apply(params["encoder"], batch["query"], rng=query_rng),
            self._passage_encoder.apply(key_params, batch["key"], rng=key_rng),
        )

    def combine(
        self, carry: Carry, encoded: Encoded, batch: Batch, *, step: Array
    ) -> tuple[Array, tuple[Metrics, Carry]]:
        contrast = self._in_batch if self.negatives is Negatives.IN_BATCH else self._moco
        loss, metrics, carry = contrast(carry, encoded)
        metrics |= {"query_std": _spread(encoded.queries), "key_std": _spread(encoded.keys)}
        return loss, (metrics, carry)

    def diagnose(self, params: Params, carry: Carry, batch: Batch) -> Metrics:
        signs = signs_of_collapse(*self.encode(params, carry, batch, rng=None))
        if self.negatives is Negatives.IN_BATCH:
            return signs
        apart = jax.tree.map(lambda q, k: jnp.sum(jnp.square(q - k)), params["encoder"], carry["encoder"])
        return signs | {
            "queue_age": jnp.asarray(carry["filled"], jnp.float32),  # steps since the oldest key was made
            "encoder_distance": jnp.sqrt(sum(jax.tree.leaves(apart))),  # |theta_q - theta_k|
        }

    def towers(self, params: Params) -> Towers:
        cosine = self._query_encoder.normalize and self._passage_encoder.normalize
        return Towers(
            query=Tower(self._query_encoder, params["encoder"], self.query_length),
            passage=Tower(self._passage_encoder, params["encoder"], self.passage_length, self.layout),
            similarity=Similarity.COSINE if cosine else Similarity.DOT,
        )

    def _moco(self, carry: Carry, views: Views) -> tuple[Array, Metrics, Carry]:
        """The keys join the queue after they were used, in the place of the oldest."""
        keys = jax.lax.stop_gradient(views.keys)
        result = losses.queue_softmax(
            views.queries, keys, carry["queue"], filled=carry["filled"],
            temperature=self.temperature, smoothing=self.label_smoothing,
        )  # fmt: skip
        slots = carry["queue"].shape[0]
        queue = jax.lax.dynamic_update_index_in_dim(carry["queue"], keys, carry["next"], axis=0)
        following = {"next": (carry["next"] + 1) % slots, "filled": jnp.minimum(carry["filled"] + 1, slots)}
        metrics = {"accuracy": jnp.mean(result.correct, dtype=jnp.float32)}
        return jnp.mean(result.loss), metrics, {**carry, "queue": queue, **following}

    def _in_batch(self, carry: Carry, views: Views) -> tuple[Array, Metrics, Carry]:
        settings = {"temperature": self.temperature, "smoothing": self.label_smoothing, "chunk": self.score_chunk}
        result = losses.contrast(*views, **settings)
        loss = jnp.mean(result.loss)
        if self.both_directions:
            loss = (loss + jnp.mean(losses.contrast(views.keys, views.queries, **settings).loss)) / 2
        return loss, {"accuracy": jnp.mean(result.correct, dtype=jnp.float32)}, carry

    def _view(self, text: np.ndarray, vocabulary: Vocabulary, rng: np.random.Generator) -> Tokens:
        part = crop(text, self.crop_min, self.crop_max, rng)
        noisy = disturb(part, self.noise, self.noise_rate, vocabulary, rng)
        return lay_out(noisy[:0], noisy, self.view_length, Layout.BODY, vocabulary)

    @property
    def _query_encoder(self) -> Encoder:
        return replace(self.encoder, normalize=self.encoder.normalize or self.normalize_queries)

    @property
    def _passage_encoder(self) -> Encoder:
        return replace(self.encoder, normalize=self.encoder.normalize or self.normalize_passages)


def _dtype(params: Params) -> np.dtype:
    return jax.tree.leaves(params)[0].dtype


def _spread(vectors: Float[Array, "b d"]) -> Float[Array, ""]:
    """Standard deviation over the batch, the mean over dimensions: 0 is collapse."""
    return jnp.mean(jnp.std(vectors, axis=0, ddof=1))
