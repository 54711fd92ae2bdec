"""What a ranking is worth, with trec_eval's meaning of every measure.

    nDCG@k      sum of grade / log2(rank + 1) over the first k, divided by the same sum of the best possible order;
                grades at or below 0 gain nothing
    MRR@k       1 / rank of the first relevant document (grade >= 1) among the first k, else 0
    Recall@k    relevant documents among the first k / all relevant documents
    MAP@k       precision at each relevant document among the first k, summed, / all relevant documents
    Success@k   1 if a relevant document is among the first k

A mean goes over **all judged queries**: one that found nothing, or for which nothing is relevant, counts 0.
(pytrec_eval alone would leave out a query that the run lacks.)
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import ir_measures

from dense_jax.config import HEADLINE
from dense_jax.errors import DataError
from dense_jax.retrieval.beir import Qrels
from dense_jax.retrieval.runs import Run, ordered

MEASURES = (*HEADLINE, *(f"{m}@{k}" for m in ("nDCG", "Recall", "MAP", "Success") for k in (1, 5, 10, 100)))
_IR_NAMES = {"MRR": "RR", "Recall": "R", "MAP": "AP"}  # ours -> ir-measures'; the others are the same


@dataclass(frozen=True, slots=True)
class Metrics:
    """Measure -> value in [0, 1]."""

    mean: dict[str, float]
    per_query: dict[str, dict[str, float]]  # query id first


def score(run: Run, qrels: Qrels, measures: Sequence[str] = MEASURES) -> Metrics:
    """Every measure for each query of `qrels`, and the means.

    Queries of the run without judgements are ignored. Scores are replaced by ranks first (see `runs`), so that ties
    cannot be broken in different ways by the libraries below.

    Raises:
        DataError: there are no judgements, or a score is NaN.
    """
    if not qrels:
        raise DataError("there are no judgements to score against")
    ranks = {query: _by_rank(run.get(query, {}), query) for query in qrels}
    parsed = {name: _parsed(name) for name in dict.fromkeys(measures)}
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


def _parsed(name: str) -> ir_measures.Measure:
    kind, _, rest = name.partition("@")
    return ir_measures.parse_measure(f"{_IR_NAMES.get(kind, kind)}@{rest}" if rest else _IR_NAMES.get(kind, kind))
