"""What open-domain question answering measures: top-k answer recall of a ranking, and exact match of predictions."""

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple, TypeVar

from dense_jax.data.answers import Normalise, exact_match, has_answer, has_pattern, nq_open_normalised, pattern_match
from dense_jax.data.sources.open_questions import OpenQuestion
from dense_jax.errors import DataError
from dense_jax.retrieval.metrics import Scores

DEPTHS = (1, 5, 20, 100)
RECALL = "AnswerRecall"

_Passage = TypeVar("_Passage")


class Matched(NamedTuple):
    """Exact match over a set of questions."""

    correct: int
    questions: int  # of different ids; those without a prediction are wrong
    missing: int  # of them, without a prediction

    @property
    def share(self) -> float:
        return self.correct / self.questions


def answered_in(question: OpenQuestion, text: str) -> bool:
    """Whether a passage (without its title, as DPR counts) holds an answer."""
    return (has_pattern if question.patterns else has_answer)(text, question.answers)


def answer_recall(
    questions: Iterable[OpenQuestion],
    found: Mapping[str, Sequence[_Passage]],
    text: Callable[[_Passage], str],
    depths: Collection[int] = DEPTHS,
) -> Scores:
    """For how many questions one of the first k passages holds an answer: DPR's top-k accuracy.

    `found` has the passages for each question id, best first, and `text` gives what one says; no passage is read beyond
    the first with an answer. A question that `found` lacks counts 0.

    Raises:
        DataError: there are no questions.
    """
    deepest = max(depths)
    hits = {one.id: _hits(one, found.get(one.id, ())[:deepest], text) for one in questions}
    return top_k_accuracy(hits, depths)


def top_k_accuracy(hits: Mapping[str, Iterable[bool]], depths: Collection[int] = DEPTHS) -> Scores:
    """`AnswerRecall@k` from whether each passage, best first, holds an answer; nothing is read beyond the first hit.

    >>> top_k_accuracy({"a": [False, True], "b": []}, depths=(1, 5)).mean
    {'AnswerRecall@1': 0.0, 'AnswerRecall@5': 0.5}

    Raises:
        DataError: there are no questions.
    """
    if not hits:
        raise DataError("there are no questions to score")
    ranks = {query: next((rank for rank, hit in enumerate(own, 1) if hit), math.inf) for query, own in hits.items()}
    per_query = {query: {f"{RECALL}@{k}": float(rank <= k) for k in depths} for query, rank in ranks.items()}
    names = (f"{RECALL}@{k}" for k in depths)
    return Scores({name: sum(own[name] for own in per_query.values()) / len(hits) for name in names}, per_query)


def exact_matches(
    questions: Iterable[OpenQuestion], predictions: Mapping[str, str], normalise: Normalise = nq_open_normalised
) -> Matched:
    """How many of `predictions`, by question id, equal an answer, or match one that is a regular expression.

    Of questions with one id the last counts, as in ORQA's evaluation.

    Raises:
        DataError: there are no questions.
    """
    references = {question.id: question for question in questions}
    if not references:
        raise DataError("there are no questions to score")
    answered = [question for question in references.values() if question.id in predictions]
    correct = sum(is_correct(predictions[question.id], question, normalise) for question in answered)
    return Matched(correct, len(references), len(references) - len(answered))


def is_correct(prediction: str, question: OpenQuestion, normalise: Normalise = nq_open_normalised) -> bool:
    """Whether `prediction` equals an answer, or matches one that is a regular expression."""
    if question.patterns:
        return pattern_match(prediction, question.answers)
    return exact_match(prediction, question.answers, normalise)


def _hits(question: OpenQuestion, passages: Sequence[_Passage], text: Callable[[_Passage], str]) -> Iterator[bool]:
    return (answered_in(question, text(passage)) for passage in passages)
