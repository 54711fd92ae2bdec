"""What all fine-tuning shares: a query, its answer and further passages, and the two encoders that they go through."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from dense_jax import losses
from dense_jax.arrays import Array, Batch, Carry, Encoded, Example, Float, Metrics, Params, PRNGKeyArray, split_key
from dense_jax.config.rules import AT_SEARCH, Length, NotNegative
from dense_jax.data.questions import QuestionLayout
from dense_jax.losses import InBatch, TextIds
from dense_jax.models.encoder import Encoder
from dense_jax.models.viewers import MultiViewEncoder
from dense_jax.objective import Objective
from dense_jax.types import Layout, Similarity, Tokens, Tower, Towers, TrainingQuery, Vocabulary

E = TypeVar("E", Encoder, MultiViewEncoder)


class Vectors(NamedTuple):
    """Of each query and of its passages, the answer first."""

    queries: Float[Array, "b d"]
    passages: Float[Array, "b g *n d"]


@dataclass
class BiEncoder(Objective, Generic[E]):
    """The part of an objective that says nothing of its loss."""

    encoder: E
    query_length: Length = field(default=32, metadata=AT_SEARCH)  # tokens
    passage_length: Length = field(default=128, metadata=AT_SEARCH)  # tokens
    layout: Layout = field(default=Layout.JOINED, metadata=AT_SEARCH)  # of passages
    negatives: NotNegative[int] = 7  # passages of each query in addition to its answer
    known: NotNegative[int] = 8  # answers of a query that are no negatives of it, whose passages ever they are
    shared: bool = True  # one encoder for both sides; else two, as in DPR
    query_prompt: str = field(default="", metadata=AT_SEARCH)  # put before a query
    passage_prompt: str = field(default="", metadata=AT_SEARCH)  # put before a passage

    learns_from = TrainingQuery

    def __post_init__(self) -> None:
        for name in ("query_length", "passage_length"):
            self.encoder.check_input(name, getattr(self, name), self.layout)

    def prompts(self) -> Sequence[str]:
        return [prompt for prompt in (self.query_prompt, self.passage_prompt) if prompt]

    def texts(self, visit: TrainingQuery) -> Sequence[int]:
        return self._question_layout.texts(visit)

    def example(self, visit: TrainingQuery, vocabulary: Vocabulary, rng: np.random.Generator) -> Example:
        """The query, its passages, and which they are: as `QuestionLayout.example` gives them."""
        wanted = {"query", "passages", "texts", "known", *self.further_inputs()}
        found = self._question_layout.example(visit, vocabulary)
        return {name: value for name, value in found.items() if name in wanted}

    def further_inputs(self) -> Iterable[str]:
        """What else of `QuestionLayout.example` the loss uses."""
        return ()

    def init(self, rng: PRNGKeyArray) -> Params:
        if self.shared:
            return {"encoder": self.encoder.init(rng)}
        query, passage = jax.random.split(rng)
        return {"query": self.query_encoder.init(query), "passage": self.encoder.init(passage)}

    def encode(self, params: Params, carry: Carry, batch: Batch, *, rng: PRNGKeyArray | None) -> Encoded:
        query_params, passage_params = self._sides(params)
        query_rng, passage_rng = split_key(rng, 2)
        each = jax.tree.map(lambda x: x.reshape(-1, x.shape[-1]), batch["passages"])
        passages = self.encoder.apply(passage_params, each, rng=passage_rng)
        queries = self.query_encoder.apply(query_params, batch["query"], rng=query_rng)
        return Vectors(queries, passages.reshape(*batch["texts"].shape, *passages.shape[1:]))

    def towers(self, params: Params) -> Towers:
        query, passage = self._sides(params)
        return Towers(
            query=Tower(self.query_encoder, query, self.query_length, prompt=self.query_prompt),
            passage=Tower(self.encoder, passage, self.passage_length, self.layout, self.passage_prompt),
            similarity=Similarity.COSINE if self.encoder.normalize else Similarity.DOT,
        )

    @property
    def query_encoder(self) -> E:
        """What encodes queries, of which each has one vector."""
        return self.encoder

    @property
    def _question_layout(self) -> QuestionLayout:
        return QuestionLayout(
            negatives=self.negatives,
            query_length=self.query_length,
            passage_length=self.passage_length,
            layout=self.layout,
            query_prompt=self.query_prompt,
            passage_prompt=self.passage_prompt,
            known=self.known,
        )

    def _sides(self, params: Params) -> tuple[Any, Any]:
        if self.shared:
            return params["encoder"], params["encoder"]
        return params["query"], params["passage"]


def text_ids(batch: Batch) -> tuple[TextIds, TextIds]:
    """Ids of the texts that answer each query, and of the passages as `interleave_by_rank` orders them."""
    known = jnp.concatenate([batch["texts"][:, :1], batch["known"]], axis=1)
    return TextIds(known), TextIds(interleave_by_rank(batch["texts"][..., None]))


def interleave_by_rank(x: Array) -> Array:
    """[b, g, ...] -> [g b, ...]: the first of each, then the second of each, ...

    All answers come first, then each query's first negative, and so on: the order of the global batch.
    """
    return x.swapaxes(0, 1).reshape(-1, *x.shape[2:])


def metrics_of(result: InBatch, batch: Batch) -> Metrics:
    """What to log of a batch that was told apart."""
    passages = jnp.sum(batch["texts"] >= 0)
    there = jnp.broadcast_to(batch["texts"][..., None] >= 0, batch["passages"].mask.shape)
    return {
        "accuracy": jnp.mean(result.correct, dtype=jnp.float32),
        "mrr": jnp.mean(1 / result.rank, dtype=jnp.float32),
        "candidates": jnp.mean(result.candidates, dtype=jnp.float32),  # of a query, its answer among them
        "hidden": 1 - jnp.mean((result.candidates - 1) / jnp.maximum(passages - 1, 1), dtype=jnp.float32),
        "query_fill": _fill(batch["query"]),
        "passage_fill": losses.weighted_mean(batch["passages"].mask, there),  # of passages that are there
    }


def _fill(tokens: Tokens) -> Array:
    """Share of positions that hold a real token."""
    return jnp.mean(tokens.mask, dtype=jnp.float32)
