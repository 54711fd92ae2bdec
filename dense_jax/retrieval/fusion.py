"""Fusion of two rankings of one collection, BM25's and a dense retriever's, into one.

With the weight w of the dense side a document scores (1 - w) a + w b, where a and b are its values in the two rankings:

    rrf      1 / (60 + rank), ranks from 1; 0 for a document that the ranking lacks (Cormack, Clarke and Büttcher 2009,
             "Reciprocal Rank Fusion Outperforms Condorcet and Individual Rank Learning Methods", section 2)
    zscore   (score - mean) / standard deviation, both over the ranking of the query; a document that the ranking lacks
             has the value of its last one. Where all scores are equal, or no document is found, all have 0.

Each ranking is cut to its first `depth` documents before. The order is deterministic: sums are compared as float32,
ties are broken by the lower row.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

from dense_jax.arrays import Float, Int, np
from dense_jax.config.retrieval import FusionConfig, FusionMethod
from dense_jax.retrieval.vector_search import no_results
from dense_jax.types import Ranking

_K = 60  # of the paper, which found the results to depend little on it
_WEIGHTS = tuple(tenths / 10 for tenths in range(11))
_NAMES = {FusionMethod.RRF: "reciprocal ranks", FusionMethod.ZSCORE: "z-scores"}


class Fusion(NamedTuple):
    """The settings of a fusion, and the name of the queries that its weight was chosen on; empty: it was given."""

    config: FusionConfig
    chosen_on: str = ""


class FusedRanking(NamedTuple):
    """Documents for one query, best first."""

    rows: Int[np.ndarray, " k"]
    scores: Float[np.ndarray, " k"]
    unranked: float  # score of a document that neither ranking has


class _NormalisedRanking(NamedTuple):
    rows: Int[np.ndarray, " k"]
    values: Float[np.ndarray, " k"]
    missing: float  # value of any other document


def fuse(lexical: Ranking, dense: Ranking, fusion: FusionConfig, k: int) -> Ranking:
    """Return the k best documents for each query; the rows of both rankings number the same documents.

    With fewer documents the last rows are -1 and their scores -inf.

    >>> lexical = Ranking(np.array([[9.0, 5.0]]), np.array([[4, 7]]))
    >>> dense = Ranking(np.array([[0.8, 0.6]]), np.array([[7, 2]]))
    >>> fuse(lexical, dense, FusionConfig(FusionMethod.RRF), 2).rows.tolist()
    [[7, 4]]
    """
    result = no_results(len(lexical.rows), k)
    pairs = zip(lexical.rows, lexical.scores, dense.rows, dense.scores, strict=True)
    for i, (lexical_rows, lexical_scores, dense_rows, dense_scores) in enumerate(pairs):
        fused = fuse_query(lexical_rows, lexical_scores, dense_rows, dense_scores, fusion)
        count = len(fused.rows[:k])
        result.rows[i, :count], result.scores[i, :count] = fused.rows[:k], fused.scores[:k]
    return result


def fuse_query(
    lexical_rows: Int[np.ndarray, " a"],
    lexical_scores: Float[np.ndarray, " a"],
    dense_rows: Int[np.ndarray, " b"],
    dense_scores: Float[np.ndarray, " b"],
    fusion: FusionConfig,
) -> FusedRanking:
    """Return all documents that either ranking of one query has; rows of -1 are empty places."""
    lexical = _normalise(lexical_rows, lexical_scores, fusion)
    dense = _normalise(dense_rows, dense_scores, fusion)
    rows = np.union1d(lexical.rows, dense.rows)
    sums = (1 - fusion.weight) * _values_of(lexical, rows) + fusion.weight * _values_of(dense, rows)
    scores = sums.astype(np.float32)
    order = np.argsort(-scores, kind="stable")
    unranked = (1 - fusion.weight) * lexical.missing + fusion.weight * dense.missing
    return FusedRanking(rows[order], scores[order], unranked)


def at_depth(fusion: FusionConfig, k: int) -> FusionConfig:
    """Return `fusion` with rankings of at least k documents, so that k results can be found."""
    return replace(fusion, depth=max(fusion.depth, k))


def choose_weight(fusion: FusionConfig, measure: Callable[[FusionConfig], float]) -> FusionConfig:
    """Return `fusion` with the weight of the highest measure among 0, 0.1, ..., 1; of equal ones the nearest to 0.5."""
    choices = [replace(fusion, weight=weight) for weight in _WEIGHTS]
    return max(choices, key=lambda choice: (measure(choice), -abs(choice.weight - 0.5)))


def describe(fusion: Fusion) -> str:
    """Return the settings in words."""
    config, chosen = fusion.config, f", chosen by nDCG@10 on {fusion.chosen_on}" if fusion.chosen_on else ""
    return (
        f"{_NAMES[config.method]} of the first {config.depth:,} documents of each, weight {config.weight:g} of the "
        f"dense side{chosen}"
    )


def _normalise(
    rows: Int[np.ndarray, " k"], scores: Float[np.ndarray, " k"], fusion: FusionConfig
) -> _NormalisedRanking:
    is_found = rows >= 0
    rows, scores = rows[is_found][: fusion.depth], scores[is_found][: fusion.depth].astype(np.float64)
    if fusion.method is FusionMethod.RRF:
        return _NormalisedRanking(rows, 1 / (_K + 1 + np.arange(len(rows))), 0.0)
    if not len(rows) or scores[0] == scores[-1]:
        return _NormalisedRanking(rows, np.zeros(len(rows)), 0.0)
    values = (scores - scores.mean()) / scores.std()
    return _NormalisedRanking(rows, values, float(values[-1]))


def _values_of(side: _NormalisedRanking, rows: Int[np.ndarray, " k"]) -> Float[np.ndarray, " k"]:
    """Return the value of each of `rows`, sorted, on one side."""
    values = np.full(len(rows), side.missing)
    values[np.searchsorted(rows, side.rows)] = side.values
    return values
