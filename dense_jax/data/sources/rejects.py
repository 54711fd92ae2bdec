"""Rows that cannot be used: how a parser reports them, and advice about a file that has many."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Protocol, TypeVar, runtime_checkable

from dense_jax.errors import DataError
from dense_jax.types import Reject

_FORM = "the file is likely not JSON lines; name a file after its form, such as .json, .tsv, .csv or .txt"
_ENCODING = "the file likely has another encoding; if that is Latin-1, convert it by iconv -f ISO-8859-1 -t UTF-8"
_BINARY = "the file is likely binary or has another encoding; convert it to UTF-8"
_TEXT = "the text is likely in another field; name it by --corpus.text_field=NAME"
_ID = "the id is likely in another field; name it by --corpus.id_field=NAME"
_TITLE = "the title is likely in another field; name it by --corpus.title_field=NAME"
_COLUMNS = "the columns are likely separated in another way; a .tsv file has tabs between them, a .csv file commas"
_LENGTH = "raise the limit by --corpus.max_characters=N, or cut the documents into shorter ones"
_FILES = "the files of queries, judgements and documents likely do not belong together"
_ELSE = "the file is likely not what its name says; compare its rows with the forms in docs/corpora.md"

_CAUSES = {  # part of a reason -> the likely mistake if most rows have it
    "is not JSON": _FORM,
    "is not a JSON object": _FORM,
    "is not UTF-8": _ENCODING,
    "NUL": _BINARY,
    "has no field": _TEXT,
    "the text is": _TEXT,
    "text and title are empty": _TEXT,
    "has no id": _ID,
    "has the id": _ID,
    "the id is": _ID,
    "the title is": _TITLE,
    " columns": _COLUMNS,
    "corpus.max_characters": _LENGTH,
    "is longer than": _LENGTH,
    "no text: query": _FILES,
    "the corpus has none of its documents": _FILES,
}


class RowError(Exception):
    """A row that cannot be used; the message is the reason."""

    def reject(self, where: str) -> Reject:
        """Return the error as a value, with the place of the row."""
        return Reject(where, str(self))


@runtime_checkable
class Numbered(Protocol):
    """A row with its number in the file."""

    @property
    def number(self) -> int: ...


R = TypeVar("R", bound=Numbered)
T = TypeVar("T")


def each(rows: Iterable[R | Reject], parse: Callable[[R], T | None], place: object) -> Iterator[T | Reject]:
    """Parse each row of the file `place`; where `parse` raises a RowError, the row becomes a Reject with its line.

    Rejects among `rows` are passed on. A row is skipped where `parse` returns None.
    """
    for row in rows:
        if isinstance(row, Reject):
            yield row
            continue
        try:
            parsed = parse(row)
        except RowError as error:
            parsed = error.reject(f"{place}:{row.number}")
        if parsed is not None:
            yield parsed


def sound(rows: Iterable[T | Reject]) -> Iterator[T]:
    """`rows`, all of which must be usable, because figures on a part of a test set are not comparable.

    Raises:
        DataError: a row is a Reject; the error names its file and line.
    """
    for row in rows:
        if isinstance(row, Reject):
            raise DataError(f"{row.where}: {row.reason}")
        yield row


def advice(causes: Counter[str], usable: int) -> str:
    """The fix for rejected rows with `causes`, in a source that has `usable` rows.

    The user may skip a few rows. If most rows are rejected, the mistake concerns the whole file.
    """
    rejected = causes.total()
    if rejected <= usable:
        return f"correct them, or skip them by --corpus.max_rejects={rejected / (rejected + usable) + 0.005:.2f}"
    ((cause, _),) = causes.most_common(1)
    return f"these are most rows of the source: {cause}"


def causes_of(rejects: Iterable[Reject]) -> Counter[str]:
    """The number of rows of each likely cause."""
    return Counter(likely_cause(reject.reason) for reject in rejects)


def likely_cause(reason: str) -> str:
    """The likely mistake in a file if most of its rows are rejected for `reason`."""
    return next((cause for part, cause in _CAUSES.items() if part in reason), _ELSE)
