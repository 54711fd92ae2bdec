"""Training queries with their positives and negatives, as rows of sources give them.

A text without an id gets as id the xxh3-64 of title, newline and text, so it is the same document in every row. A
query without an id gets that of its text, so all its rows are joined.
"""

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Protocol, TypeVar, runtime_checkable

import xxhash

from dense_jax.data.first_values import FirstValues
from dense_jax.data.sources.documents import DocumentRow, hash64, unique_documents
from dense_jax.data.sources.fields import DOCUMENT_IDS, TEXTS, TITLES, as_id, value_of
from dense_jax.data.sources.rejects import RowError, each
from dense_jax.types import Reject


class ScoredText(NamedTuple):
    """A positive or negative text of a query."""

    id: str
    title: str
    text: str
    score: float = math.nan  # of a teacher


class QueryRow(NamedTuple):
    """One row with a query and texts; the query's id and text are unchecked."""

    number: int  # line, entry or row, from 1
    id: Any  # None: the source has none
    text: Any
    positives: tuple[ScoredText, ...]
    negatives: tuple[ScoredText, ...]


class ScoredDocument(NamedTuple):
    """A positive or negative document of a query."""

    id: str  # of the source's own, without the prefix that several sources have
    score: float = math.nan  # of a teacher


class JudgedQuery(NamedTuple):
    """A training query with its positives and negatives."""

    id: str
    text: str
    positives: tuple[ScoredDocument, ...]  # one at least
    negatives: tuple[ScoredDocument, ...] = ()


@runtime_checkable
class _IdAndText(Protocol):
    @property
    def id(self) -> str: ...
    @property
    def text(self) -> str: ...


R = TypeVar("R")
Q = TypeVar("Q", bound=_IdAndText)


def row_documents(rows: Iterable[QueryRow | Reject], place: object) -> Iterator[DocumentRow | Reject]:
    """The texts of the rows as documents, each once; the same id with another text is rejected."""

    def texts() -> Iterator[DocumentRow | Reject]:
        for row in rows:
            if isinstance(row, Reject):
                yield row
            else:
                for one in (*row.positives, *row.negatives):
                    yield DocumentRow(row.number, one.id, one.title, one.text)

    return unique_documents(texts(), place)


def row_queries(rows: Iterable[QueryRow | Reject], place: object) -> Iterator[JudgedQuery | Reject]:
    """The query of each row; it needs a positive, and its id the same text in all rows."""
    return each(rows, one_text_per_id(judged_query, "query"), place)


def one_text_per_id(parse: Callable[[R], Q], kind: str) -> Callable[[R], Q]:
    """`parse` with a RowError where an id has another text than in an earlier row; `kind` of ids is for the message.

    Holds two numbers of 64 bits for each id that is not made of its text.
    """
    texts = FirstValues()

    def checked(row: R) -> Q:
        parsed = parse(row)
        content = hash64(parsed.text)
        if parsed.id != text_id(parsed.text) and texts.setdefault(parsed.id, content) != content:
            raise RowError(f"{kind} id {parsed.id!r} has another text than in an earlier row")
        return parsed

    return checked


def judged_query(row: QueryRow) -> JudgedQuery:
    """The query of a row.

    Raises:
        RowError: its id or text cannot be used, or it has no positive.
    """
    text = query_text(row.text)
    identifier = text_id(text) if row.id is None else as_id(row.id, "the query id")
    if not row.positives:
        raise RowError("no positive: nothing to learn from")
    documents = (tuple(ScoredDocument(one.id, one.score) for one in side) for side in (row.positives, row.negatives))
    return JudgedQuery(identifier, text, *documents)


def scored_text(value: Any, name: str) -> ScoredText:
    """The text under `name`: a string, or an object with a text and perhaps a title, an id and a score.

    Raises:
        RowError: it is neither.
    """
    if isinstance(value, str):
        return ScoredText(text_id(f"\n{value}"), "", value)
    if not isinstance(value, dict):
        raise RowError(f"{name} is {value!r:.60}, neither a text nor an object with one")
    title, text = value_of(value, TITLES), value_of(value, TEXTS)
    title = "" if title is None else title
    if not isinstance(title, str) or not isinstance(text, str):
        raise RowError(f"{name} has title {title!r:.60} and text {text!r:.60}, not two strings")
    given = value_of(value, DOCUMENT_IDS)
    identifier = text_id(f"{title}\n{text}") if given is None else as_id(given, f"the {name}: document id")
    return ScoredText(identifier, title, text, checked_score(value.get("score"), name))


def text_id(text: str) -> str:
    """The id of a text that has none of its own."""
    return xxhash.xxh3_64_hexdigest(text.encode())


def query_text(value: Any) -> str:
    """A query's text.

    Raises:
        RowError: the value is not a string, is empty or holds a NUL character.
    """
    if not isinstance(value, str):
        raise RowError(f"the query is {value!r:.60}, not a string")
    if not value.strip() or "\0" in value:
        raise RowError(f"the query {'holds a NUL character' if value.strip() else 'is empty'}")
    return value


def checked_score(value: Any, name: str) -> float:
    """A teacher's score, also one that is spelled as a string; NaN for None.

    Raises:
        RowError: it is not a finite number.
    """
    if value is None:
        return math.nan
    try:
        score = float(value)
    except (TypeError, ValueError):
        score = math.nan
    if isinstance(value, bool) or not math.isfinite(score):
        raise RowError(f"{name} has the score {value!r:.60}, not a finite number")
    return score
