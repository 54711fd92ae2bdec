"""ORQA: a question is answered by a span of one of the passages that are looked up for it.

The question tower and the reader are trained; passages keep the vectors of pre-training (ICT, REALM). Lee, Chang and
Toutanova 2019, "Latent Retrieval for Weakly Supervised Open Domain Question Answering", section 5; REALM (Guu et al.
2020) is fine-tuned in the same way. Where paper and released code differ, it is the code.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import orjson

from dense_jax.arrays import (
    Array,
    Batch,
    Bool,
    Carry,
    Encoded,
    Example,
    Float,
    Int,
    Metrics,
    Params,
    PRNGKeyArray,
    split_key,
)
from dense_jax.augmented.objective import RetrievalAugmented
from dense_jax.config.rules import AT_SEARCH, Length, Positive
from dense_jax.data.answers import holds_raw
from dense_jax.data.inputs import flatten_tokens, stack_tokens
from dense_jax.data.reading import answer_places, hold_ids, read_input
from dense_jax.errors import require
from dense_jax.losses import spans
from dense_jax.losses.collapse import collapse_metrics, mean_cosine, rank_me
from dense_jax.losses.similarity import MASKED_SCORE
from dense_jax.models.encoder import Encoder
from dense_jax.models.heads import init_span_scorer, score_spans
from dense_jax.objective import PASSAGE, HostBatch
from dense_jax.objectives.dual_encoder import DualEncoder
from dense_jax.types import (
    Layout,
    PassageCollection,
    QAExample,
    Reader,
    SearchResult,
    Tokens,
    Vocabulary,
)


class Positives(enum.Enum):
    """The test for a retrieved passage that holds an answer, in the early loss."""

    RAW = "raw"  # its text is a substring of theirs, case and all: it may hit inside a word; the released code
    WORDPIECE = "wordpiece"  # its token ids stand in theirs, as the reader compares them


class Scores(NamedTuple):
    """Scores of the passages retrieved for each question, and of the spans of those that are read."""

    passages: Float[Array, "b c"]
    spans: Float[Array, "b k s"]


@dataclass
class Orqa(DualEncoder[Encoder], RetrievalAugmented):
    """The encoder is that of both towers; the reader is a BERT of its own, of the same architecture."""

    query_length: Length = field(default=64, metadata=AT_SEARCH)  # tokens of a question, in its tower and in the reader
    passage_length: Length = field(default=288, metadata=AT_SEARCH)  # tokens of a passage in its tower, title included
    # of passages in their tower; the reader sees no title
    layout: Layout = field(default=Layout.PAIR, metadata=AT_SEARCH)
    reader_length: Length = field(default=320, metadata=AT_SEARCH)  # tokens of question and passage together
    retrieved: Positive[int] = 5_000  # passages of a question that the early loss is over
    read: Positive[int] = field(default=5, metadata=AT_SEARCH)  # of them, the best ones, whose spans compete
    span_width: Positive[int] = field(default=10, metadata=AT_SEARCH)  # tokens of the widest span
    early: bool = True  # with the early loss, which teaches the retriever where the reader finds nothing
    positives: Positives = Positives.RAW
    temperature: Positive[float] = 1.0  # divides the scores of passages

    learns_from = QAExample
    fresh = True  # as released: the training search has the query tower's dropout
    frozen = (PASSAGE,)
    shared = False
    packs = False  # passages are found for a batch when it is trained on, and nearly fill their length

    def __post_init__(self) -> None:
        require(
            self.read <= self.retrieved,
            f"objective.read={self.read} passages are not among objective.retrieved={self.retrieved}",
        )
        require(
            self.reader_length > self.query_length + 1,
            f"objective.reader_length={self.reader_length} leaves no room for a passage after a question of "
            f"objective.query_length={self.query_length}",
        )
        super().__post_init__()
        self.encoder.check_input("reader_length", self.reader_length, Layout.PAIR)

    def example(self, source: QAExample, vocabulary: Vocabulary, rng: np.random.Generator) -> Example:
        """The question; its answers as JSON, since they are of any number and length, until `join` needs them."""
        given = {"texts": source.answers, "ids": [ids.tolist() for ids in source.answer_tokens]}
        return {
            "query": self.query_inputs(source.tokens, vocabulary),
            "answers": np.array(orjson.dumps(given).decode()),
        }

    @property
    def depth(self) -> int:
        return self.retrieved

    def question(self, batch: Batch) -> Tokens:
        return batch["query"]

    def join(
        self, examples: HostBatch, found: SearchResult, passages: PassageCollection, vocabulary: Vocabulary
    ) -> Batch:
        query: Tokens = examples.inputs["query"]
        each, start = [], 1 + len(vocabulary.prompt_ids(self.query_prompt))  # the reader sees no prompt
        for i, rows in enumerate(found.rows):
            answers = orjson.loads(str(examples.inputs["answers"][i]))
            ids = [np.array(one, np.int32) for one in answers["ids"]]
            there, question = rows[rows >= 0].tolist(), np.asarray(query.ids[i])[query.mask[i]][start:-1]
            holds = self._holds(there, answers["texts"], ids, passages)
            each.append(
                {
                    "holds": np.pad(holds, (0, self.retrieved - len(holds))),
                    **self._read(question, passages.passages(there[: self.read]), ids, vocabulary),
                }
            )
        return {
            "query": query,
            "vectors": found.vectors,
            "there": found.rows >= 0,
            **jax.tree.map(lambda *of_each: np.stack(of_each), *each),
        }

    def _holds(
        self, rows: list[int], texts: list[str], ids: list[Int[np.ndarray, " _"]], passages: PassageCollection
    ) -> Bool[np.ndarray, " c"]:
        """True for each passage of `rows` that holds an answer."""
        if self.positives is Positives.RAW:
            return np.array([holds_raw(document.text, texts) for document in passages.texts(rows)], bool)
        return hold_ids([passage.tokens for passage in passages.passages(rows)], ids)

    def _read(
        self,
        question: Int[np.ndarray, " q"],
        found: Sequence[Any],
        answers: list[Int[np.ndarray, " _"]],
        vocabulary: Vocabulary,
    ) -> Example:
        """The reader's inputs, and which of their spans are answers; a passage that is not there is empty."""
        bodies = [passage.tokens for passage in found] + [question[:0]] * (self.read - len(found))
        inputs = [read_input(question, body, self.reader_length, vocabulary) for body in bodies]
        gold = [spans.gold_spans(self._candidates, *answer_places(one, answers).T) for one in inputs]
        return {
            "read": stack_tokens([one.tokens for one in inputs]),
            "body": np.stack([one.body for one in inputs]),
            "gold": np.stack(gold),
        }

    def init(self, rng: PRNGKeyArray) -> Params:
        towers, reader, scorer = jax.random.split(rng, 3)
        start = self.encoder.init(towers)  # of both towers: two of them would not know each other
        bert = {"bert": self.encoder.init(reader)["bert"]}
        return {
            "query": start,
            PASSAGE: start,
            "reader": {"encoder": bert, "spans": init_span_scorer(self.encoder.bert.width, scorer)},
        }

    def encode(self, params: Params, carry: Carry, batch: Batch, *, rng: PRNGKeyArray | None) -> Encoded:
        query_rng, reader_rng = split_key(rng, 2)  # the first is `question_noise`
        queries = self.encoder.apply(params["query"], batch["query"], rng=query_rng)
        exact = jax.lax.Precision.HIGHEST  # as the search
        scores = jnp.einsum("bd,bcd->bc", queries, batch["vectors"], precision=exact) / self.temperature
        of_spans = self._score(params["reader"], flatten_tokens(batch["read"]), rng=reader_rng)
        return Scores(
            jnp.where(batch["there"], scores, MASKED_SCORE),
            of_spans.reshape(len(queries), self.read, of_spans.shape[-1]),
        )

    def question_noise(self, rng: PRNGKeyArray) -> PRNGKeyArray:
        return jax.random.split(rng)[0]

    def combine(
        self, carry: Carry, encoded: Encoded, batch: Batch, *, step: Array
    ) -> tuple[Array, tuple[Metrics, Carry]]:
        scores: Scores = encoded
        holds, gold = batch["holds"], batch["gold"]
        valid = spans.valid_spans(self._candidates, batch["body"])
        found = spans.orqa_loss(scores.passages, holds, scores.spans, valid=valid, gold=gold)
        shares = {
            "answer_retrieved": jnp.any(holds, axis=1),
            "answer_read": jnp.any(holds[:, : self.read], axis=1),
            "reader_oracle": jnp.any(gold, axis=(1, 2)),  # a span that is an answer was among those to choose from
            "exact_match": found.correct,
        }
        metrics = {name: jnp.mean(share, dtype=jnp.float32) for name, share in shares.items()}
        metrics |= {"early_loss": jnp.mean(found.early), "reader_loss": jnp.mean(found.full)}
        return jnp.mean(found.losses if self.early else found.full), (metrics, carry)

    def collapse_metrics(self, params: Params, carry: Carry, batch: Batch) -> Metrics:
        """Collapse metrics of questions and the best passage of each that holds an answer, or else the best of all.

        The passage tower is frozen, so rank and mean cosine are those of the questions.
        """
        queries = self.encoder.apply(params["query"], batch["query"])
        best = jnp.argmax(batch["holds"], axis=1)  # 0 if no passage holds an answer
        passages = jnp.take_along_axis(batch["vectors"], best[:, None, None], axis=1)[:, 0]
        signs = collapse_metrics(queries, passages)
        return signs | {"mean_cosine": mean_cosine(queries), "rank_me": rank_me(queries)}

    def reader(self, params: Params) -> Reader:
        return Reader(self._score, params["reader"], self.reader_length, self.span_width, self.read, self.temperature)

    def _score(self, params: Params, tokens: Tokens, *, rng: PRNGKeyArray | None = None) -> Float[Array, "n s"]:
        """Scores of all candidate spans of reader inputs."""
        hidden = self.encoder.hidden_states(params["encoder"], tokens, rng=rng)
        return score_spans(params, hidden, *self._candidates)

    @property
    def _candidates(self) -> spans.CandidateSpans:
        return spans.candidate_spans(self.reader_length, self.span_width)
