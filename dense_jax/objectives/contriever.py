"""Contriever: two crops of the same text find each other among many others.

Izacard et al. 2022, "Unsupervised Dense Information Retrieval with Contrastive Learning". Negatives come from a queue
that a slowly following copy of the encoder fills (MoCo, He et al. 2020), or from the batch.
"""

import enum
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dense_jax.arrays import (
    Array,
    Batch,
    Carry,
    Encoded,
    Example,
    Float,
    Metrics,
    Params,
    PRNGKeyArray,
    l2_normalize,
    split_key,
)
from dense_jax.config.rules import RESUMABLE, Length, NotNegative, Positive, Share, ShareAbove0, ShareBelow1
from dense_jax.data.inputs import build_inputs
from dense_jax.data.masking import Noise, corrupt, crop
from dense_jax.errors import require
from dense_jax.losses.collapse import collapse_metrics
from dense_jax.losses.contrastive import contrastive_loss, queue_softmax
from dense_jax.models.encoder import Encoder
from dense_jax.objective import unpack
from dense_jax.objectives.dual_encoder import DualEncoder, fill
from dense_jax.types import Layout, Passage, Tokens, Vocabulary


class Negatives(enum.Enum):
    """The negatives that a query's key is contrasted with."""

    MOCO = "moco"  # a queue of the keys of earlier batches, by the momentum encoder
    IN_BATCH = "in_batch"  # the keys of the other queries of the batch, with gradient


class Views(NamedTuple):
    """Vectors of both crops of each text."""

    queries: Float[Array, "b d"]
    keys: Float[Array, "b d"]


