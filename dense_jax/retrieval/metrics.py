"""Measures of a ranking, as trec_eval defines them.

    nDCG@k      sum of grade / log2(rank + 1) over the first k, divided by the same sum of the best possible order;
                grades at or below 0 gain nothing
    MRR@k       1 / rank of the first relevant document (grade >= 1) among the first k, else 0
    Recall@k    relevant documents among the first k / all relevant documents
    MAP@k       precision at each relevant document among the first k, summed, / all relevant documents
    Success@k   1 if a relevant document is among the first k

A mean is over **all judged queries**: a query without results, or without a relevant document, counts 0.
(pytrec_eval alone leaves out a query that the run lacks.)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import ir_measures
from pydantic import Field

from dense_jax.config.retrieval import HEADLINE
from dense_jax.errors import DataError
from dense_jax.retrieval.beir import Qrels
from dense_jax.retrieval.runs import Run, ordered

MEASURES = (*HEADLINE, *(f"{m}@{k}" for m in ("nDCG", "Recall", "MAP", "Success") for k in (1, 5, 10, 100)))
_IR_NAMES = {"MRR": "RR", "Recall": "R", "MAP": "AP"}  # our names -> those of ir-measures, where they differ


Share = Annotated[float, Field(ge=0, le=1)]
PerQuery = dict[str, dict[str, Share]]  # query id -> measure -> value


@dataclass(frozen=True, slots=True)
class Metrics:
    """Values of measures, in [0, 1]."""

    mean: dict[str, float]
    per_query: dict[str, dict[str, float]]  # query id -> measure -> value


def score(run: Run, qrels: Qrels, measures: Sequence[str] = MEASURES) -> Metrics:
    """Return every measure for each query of `qrels`, and the means.

    Queries of the run without judgements are ignored. Scores are replaced by ranks first (see `runs`), since the
    libraries would break ties in different ways.

    Raises:
        DataError: `qrels` is empty, or a score is NaN.
    """
    if not qrels:
        raise DataError("no judgements to score against; name a test set whose qrels are not empty")
    ranks = {query: _by_rank(run.get(query, {}), query) for query in qrels}
    parsed = {name: _parse_measure(name) for name in dict.fromkeys(measures)}
    names = {measure: name for name, measure in parsed.items()}
    per_query = {query: dict.fromkeys(parsed, 0.0) for query in qrels}
    for value in ir_measures.iter_calc(list(names), qrels, ranks):
        per_query[value.query_id][names[value.measure]] = float(value.value)
    mean = {name: math.fsum(values[name] for values in per_query.values()) / len(qrels) for name in parsed}
    return Metrics(mean, per_query)


def _by_rank(scores: dict[str, float], query: str) -> dict[str, float]:
    try:
        return {document: float(-rank) for rank, document in enumerate(ordered(scores))}
    except DataError as error:
        raise DataError(f"query {query!r}: {error}") from None


def _parse_measure(name: str) -> ir_measures.Measure:
    kind, _, rest = name.partition("@")
    return ir_measures.parse_measure(f"{_IR_NAMES.get(kind, kind)}@{rest}" if rest else _IR_NAMES.get(kind, kind))
