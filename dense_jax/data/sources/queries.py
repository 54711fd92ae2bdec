"""Rows that hold a query and the texts it was judged with, and what they give: documents, and judged queries.

A text without an id has as id the xxh3-64 of title, newline and text, so it is the same document wherever it stands. A
query without an id has that of its text, so all its rows are joined.
"""

import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import xxhash

from dense_jax.data.sources.documents import DocumentRow
from dense_jax.data.sources.fields import DOCUMENT_IDS, TEXTS, TITLES, as_id, value_of
from dense_jax.data.sources.rejects import RowError
from dense_jax.types import Reject


class Told(NamedTuple):
    """A text that a query was judged with."""

    id: str
    title: str
    text: str
    score: float = math.nan


class Asked(NamedTuple):
    """One row; the query's id and text are whatever the source holds."""

    number: int  # line, entry or row, from 1
    id: Any  # None: the source has none
    text: Any
    positives: tuple[Told, ...]
    negatives: tuple[Told, ...]


def documents(rows: Iterable[Asked | Reject], place: str) -> Iterator[DocumentRow | Reject]:
    """Each document once, where it is first given; the same id with another text is rejected.

    Holds two numbers of 64 bits for each document.
    """
    contents: dict[int, int] = {}
    for row in rows:
        if isinstance(row, Reject):
            yield row
            continue
        for told in (*row.positives, *row.negatives):
            identifier, content = _hash(told.id), _hash(f"{told.title}\n{told.text}")
            if identifier not in contents:
                contents[identifier] = content
                yield DocumentRow(row.number, told.id, told.title, told.text)
            elif contents[identifier] != content:
                reason = f"the document {told.id!r} has another title or text than where it was given first"
                yield Reject(f"{place}:{row.number}", reason)


def judged(rows: Iterable[Asked | Reject], place: str) -> Iterator[JudgedQuery | Reject]:
    """The query of each row; one without a positive is rejected, and one with another text than its id had before."""
    texts: dict[str, int] = {}
    for row in rows:
        if isinstance(row, Reject):
            yield row
            continue
        try:
            query = judged_query(row)
            content = _hash(query.text)
            if texts.setdefault(query.id, content) != content:
                raise RowError(f"query id {query.id!r} has another text than in an earlier row")
            yield query
        except RowError as error:
            yield Reject(f"{place}:{row.number}", str(error))


def judged_query(row: Asked) -> JudgedQuery:
    """The query of a row.

    Raises:
        RowError: its id or text cannot be used, or it has no positive.
    """
    text = query_text(row.text)
    identifier = text_id(text) if row.id is None else checked_id(row.id, "query id")
    if not row.positives:
        raise RowError("no positive: nothing to learn from")
    scored = (tuple(ScoredDocument(told.id, told.score) for told in texts) for texts in (row.positives, row.negatives))
    return JudgedQuery(identifier, text, *scored)


def told(value: Any, what: str) -> Told:
    """A text, or an object with a text and perhaps a title, an id and a score.

    Raises:
        RowError: it is neither.
    """
    if isinstance(value, str):
        return Told(text_id(f"\n{value}"), "", value)
    if not isinstance(value, dict):
        raise RowError(f"{what} is {value!r:.60}, neither a text nor an object with one")
    title, text = value_of(value, TITLES), value_of(value, TEXTS)
    title = "" if title is None else title
    if not isinstance(title, str) or not isinstance(text, str):
        raise RowError(f"{what} has title {title!r:.60} and text {text!r:.60}, not two strings")
    given = value_of(value, DOCUMENT_IDS)
    identifier = text_id(f"{title}\n{text}") if given is None else checked_id(given, f"{what}: document id")
    return Told(identifier, title, text, checked_score(value.get("score"), what))


def text_id(text: str) -> str:
    """The id of what has none of its own."""
    return xxhash.xxh3_64_hexdigest(text.encode())


def query_text(value: Any) -> str:
    """A query's text.

    Raises:
        RowError: it is no text, or an empty one.
    """
    if not isinstance(value, str):
        raise RowError(f"the query is {value!r:.60}, not a string")
    if not value.strip() or "\0" in value:
        raise RowError(f"the query {'holds a NUL character' if value.strip() else 'is empty'}")
    return value


def checked_id(value: Any, what: str) -> str:
    """An id as a string, without white space at its ends.

    Raises:
        RowError: it is neither a string nor an integer, or it is blank or holds a line break.
    """
    return as_id(value, f"the {what}")


def checked_score(value: Any, what: str) -> float:
    """A teacher's score, also one that is spelled as a string; NaN for none.

    Raises:
        RowError: it is no finite number.
    """
    if value is None:
        return math.nan
    try:
        score = float(value)
    except (TypeError, ValueError):
        score = math.nan
    if isinstance(value, bool) or not math.isfinite(score):
        raise RowError(f"{what} has the score {value!r:.60}, not a finite number")
    return score


def _hash(text: str) -> int:
    return xxhash.xxh3_64_intdigest(text.encode())
