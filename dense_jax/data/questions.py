"""The example of a training query: the passages that an epoch takes of it, and their layout."""

from dataclasses import dataclass

import numpy as np

from dense_jax.arrays import Example, Int
from dense_jax.data.inputs import build_inputs, stack_tokens
from dense_jax.types import Candidates, Layout, Passage, Tokens, TrainingQuery, Vocabulary


@dataclass(frozen=True)
class QuestionLayout:
    """The passages and lengths of the example of a training query."""

    negatives: int  # passages in addition to the positive one
    query_length: int  # tokens, special ones included
    passage_length: int
    layout: Layout = Layout.JOINED  # of passages
    query_prompt: str = ""
    passage_prompt: str = ""
    known: int = 8  # positives of a query whose rows the example lists

    def texts(self, question: TrainingQuery) -> list[int]:
        """The rows of the query's positive and negatives in its epoch; fewer negatives where it has no more.

        Each epoch takes the next ones in turn, the negatives in a random order of the query.
        """
        positives, epoch = question.positives.rows, question.epoch
        positive = int(positives[epoch % len(positives)])
        if not self.negatives:
            return [positive]
        shuffled = np.random.default_rng(question.row).permutation(question.negatives.rows)
        start = epoch * self.negatives
        places = np.arange(start, start + min(self.negatives, len(shuffled))) % max(len(shuffled), 1)
        return [positive, *shuffled[places].tolist()]

    def example(self, question: TrainingQuery, vocabulary: Vocabulary) -> Example:
        """Arrays of fixed shapes, with g = 1 + negatives passages.

        query: Tokens [l]
        passages: Tokens [g l]
        texts: [g], the rows of the passages; -1: padding
        known: [k], the rows of the query's positives; -1: padding
        scores: [g], a teacher's; NaN: missing
        guide_query [d], guide_passages [g d]: vectors of the guide, if the query has one
        """
        rows = self.texts(question)
        absent = [-1] * (1 + self.negatives - len(rows))
        laid_out = [self._passage(one, vocabulary) for one in question.documents.passages(rows)]
        blank = Tokens(*(np.zeros_like(field) for field in laid_out[0]))  # no token of it is real
        example = {
            "query": self._query(question, vocabulary),
            "passages": stack_tokens([*laid_out, *(blank for _ in absent)]),
            "texts": np.array([*rows, *absent], np.int32),
            "known": _first_rows(question.positives.rows, self.known),
            "scores": np.array([*_scores(question, rows), *(np.nan for _ in absent)], np.float32),
        }
        return example | self._guided(question, rows)

    def _query(self, question: TrainingQuery, vocabulary: Vocabulary) -> Tokens:
        tokens, prompt = question.tokens, vocabulary.prompt_ids(self.query_prompt)
        return build_inputs(tokens[:0], tokens, self.query_length, Layout.BODY, vocabulary, prompt=prompt)

    def _passage(self, passage: Passage, vocabulary: Vocabulary) -> Tokens:
        prompt = vocabulary.prompt_ids(self.passage_prompt)
        return build_inputs(passage.title, passage.tokens, self.passage_length, self.layout, vocabulary, prompt=prompt)

    def _guided(self, question: TrainingQuery, rows: list[int]) -> Example:
        guide = question.guide
        if guide is None:
            return {}
        vectors = np.zeros((1 + self.negatives, len(guide.query)), np.float32)
        vectors[: len(rows)] = guide.documents[rows]
        return {"guide_query": guide.query, "guide_passages": vectors}


def _first_rows(rows: Int[np.ndarray, " p"], count: int) -> Int[np.ndarray, " k"]:
    kept = rows[:count]
    return np.pad(kept.astype(np.int32), (0, count - len(kept)), constant_values=-1)


def _scores(question: TrainingQuery, rows: list[int]) -> list[float]:
    known = _by_row(question.negatives) | _by_row(question.positives)
    return [known[row] for row in rows]


def _by_row(candidates: Candidates) -> dict[int, float]:
    return dict(zip(candidates.rows.tolist(), candidates.scores.tolist(), strict=True))
