"""Search in a corpus whose parts are searched one by one, by several processes: the best of all parts, exactly.

A part finds its own k best. The k best of all are among them, whatever the parts are: so the result does not depend on
how many there are, or on which process has which.
"""

from collections.abc import Sequence

from dense_jax.arrays import Float, Int, np
from dense_jax.multihost import all_gather, all_or_none
from dense_jax.types import Ranking


def merge_rankings(found: Sequence[Ranking], k: int) -> Ranking:
    """The k best of what was found in each part, best first; of equal ones the lower row.

    >>> first = Ranking(np.array([[3.0, 1.0]]), np.array([[4, 0]]))
    >>> second = Ranking(np.array([[3.0, -np.inf]]), np.array([[2, -1]]))
    >>> merged([first, second], 3).rows.tolist()
    [[2, 4, 0]]
    """
    scores = np.concatenate([one.scores for one in found], axis=1)
    rows = np.concatenate([one.rows for one in found], axis=1)
    order = np.lexsort((rows, -scores), axis=1)[:, :k]
    return Ranking(np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1))


def map_rows(find: VectorSearch, rows: Int[np.ndarray, " p"]) -> VectorSearch:
    """`find` in a part, as a search for rows of the whole: `rows` says where each of the part's stands there."""

    def search(queries: Float[np.ndarray, "q d"], k: int) -> Ranking:
        found = find(queries, min(k, max(len(rows), 1)))
        missing = ((0, 0), (0, k - found.rows.shape[1]))
        places = np.where(found.rows < 0, -1, rows[found.rows]) if len(rows) else found.rows
        return Ranking(
            np.pad(found.scores, missing, constant_values=-np.inf),
            np.pad(places.astype(found.rows.dtype), missing, constant_values=-1),
        )

    return search


def search_all_parts(finds: Sequence[VectorSearch]) -> VectorSearch:
    """Search in the parts of all processes, of which `finds` are this one's: for queries that all have in common."""

    def search(queries: Float[np.ndarray, "q d"], k: int) -> Ranking:
        nothing = Ranking(np.full((len(queries), k), -np.inf, np.float32), np.full((len(queries), k), -1))
        found = all_or_none(lambda: [find(queries, k) for find in finds])
        own = found[0] if len(found) == 1 else merge_rankings([*found, nothing], k)
        scores, rows = all_gather(own.scores), all_gather(own.rows.astype(np.int32))  # rows of ExactSearch are no wider
        return own if len(scores) == 1 else merge_rankings(list(map(Ranking, scores, rows)), k)

    return search
