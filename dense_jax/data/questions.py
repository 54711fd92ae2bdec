"""A question -> an example: which of its passages a visit takes, and how they are laid out."""

from dataclasses import dataclass

import numpy as np

from dense_jax.arrays import Example, Int
from dense_jax.data.inputs import build_inputs
from dense_jax.types import Candidates, Layout, Tokens, TrainingQuery, Vocabulary


@dataclass(frozen=True)
class QuestionLayout:
    """What an example holds of a question."""

    negatives: int  # passages beside the positive one
    query_length: int  # tokens, special ones included
    passage_length: int
    layout: Layout = Layout.JOINED  # of passages
    query_prompt: str = ""
    passage_prompt: str = ""
    known: int = 8  # positives of a question that are told apart from its negatives

    def texts(self, question: TrainingQuery) -> list[int]:
        """The rows that this visit takes: the positive, then its negatives, fewer where there are no more.

        Both go round: each epoch takes the next ones, the negatives in an order of the question's own.
        """
        positives, epoch = question.positives.rows, question.epoch
        shuffled = np.random.default_rng(question.row).permutation(question.negatives.rows)
        start = epoch * self.negatives
        places = np.arange(start, start + min(self.negatives, len(shuffled))) % max(len(shuffled), 1)
        return [int(positives[epoch % len(positives)]), *shuffled[places].tolist()]

    def example(self, question: TrainingQuery, vocabulary: Vocabulary) -> Example:
        """Arrays of fixed shapes, with g = 1 + negatives passages.

        query Tokens [l], passages Tokens [g l], texts [g]: their rows, -1 where there is none, known [k]: rows of the
        question's positives, -1 where there are no more, scores [g]: a teacher's, NaN where there is none.
        Where the question has a guide, its vectors too: guide_query [d], guide_passages [g d].
        """
        rows = self.texts(question)
        absent = [-1] * (1 + self.negatives - len(rows))
        found = question.documents.passages(rows)
        prompt = _ids(self.passage_prompt, vocabulary)
        laid = [self._passage(p.title, p.tokens, prompt, vocabulary) for p in found]
        blank = Tokens(*(np.zeros_like(field) for field in laid[0]))  # no token of it is real
        example = {
            "query": build_inputs(
                _NOTHING, self._query(question, vocabulary), self.query_length, Layout.BODY, vocabulary
            ),
            "passages": Tokens(*(np.stack(field) for field in zip(*laid, *(blank for _ in absent), strict=True))),
            "texts": np.array([*rows, *absent], np.int32),
            "known": _filled(question.positives.rows, self.known),
            "scores": np.array([*_scores(question, rows), *(np.nan for _ in absent)], np.float32),
        }
        return example | self._guided(question, rows)

    def _query(self, question: TrainingQuery, vocabulary: Vocabulary) -> Int[np.ndarray, " l"]:
        return np.concatenate([_ids(self.query_prompt, vocabulary), question.tokens])

    def _passage(
        self,
        title: Int[np.ndarray, " t"],
        body: Int[np.ndarray, " l"],
        prompt: Int[np.ndarray, " n"],
        vocabulary: Vocabulary,
    ) -> Tokens:
        """As `embed` does: the prompt goes before what comes first."""
        if self.layout is Layout.BODY:
            return build_inputs(title, np.concatenate([prompt, body]), self.passage_length, self.layout, vocabulary)
        return build_inputs(np.concatenate([prompt, title]), body, self.passage_length, self.layout, vocabulary)

    def _guided(self, question: TrainingQuery, rows: list[int]) -> Example:
        guide = question.guide
        if guide is None:
            return {}
        vectors = np.zeros((1 + self.negatives, len(guide.query)), np.float32)
        vectors[: len(rows)] = guide.documents[rows]
        return {"guide_query": guide.query, "guide_passages": vectors}


_NOTHING = np.empty(0, np.int32)


def _ids(prompt: str, vocabulary: Vocabulary) -> Int[np.ndarray, " n"]:
    return vocabulary.prompts[prompt] if prompt else _NOTHING


def _filled(rows: Int[np.ndarray, " p"], count: int) -> Int[np.ndarray, " k"]:
    kept = rows[:count]
    return np.pad(kept.astype(np.int32), (0, count - len(kept)), constant_values=-1)


def _scores(question: TrainingQuery, rows: list[int]) -> list[float]:
    known = _by_row(question.negatives) | _by_row(question.positives)
    return [known[row] for row in rows]


def _by_row(candidates: Candidates) -> dict[int, float]:
    return dict(zip(candidates.rows.tolist(), candidates.scores.tolist(), strict=True))
