"""Combinators of vector search: one search over several parts of a corpus, or over several vectors a passage.

Each part finds its own k best vectors. The k best of the corpus are among them, so the result is exact and does not
depend on the number of parts or on the process that holds each.
"""

from collections.abc import Callable, Sequence

from dense_jax.arrays import Float, Int, first_occurrences, np
from dense_jax.processes.multihost import all_gather, all_or_none
from dense_jax.types import Ranking

VectorSearch = Callable[[Float[np.ndarray, "q d"], int], Ranking]  # queries and k -> the k best rows of each


def merge_rankings(rankings: Sequence[Ranking], k: int) -> Ranking:
    """Return the k best entries of all `rankings`, best first; ties by lower row.

    >>> first = Ranking(np.array([[3.0, 1.0]]), np.array([[4, 0]]))
    >>> second = Ranking(np.array([[3.0, -np.inf]]), np.array([[2, -1]]))
    >>> merge_rankings([first, second], 3).rows.tolist()
    [[2, 4, 0]]
    """
    scores = np.concatenate([one.scores for one in rankings], axis=1)
    rows = np.concatenate([one.rows for one in rankings], axis=1)
    order = np.lexsort((rows, -scores), axis=1)[:, :k]
    return Ranking(np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1))


def map_rows(find: VectorSearch, rows: Int[np.ndarray, " p"]) -> VectorSearch:
    """Return `find` over one part as a search for rows of the corpus: row i of the part is `rows[i]` of the corpus.

    Where the part holds fewer than k vectors the last rows are -1 and their scores -inf.
    """

    def search(queries: Float[np.ndarray, "q d"], k: int) -> Ranking:
        found = find(queries, min(k, max(len(rows), 1)))
        missing = ((0, 0), (0, k - found.rows.shape[1]))
        mapped = np.where(found.rows < 0, -1, rows[found.rows]) if len(rows) else found.rows
        return Ranking(
            np.pad(found.scores, missing, constant_values=-np.inf),
            np.pad(mapped.astype(found.rows.dtype), missing, constant_values=-1),
        )

    return search


def search_all_parts(finds: Sequence[VectorSearch]) -> VectorSearch:
    """Return a search over the parts of all processes; `finds` are this process's parts.

    All processes call it together, with the same queries.
    """

    def search(queries: Float[np.ndarray, "q d"], k: int) -> Ranking:
        found = all_or_none(lambda: [find(queries, k) for find in finds])
        own = found[0] if len(found) == 1 else merge_rankings([*found, no_results(len(queries), k)], k)
        scores, rows = all_gather(own.scores), all_gather(own.rows.astype(np.int32))  # rows of ExactSearch are no wider
        return own if len(scores) == 1 else merge_rankings(list(map(Ranking, scores, rows)), k)

    return search


def best_per_passage(find: VectorSearch, views: int) -> VectorSearch:
    """Return a search for passages from `find` over vectors, of which each passage has `views` in a row.

    A passage is found once, by its best view. At most n of the best k n vectors are views of one passage, so the result
    is exact if `find` is exact.
    """
    if views == 1:
        return find

    def search(queries: Float[np.ndarray, "q d"], k: int) -> Ranking:
        found = find(queries, k * views)
        result = no_results(len(queries), k)
        for i, (scores, rows) in enumerate(zip(found.scores, found.rows // views, strict=True)):  # -1 stays -1
            places = first_occurrences(rows[rows >= 0])[:k]
            result.scores[i, : len(places)], result.rows[i, : len(places)] = scores[places], rows[places]
        return result

    return search


def no_results(queries: int, k: int) -> Ranking:
    """Return a ranking of empty places: rows of -1 and scores of -inf."""
    return Ranking(np.full((queries, k), -np.inf, np.float32), np.full((queries, k), -1))
