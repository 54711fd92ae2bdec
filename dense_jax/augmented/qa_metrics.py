"""Measures of open-domain question answering: top-k answer recall of a ranking, exact match of predictions."""

import math
from collections.abc import Collection, Iterable, Mapping

from dense_jax.data.answers import Normalise, exact_match, has_answer, has_pattern, nq_open_normalised, pattern_match
from dense_jax.data.sources.open_questions import OpenQuestion
from dense_jax.errors import DataError
from dense_jax.retrieval.metrics import Metrics

DEPTHS = (1, 5, 20, 100)
RECALL = "AnswerRecall"


def answered_in(question: OpenQuestion, text: str) -> bool:
    """Return whether a passage (without its title, as in DPR) holds an answer."""
    return (has_pattern if question.patterns else has_answer)(text, question.answers)


def top_k_accuracy(hits: Mapping[str, Iterable[bool]], depths: Collection[int] = DEPTHS) -> Metrics:
    """Return `AnswerRecall@k` of `hits`: whether each passage, best first, holds an answer. Stops at the first hit.

    >>> top_k_accuracy({"a": [False, True], "b": []}, depths=(1, 5)).mean
    {'AnswerRecall@1': 0.0, 'AnswerRecall@5': 0.5}

    Raises:
        DataError: `hits` is empty.
    """
    if not hits:
        raise DataError("no questions to score; name a file with at least one question")
    ranks = {query: next((rank for rank, hit in enumerate(own, 1) if hit), math.inf) for query, own in hits.items()}
    per_query = {query: {f"{RECALL}@{k}": float(rank <= k) for k in depths} for query, rank in ranks.items()}
    names = (f"{RECALL}@{k}" for k in depths)
    return Metrics({name: sum(own[name] for own in per_query.values()) / len(hits) for name in names}, per_query)


def is_correct(prediction: str, question: OpenQuestion, normalise: Normalise = nq_open_normalised) -> bool:
    """Return whether `prediction` equals an answer, or matches one that is a regular expression."""
    if question.patterns:
        return pattern_match(prediction, question.answers)
    return exact_match(prediction, question.answers, normalise)
