"""The base of fine-tuning: a query, a passage that answers it, and negatives of its own."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import jax.numpy as jnp
import numpy as np

from dense_jax.arrays import (
    Array,
    Batch,
    Carry,
    Encoded,
    Example,
    Metrics,
    Params,
    PRNGKeyArray,
    split_key,
    weighted_mean,
)
from dense_jax.config.rules import AT_SEARCH, Length, NotNegative
from dense_jax.data.inputs import flatten_tokens
from dense_jax.data.questions import QuestionLayout
from dense_jax.data.stores.query_store import QueryStore
from dense_jax.losses.contrastive import ContrastiveLoss
from dense_jax.losses.similarity import TextIds
from dense_jax.objectives.dual_encoder import DualEncoder, E, Pairs, fill
from dense_jax.types import PackedTokens, TrainingQuery, TrainingSet, Vocabulary


@dataclass
class FineTuning(DualEncoder[E]):
    """All of a fine-tuning method but its loss. A query has g = 1 + negatives passages, its positive first."""

    query_length: Length = field(default=32, metadata=AT_SEARCH)  # tokens
    passage_length: Length = field(default=128, metadata=AT_SEARCH)  # tokens
    negatives: NotNegative[int] = 7  # passages of each query in addition to its positive
    known: NotNegative[int] = 8  # at most this many known positives per query are masked as in-batch negatives
    shared: bool = True  # one encoder for both sides; else two, as in DPR
    # in training, one for each of corpus.source and corpus.also in place of query_prompt and passage_prompt
    query_prompts: tuple[str, ...] = ()
    passage_prompts: tuple[str, ...] = ()

    learns_from = TrainingQuery

    def prompts(self) -> Sequence[str]:
        return [*dict.fromkeys([*super().prompts(), *filter(None, self.query_prompts + self.passage_prompts)])]

    def texts(self, source: TrainingQuery) -> Sequence[int]:
        return self._question_layout(source).texts(source)

    def notes(self, data: TrainingSet) -> Sequence[str]:
        """Positives that `known` leaves out, places of negatives that no query has, queries that are mostly padding."""
        assert isinstance(data, QueryStore)
        return [*self._known_notes(data), *self._padding_notes(data)]

    def _known_notes(self, data: QueryStore) -> Iterator[str]:
        counts = data.positive_counts()
        if more := sum(queries for count, queries in counts.items() if count > self.known):
            yield (
                f"{more:,} of {len(data):,} queries have more known positives than objective.known={self.known}; "
                f"further ones may be their in-batch negatives: use --objective.known={max(counts)} to mask all"
            )

    def _padding_notes(self, data: QueryStore) -> Iterator[str]:
        if self.negatives and not data.negative_count:
            yield (
                f"none of {len(data):,} queries has a negative, so {self.negatives} of {self.negatives + 1} passages "
                "that are encoded are padding; use --objective.negatives=0, or mine some and name their file by "
                "--corpus.queries"
            )
        prompt = max(map(len, self.query_prompts or (self.query_prompt,)))  # a token has a character at least
        longest = data.longest + prompt + 2  # [CLS] and [SEP]
        if self.query_length > 2 * longest:
            yield (
                f"training queries have up to {longest} tokens, and objective.query_length={self.query_length} pads "
                f"all to that; --objective.query_length={longest} trains faster, and {self.query_length} again at "
                "search cuts no longer query"
            )

    def example(self, source: TrainingQuery, vocabulary: Vocabulary, rng: np.random.Generator) -> Example:
        """The query, its passages, their ids, and the ids of its known positives: see `QuestionLayout.example`."""
        wanted = {"query", "passages", "texts", "known", *self.further_inputs()}
        found = self._question_layout(source).example(source, vocabulary)
        return {name: value for name, value in found.items() if name in wanted}

    def further_inputs(self) -> Iterable[str]:
        """Names of other arrays of `QuestionLayout.example` that the loss uses."""
        return ()

    def encode(self, params: Params, carry: Carry, batch: Batch, *, rng: PRNGKeyArray | None) -> Encoded:
        """`Pairs`: queries [b d], passages [b g *n d]."""
        query_params, passage_params = self.sides(params)
        query_rng, passage_rng = split_key(rng, 2)
        texts = batch["passages"]
        queries = self.query_encoder.apply(query_params, batch["query"], rng=query_rng)
        if self.packing < 1:
            return Pairs(queries, self.passage_encoder.apply(passage_params, texts, rng=passage_rng))
        passages = self.passage_encoder.apply(passage_params, flatten_tokens(texts), rng=passage_rng)
        return Pairs(queries, passages.reshape(*batch["texts"].shape, *passages.shape[1:]))

    def _question_layout(self, query: TrainingQuery) -> QuestionLayout:
        return QuestionLayout(
            negatives=self.negatives,
            query_length=self.query_length,
            passage_length=self.passage_length,
            layout=self.layout,
            query_prompt=self.query_prompts[query.source] if self.query_prompts else self.query_prompt,
            passage_prompt=self.passage_prompts[query.source] if self.passage_prompts else self.passage_prompt,
            known=self.known,
        )


def text_ids(batch: Batch) -> tuple[TextIds, TextIds]:
    """Ids of the known positives of each query, and of the passages as `interleave_by_rank` orders them."""
    known = jnp.concatenate([batch["texts"][:, :1], batch["known"]], axis=1)
    return TextIds(known), TextIds(interleave_by_rank(batch["texts"][..., None]))


def interleave_by_rank(x: Array) -> Array:
    """[b, g, ...] -> [g b, ...]: the first of each, then the second of each, ...

    All positives come first, then each query's first negative, and so on: the order of the global batch.
    """
    return x.swapaxes(0, 1).reshape(-1, *x.shape[2:])


def metrics_of(result: ContrastiveLoss, batch: Batch) -> Metrics:
    """The metrics of a contrast of queries with all passages of the batch."""
    passages = jnp.sum(batch["texts"] >= 0)
    return {
        "accuracy": jnp.mean(result.correct, dtype=jnp.float32),
        "mrr": jnp.mean(1 / result.rank, dtype=jnp.float32),
        "candidates": jnp.mean(result.candidates, dtype=jnp.float32),  # of a query, its positive among them
        "masked_share": 1 - jnp.mean((result.candidates - 1) / jnp.maximum(passages - 1, 1), dtype=jnp.float32),
        "query_fill": fill(batch["query"]),
        "passage_fill": _passage_fill(batch),
    }


def _passage_fill(batch: Batch) -> Array:
    """Share of positions that hold a real token; those of passages that a query lacks do not count if padded."""
    if isinstance(batch["passages"], PackedTokens):
        return fill(batch["passages"])
    mask = batch["passages"].mask
    return weighted_mean(mask, jnp.broadcast_to(batch["texts"][..., None] >= 0, mask.shape))
