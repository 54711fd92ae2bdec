"""Search for passages by the text of a query."""

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from dense_jax.arrays import Int
from dense_jax.config.retrieval import FusionConfig
from dense_jax.retrieval.bm25 import BM25
from dense_jax.retrieval.encode import Tokenizes, TowerOnMesh, encode_queries
from dense_jax.retrieval.fusion import at_depth, fuse
from dense_jax.retrieval.index import Index
from dense_jax.retrieval.vector_search import no_results
from dense_jax.terminal.markdown import printable
from dense_jax.types import PassageCollection, Ranking, Tower

TextSearch = Callable[[Sequence[str], int], Ranking]  # queries and k -> the k best passages of each

_DEEPER = 4  # factor of the next search's depth, if the passages found are of too few documents
_LINES = 3  # lines shown of a passage
_INDENT = " " * 14  # aligns the text with the title, after rank and score


@dataclass(frozen=True, slots=True)
class Hit:
    """A retrieved passage."""

    score: float
    id: str
    title: str
    text: str


def dense_search(index: Index, tower: Tower, tokenizer: Tokenizes) -> TextSearch:
    """Return a search that encodes queries by `tower` and looks them up in `index`."""
    placed = TowerOnMesh(tower, index.mesh)
    return lambda queries, k: index.search(encode_queries(queries, placed, tokenizer), k)


def hybrid_search(bm25: BM25, dense: TextSearch, ids: Sequence[str], fusion: FusionConfig) -> TextSearch:
    """Return a search that fuses the rankings of documents by `bm25` and by `dense`.

    `ids` are the document ids of the passages that `dense` finds. A document is found as its best passage, or as its
    first one if `dense` does not rank it.
    """
    numbers = number_documents(ids, bm25.ids)
    first = dict(zip(*(rows.tolist() for rows in np.unique(numbers, return_index=True)), strict=True))

    def find(queries: Sequence[str], k: int) -> Ranking:
        deep = at_depth(fusion, k)
        passages = by_document(dense, queries, ids.__getitem__, deep.depth, len(ids))
        documents = as_documents(passages, numbers)
        fused = fuse(bm25.search(queries, deep.depth), documents, deep, k)
        for found, of_documents, of_passages in zip(fused.rows, documents.rows, passages.rows, strict=True):
            best = dict(zip(of_documents.tolist(), of_passages.tolist(), strict=True))
            found[:] = [best.get(row, first.get(row, -1)) for row in found.tolist()]
        return fused

    return find


def number_documents(ids: Sequence[str], documents: Sequence[str]) -> Int[np.ndarray, " p"]:
    """Return the row in `documents` of the document of each passage, given by its id."""
    rows = {identifier: row for row, identifier in enumerate(documents)}
    return np.array([rows[identifier] for identifier in ids])


def as_documents(passages: Ranking, numbers: Int[np.ndarray, " p"]) -> Ranking:
    """Return the documents behind a ranking of passages, as their numbers."""
    return Ranking(passages.scores, np.where(passages.rows < 0, -1, numbers[passages.rows]))


def by_document(
    find: TextSearch, queries: Sequence[str], id_of: Callable[[int], str], k: int, passages: int
) -> Ranking:
    """Return the k best documents for each query, each document as the row of its best passage.

    With fewer documents the last rows are -1 and their scores -inf. A query whose k best passages belong to fewer
    documents is searched again, deeper, up to all `passages`, so the result is exact if `find` is exact.
    """
    result = no_results(len(queries), k)
    left, depth = list(range(len(queries))), min(k, passages)
    while left:
        ranking = find([queries[i] for i in left], depth)
        unfinished = []
        for i, scores, rows in zip(left, ranking.scores, ranking.rows, strict=True):
            places = _first_of_each(rows, id_of, k)
            if len(places) < k and depth < passages and rows[-1] >= 0:
                unfinished.append(i)
            result.scores[i], result.rows[i] = -np.inf, -1  # an approximate search may find less when it goes deeper
            result.scores[i, : len(places)], result.rows[i, : len(places)] = scores[places], rows[places]
        left, depth = unfinished, min(_DEEPER * depth, passages)
    return result


def search(find: TextSearch, store: PassageCollection, queries: Sequence[str], k: int) -> list[list[Hit]]:
    """Return the k best documents of `store` for each query, each as its best passage; fewer if `find` has no more.

    Raises:
        DataError: a query is empty.
    """
    ranking = by_document(find, queries, lambda row: store.document(row).id, k, len(store))
    return [
        [_hit(store, float(score), int(row)) for score, row in zip(scores, rows, strict=True) if row >= 0]
        for scores, rows in zip(ranking.scores, ranking.rows, strict=True)
    ]


def render_hits(query: str, hits: Sequence[Hit], width: int) -> str:
    """Return the results of one query for a terminal of `width` columns: rank, score, id, title, start of the text."""
    shown = [_rendered(rank, hit, max(width, 40)) for rank, hit in enumerate(hits, start=1)]
    return "\n".join([printable(query), *(shown or ["  nothing found"])])


def _first_of_each(rows: Int[np.ndarray, " k"], id_of: Callable[[int], str], k: int) -> list[int]:
    """Return the first places in `rows` of up to k different documents."""
    places: dict[str, int] = {}
    for place, row in enumerate(rows.tolist()):
        if row >= 0 and len(places) < k:
            places.setdefault(id_of(row), place)
    return list(places.values())


def _hit(store: PassageCollection, score: float, row: int) -> Hit:
    document = store.document(row)
    return Hit(score, document.id, document.title, document.text)


def _rendered(rank: int, hit: Hit, width: int) -> str:
    room = width - len(_INDENT)
    identifier, title = printable(hit.id), printable(hit.title)
    shortened = textwrap.shorten(title, max(room - len(identifier) - 2, 0), placeholder=" ...").strip()
    head = identifier if title == identifier else f"{identifier}  {shortened}".rstrip()
    start = printable(hit.text[: 4 * _LINES * room])  # a text may be a megabyte, and wrapping reads all of it
    body = textwrap.wrap(start, room, max_lines=_LINES, placeholder=" ...")
    return "\n".join([f"{rank:>4}  {hit.score:>6.3f}  {head}", *(_INDENT + line for line in body)])
