"""Queries of a test set with what each retriever found for them: the largest gains and losses, chosen by rule."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from dense_jax.report.tables import BEFORE, TESTED, ResultTable, RetrieverResult
from dense_jax.retrieval.beir import TestSet
from dense_jax.retrieval.runs import ordered, percent_encode, read_trec_run
from dense_jax.run_results import BM25
from dense_jax.terminal.markdown import printable
from dense_jax.types import Document

_EACH = 3  # gains, and as many losses
_HITS = 3  # of each retriever
_CHARACTERS = 160  # of a text


@dataclass(frozen=True)
class ShownHit:
    """A document that a retriever found."""

    rank: int
    id: str
    title: str
    text: str
    relevant: bool


@dataclass(frozen=True)
class RetrieverHits:
    """The first hits of one retriever for a query."""

    retriever: str
    figure: float  # in the tested measure
    first_relevant: int  # rank; 0: no relevant document was found
    hits: tuple[ShownHit, ...]


@dataclass(frozen=True)
class QueryExample:
    """A query with the hits of each retriever."""

    query: str
    gain: float
    found: tuple[RetrieverHits, ...]


def reference(table: ResultTable) -> RetrieverResult | None:
    """The row that gains are measured against: BM25, else the model before training; None without either."""
    return next((row for row in map(table.row, (BM25, BEFORE)) if row not in (None, table.last)), None)


def largest_changes(gains: Mapping[str, float], count: int = _EACH) -> tuple[list[str], list[str]]:
    """The queries with the `count` largest gains, and those with the `count` largest losses; ties by id.

    >>> largest_changes({"a": 0.5, "b": -0.1, "c": 0.0, "d": 0.5}, 2)
    (['a', 'd'], ['b'])
    """
    ranked = sorted(gains, key=lambda query: (-gains[query], query))
    losses = sorted(gains, key=lambda query: (gains[query], query))
    return [q for q in ranked[:count] if gains[q] > 0], [q for q in losses[:count] if gains[q] < 0]


def examples(
    table: ResultTable, against: RetrieverResult, test_set: TestSet, documents: Iterable[Document]
) -> tuple[list[QueryExample], list[QueryExample]]:
    """The largest gains and the largest losses of the last row of `table` over `against`, with hits of all rows.

    `documents` is read once, and only the shown ones are held.
    """
    last = table.last
    judged = set(last.per_query).intersection(*(row.per_query for row in table.rows))
    gains = {q: last.per_query[q][TESTED] - against.per_query[q][TESTED] for q in test_set.queries if q in judged}
    chosen = largest_changes(gains)
    runs = {row.name: read_trec_run(row.run) for row in table.rows}
    wanted = {q: {name: _ranked(run, q) for name, run in runs.items()} for q in (*chosen[0], *chosen[1])}
    ids = {id for of in wanted.values() for ranked in of.values() for id in ranked[:_HITS]}
    texts = {row.id: row for row in documents if row.id in ids or percent_encode(row.id) in ids}
    texts |= {percent_encode(name): row for name, row in texts.items()}

    def example(query: str) -> QueryExample:
        grades = test_set.qrels[query]
        found = tuple(_retriever_hits(row, query, wanted[query][row.name], texts, grades) for row in table.rows)
        return QueryExample(_excerpt(test_set.queries[query]), gains[query], found)

    gained, lost = ([example(query) for query in queries] for queries in chosen)
    return gained, lost


def _ranked(run: Mapping[str, Mapping[str, float]], query: str) -> list[str]:
    return ordered(run.get(query) or run.get(percent_encode(query)) or {})


def _retriever_hits(
    row: RetrieverResult, query: str, ranked: Sequence[str], texts: Mapping[str, Document], judged: Mapping[str, int]
) -> RetrieverHits:
    relevant = {name for id, grade in judged.items() if grade > 0 for name in (id, percent_encode(id))}
    first = next((rank for rank, name in enumerate(ranked, start=1) if name in relevant), 0)
    hits = tuple(
        _shown(rank, texts[name], name in relevant)
        for rank, name in enumerate(ranked[:_HITS], start=1)
        if name in texts
    )
    return RetrieverHits(row.name, row.per_query[query][TESTED], first, hits)


def _shown(rank: int, document: Document, relevant: bool) -> ShownHit:
    title = "" if document.title == document.id else _excerpt(document.title)
    return ShownHit(rank, printable(document.id), title, _excerpt(document.text), relevant)


def _excerpt(text: str) -> str:
    text = printable(text[: 4 * _CHARACTERS])
    return text if len(text) <= _CHARACTERS else f"{text[:_CHARACTERS].rsplit(' ', 1)[0]} ..."
