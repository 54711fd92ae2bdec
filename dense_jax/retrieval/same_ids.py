"""Documents with the id of a query, which may be the query itself, as in ArguAna, or have met its id by chance."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from dense_jax.config import DropSameId
from dense_jax.types import Document

_ALL_FROM = 0.5  # share of queries with their document's text at which the others are taken for their documents too


def own_documents(
    drop: DropSameId,
    queries: Mapping[str, str],
    ids: Sequence[str],
    documents_of: Callable[[Sequence[int]], Iterable[Document]],
) -> frozenset[str]:
    """The queries, of those by id -> text, whose own document no ranking may hold.

    `ids` names the rows of the corpus, and `documents_of` gives the documents of rows. With `auto` a query is its
    document where both have the same text, white space and case aside. Where that holds for at least half of the
    queries that have the id of a document, as in ArguAna, it holds for all of these.
    """
    rows: dict[str, list[int]] = {}
    for row, identifier in enumerate(ids if drop is not DropSameId.NEVER else ()):
        if identifier in queries:
            rows.setdefault(identifier, []).append(row)
    if drop is not DropSameId.AUTO:
        return frozenset(rows)
    same = frozenset(query for query, own in rows.items() if _is_same(queries[query], list(documents_of(own))))
    return frozenset(rows) if len(same) >= _ALL_FROM * len(rows) else same


def _is_same(query: str, passages: Sequence[Document]) -> bool:
    """Whether `query` is the title, the text or both of a document, which may come as several passages."""
    title, text = passages[0].title, "".join(passage.text for passage in passages)
    return _bare(query) in {_bare(title), _bare(text), _bare(title + text)}


def _bare(text: str) -> str:
    return "".join(text.split()).casefold()
