"""Rows of documents, and the checks by which a row becomes a document.

A row needs an id (or gets its number if no row has one) and a text. A text may also be a list of paragraphs, or of
sections with `heading` and `text`, joined by blank lines.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import xxhash

from dense_jax.data.first_values import FirstValues
from dense_jax.data.sources.fields import DOCUMENT_IDS, Fields, as_id, first_known, listed
from dense_jax.data.sources.lines import has_surrogate
from dense_jax.data.sources.readers import Record
from dense_jax.data.sources.rejects import RowError, each
from dense_jax.types import Document, Reject

EMPTY = "text and title are empty"  # the reason of a row without content


@dataclass(frozen=True, slots=True)
class DocumentRow:
    """One row, unchecked: the values are whatever the source holds."""

    number: int  # line, or example, from 1
    id: Any  # None: this row has no id, other rows have one
    title: Any
    text: Any
    where: str = ""  # file and line, if the source has several files


def named_row(fields: Fields, record: Record) -> DocumentRow:
    """The row of a record.

    Raises:
        RowError: the text field is missing, or the row has an id although the first rows have none.
    """
    number, values = record
    if fields.text not in values:
        raise RowError(f"has no field {fields.text!r}; it has {listed(values)}")
    if fields.numbered and (name := first_known(values, DOCUMENT_IDS)):
        raise RowError(f"has an id, {name!r}, and the first rows have none, so that rows are numbered; give each an id")
    identifier = number if fields.numbered else values.get(fields.id)
    return DocumentRow(number, identifier, values.get(fields.title), values[fields.text])


def unique_documents(rows: Iterable[DocumentRow | Reject], place: object) -> Iterator[DocumentRow | Reject]:
    """The first row of each id; a later row of the id with another title or text is rejected.

    Holds two numbers of 64 bits for each document.
    """
    contents = FirstValues()

    def new(row: DocumentRow) -> DocumentRow | None:
        content, known = hash64(f"{row.title}\n{row.text}"), contents.get(row.id)
        if known is None:
            contents.setdefault(row.id, content)
            return row
        if known != content:
            raise RowError(f"the document {row.id!r} has another title or text than where it was given first")
        return None

    return each(rows, new, place)


def checked_document(row: DocumentRow, max_characters: int) -> Document:
    """`row` as a document.

    Raises:
        RowError: its id, title or text cannot be used.
    """
    title = "" if row.title is None else row.title
    if not isinstance(title, str):
        raise RowError(f"the title is {title!r:.60}, not a string")
    text = "" if row.text is None and not title.strip() else _one_text(row.text)
    if not text.strip() and not title.strip():
        raise RowError(EMPTY)
    if len(text) + len(title) > max_characters:
        raise RowError(f"{len(text) + len(title):,} characters, more than corpus.max_characters={max_characters:,}")
    _check_characters("title", title)
    _check_characters("text", text)
    if row.id is None:
        raise RowError("has no id, which other rows have; give it one")
    identifier = as_id(row.id, "the id")
    _check_characters("id", identifier)
    return Document(identifier, title, text)


def hash64(text: str) -> int:
    """The xxh3-64 of a text."""
    return xxhash.xxh3_64_intdigest(text.encode())


def _check_characters(name: str, value: str) -> None:
    if "\0" in value:
        raise RowError(f"the {name} holds a NUL character")
    if has_surrogate(value):
        raise RowError(f"the {name} holds a lone surrogate, which is no character")


def _one_text(text: Any) -> str:
    """A text as one string: itself, or its paragraphs or sections separated by blank lines."""
    if isinstance(text, str):
        return text
    if not isinstance(text, list):
        raise RowError(f"the text is {text!r:.60}, not a string")
    return "\n\n".join(map(_section, text))


def _section(section: Any) -> str:
    """A paragraph, or a heading and its text as one paragraph, because a heading alone makes a poor query."""
    parts = [section.get("heading") or "", section.get("text")] if isinstance(section, dict) else [section]
    if not all(isinstance(part, str) for part in parts):
        raise RowError(f"the text's part {section!r:.60} is neither a string nor a section with a text")
    return "\n".join(part for part in parts if part)