@dataclass
class Contriever(DualEncoder[Encoder]):
    query_length: Length = field(default=64, metadata=RESUMABLE)  # tokens; of queries at search time
    passage_length: Length = field(default=256, metadata=RESUMABLE)  # tokens; of passages at search time
    # tokens of a crop, special ones and prompt included; of a chunk of 256 none is longer than 129
    view_length: Length = 128
    crop_min: ShareAbove0[float] = 0.05  # shortest crop, as a share of its text
    crop_max: ShareAbove0[float] = 0.5  # longest
    noise: Noise = Noise.DELETE  # what happens to some tokens of a crop
    noise_rate: ShareBelow1[float] = 0.1  # to which share of them
    negatives: Negatives = Negatives.MOCO
    temperature: Positive[float] = 0.05  # divides the scores
    label_smoothing: ShareBelow1[float] = 0.0
    normalize_queries: bool = False  # to length 1
    normalize_passages: bool = False
    queue: Positive[int] = 131_072  # keys; moco
    momentum: Share[float] = 0.9995  # of the momentum encoder: what it keeps of itself at a step; moco
    queue_warmup: bool = True  # only real keys are negatives; else the queue starts full of noise, as published; moco
    key_dropout: bool = False  # dropout in the momentum encoder, as the released code has it; moco
    both_directions: bool = False  # keys are contrasted with all queries too; in_batch
    # keys scored at a time; 0: all of the batch; in_batch
    score_chunk: NotNegative[int] = field(default=0, metadata=RESUMABLE)

    def __post_init__(self) -> None:
        require(
            0 < self.crop_min <= self.crop_max <= 1,
            f"objective.crop_min={self.crop_min} and objective.crop_max={self.crop_max} must rise from above 0 up to 1",
        )
        for name in ("both_directions", "score_chunk"):
            require(
                not getattr(self, name) or self.negatives is Negatives.IN_BATCH,
                f"objective.{name}={getattr(self, name)} has no effect with negatives={self.negatives.value}; "
                "use --objective.negatives=in_batch",
            )
        self.encoder.check_input("view_length", self.view_length, self.layout)
        super().__post_init__()

    def example(self, passage: Passage, vocabulary: Vocabulary, rng: np.random.Generator) -> Example | None:
        """Two crops of a text, drawn and corrupted independently, the query and its key after the prompt of their side.

        Section 3.1; the released code.
        """
        title = passage.title if self.layout is not Layout.BODY else passage.title[:0]
        text = np.concatenate([title, passage.tokens])
        prompts = {"query": self.query_prompt, "key": self.passage_prompt}
        if not len(text):
            return None
        return {name: self._view(text, prompt, vocabulary, rng) for name, prompt in prompts.items()}

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
            f"use --objective.queue={' or '.join(map(str, sizes))}",
        )
        return {
            "encoder": jax.tree.map(jnp.copy, params["encoder"]),
            "queue": l2_normalize(jax.random.normal(rng, (slots, batch, self.encoder.width), _dtype(params))),
            "next": jnp.zeros((), jnp.int32),
            "filled": jnp.asarray(0 if self.queue_warmup else slots, jnp.int32),
        }

    def update_carry(self, params: Params, carry: Carry) -> Carry:
        """The momentum encoder follows: theta_k <- m theta_k + (1 - m) theta_q. Section 3.2, equation 2.

        No gradient reaches the keys, since none passes here.
        """
        if self.negatives is Negatives.IN_BATCH:
            return carry
        follow = lambda k, q: self.momentum * k + (1 - self.momentum) * jax.lax.stop_gradient(q)  # noqa: E731
        return {**carry, "encoder": jax.tree.map(follow, carry["encoder"], params["encoder"])}

    def encode(self, params: Params, carry: Carry, batch: Batch, *, rng: PRNGKeyArray | None) -> Encoded:
        query_rng, key_rng = split_key(rng, 2)
        if self.negatives is Negatives.IN_BATCH:
            key_params = params["encoder"]
        else:
            key_params, key_rng = carry["encoder"], key_rng if self.key_dropout else None
        return Views(
            self.query_encoder.apply(params["encoder"], batch["query"], rng=query_rng),
            self.passage_encoder.apply(key_params, batch["key"], rng=key_rng),
        )

    def combine(
        self, carry: Carry, encoded: Encoded, batch: Batch, *, step: Array
    ) -> tuple[Array, tuple[Metrics, Carry]]:
        contrast = self._in_batch if self.negatives is Negatives.IN_BATCH else self._moco
        loss, metrics, carry = contrast(carry, encoded)
        metrics |= {
            "query_std": _mean_deviation(encoded.queries),
            "key_std": _mean_deviation(encoded.keys),
            "fill": (fill(batch["query"]) + fill(batch["key"])) / 2,
        }
        return loss, (metrics, carry)

    def collapse_metrics(self, params: Params, carry: Carry, batch: Batch) -> Metrics:
        signs = collapse_metrics(*unpack(self.encode(params, carry, batch, rng=None)))
        if self.negatives is Negatives.IN_BATCH:
            return signs
        apart = jax.tree.map(lambda q, k: jnp.sum(jnp.square(q - k)), params["encoder"], carry["encoder"])
        return signs | {
            "queue_age": jnp.asarray(carry["filled"], jnp.float32),  # steps since the oldest key was made
            "encoder_distance": jnp.sqrt(sum(jax.tree.leaves(apart))),  # |theta_q - theta_k|
        }

    def _moco(self, carry: Carry, views: Views) -> tuple[Array, Metrics, Carry]:
        """The keys replace the oldest of the queue after they were used."""
        result = queue_softmax(
            *views, carry["queue"], filled=carry["filled"],
            temperature=self.temperature, smoothing=self.label_smoothing,
        )  # fmt: skip
        slots = carry["queue"].shape[0]
        queue = jax.lax.dynamic_update_index_in_dim(carry["queue"], views.keys, carry["next"], axis=0)
        following = {"next": (carry["next"] + 1) % slots, "filled": jnp.minimum(carry["filled"] + 1, slots)}
        metrics = {"accuracy": jnp.mean(result.correct, dtype=jnp.float32)}
        return jnp.mean(result.loss), metrics, {**carry, "queue": queue, **following}

    def _in_batch(self, carry: Carry, views: Views) -> tuple[Array, Metrics, Carry]:
        settings = {"temperature": self.temperature, "smoothing": self.label_smoothing, "chunk": self.score_chunk}
        result = contrastive_loss(*views, **settings)
        loss = jnp.mean(result.loss)
        if self.both_directions:
            loss = (loss + jnp.mean(contrastive_loss(views.keys, views.queries, **settings).loss)) / 2
        return loss, {"accuracy": jnp.mean(result.correct, dtype=jnp.float32)}, carry

    def _view(self, text: np.ndarray, prompt: str, vocabulary: Vocabulary, rng: np.random.Generator) -> Tokens:
        part = crop(text, self.crop_min, self.crop_max, rng)
        noisy = corrupt(part, self.noise, self.noise_rate, vocabulary, rng)
        before = vocabulary.prompt_ids(prompt)
        return build_inputs(noisy[:0], noisy, self.view_length, Layout.BODY, vocabulary, prompt=before)

    @property
    def query_encoder(self) -> Encoder:
        return replace(self.encoder, normalize=self.encoder.normalize or self.normalize_queries)

    @property
    def passage_encoder(self) -> Encoder:
        return replace(self.encoder, normalize=self.encoder.normalize or self.normalize_passages)


def _dtype(params: Params) -> np.dtype:
    return jax.tree.leaves(params)[0].dtype


def _mean_deviation(vectors: Float[Array, "b d"]) -> Float[Array, ""]:
    """Standard deviation over the batch, the mean over dimensions: 0 is collapse."""
    return jnp.mean(jnp.std(vectors, axis=0, ddof=1))
