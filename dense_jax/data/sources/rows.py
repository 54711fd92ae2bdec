"""Rows of a source as they stand there, nothing checked but that they can be read.

JSONL   one object a line, fields by name; the rows of a Parquet file as well
TSV     id, text and perhaps title; a header names them in another order; cells may be quoted as in CSV
TFDS    examples of a data set of tensorflow_datasets in ArrayRecord format, without TensorFlow
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dense_jax.contracts import Reject
from dense_jax.data.sources.lines import RowError, decoded
from dense_jax.data.sources.tables import Record, tsv_cells
from dense_jax.errors import DataError
from dense_jax.files import AnyPath

_ID_COLUMNS = {"id", "_id", "pid", "docid", "doc_id"}
_BLOCK = 256  # examples read from TFDS at once: one by one is several times slower


@dataclass(frozen=True, slots=True)
class Row:
    """One row; the values are whatever the source holds."""

    number: int  # line, or example, from 1
    id: Any  # None: the source has none
    title: Any
    text: Any


@dataclass(frozen=True, slots=True)
class Fields:
    """Names of the fields that make a document."""

    id: str
    title: str
    text: str

    def row(self, number: int, values: Mapping[str, Any]) -> Row:
        """Row `number` from a mapping.

        Raises:
            RowError: there is no text field.
        """
        if self.text not in values:
            raise RowError(f"has no field {self.text!r}; it has {', '.join(map(repr, list(values)[:9])) or 'none'}")
        return Row(number, values.get(self.id), values.get(self.title), values[self.text])


def named_rows(records: Iterable[Record | Reject], fields: Fields, place: str) -> Iterator[Row | Reject]:
    """A row for each record of the file `place`."""
    for record in records:
        if isinstance(record, Reject):
            yield record
            continue
        try:
            yield fields.row(*record)
        except RowError as error:
            yield Reject(f"{place}:{record.number}", str(error))


def tsv_rows(path: AnyPath, longest: int) -> Iterator[Row | Reject]:
    """A row for each line of `path`; the first line says how many columns there are, and which if it is a header.

    Raises:
        DataError: neither two nor three columns and no header.
    """
    columns: dict[str, int] | None = None
    width = 0
    for row in tsv_cells(path, longest):
        if isinstance(row, Reject):
            yield row
            continue
        number, cells = row
        if columns is None:
            columns, width = _columns(cells, f"{path}:{number}"), len(cells)
            if is_header(cells):
                continue
        if len(cells) != width:
            yield Reject(f"{path}:{number}", f"has {len(cells)} columns, the first row has {width}")
            continue
        title = cells[columns["title"]] if "title" in columns else None
        yield Row(number, cells[columns["id"]], title, cells[columns["text"]])


def is_header(cells: list[str]) -> bool:
    """Whether the first line of a TSV corpus begins with the name of an id."""
    return cells[0].lower() in _ID_COLUMNS


def tfds_rows(source: Any, fields: Fields, name: str) -> Iterator[Row | Reject]:
    """A row for each example of `source`, random access to examples as TFDS gives them: text in bytes."""
    for start in range(0, len(source), _BLOCK):
        block = range(start, min(start + _BLOCK, len(source)))
        for number, example in zip(block, source.__getitems__(list(block)), strict=True):
            try:
                yield fields.row(number + 1, {key: _plain(value) for key, value in example.items()})
            except RowError as error:
                yield Reject(f"{name}:{number + 1}", str(error))


def open_tfds(name: str, split: str) -> Any:
    """The examples of a data set, by name or by the folder that was prepared. A named one is prepared if need be.

    Raises:
        DataError: there is no such data set or split, or it cannot be read without TensorFlow.
    """
    import tensorflow_datasets as tfds  # imported here: it takes a second, and most corpora are files

    folder = Path(name)
    try:
        if folder.is_dir():
            builder = tfds.builder_from_directory(folder)
            return builder.as_data_source(split=split)  # pyright: ignore[reportCallIssue]  its decorator hides it
        return tfds.data_source(name, split=split)
    except Exception as error:  # the library raises whatever its own files make it meet
        raise DataError(
            f"corpus source tfds:{name}, corpus.split={split}: {error}\n"
            "name a data set or a prepared folder in array_record format, and one of its splits"
        ) from error


def _columns(cells: list[str], where: str) -> dict[str, int]:
    """Column of id, text and title; in the order id, text, title unless `cells` is a header that says otherwise."""
    if cells[0].lower() in _ID_COLUMNS and "text" in map(str.lower, cells):
        names = [name.lower() for name in cells]
        return {"id": 0, "text": names.index("text")} | ({"title": names.index("title")} if "title" in names else {})
    if len(cells) not in (2, 3):
        raise DataError(f"{where}: {len(cells)} columns; a TSV corpus is `id text` or `id text title`, or has a header")
    return dict(zip(("id", "text", "title"), range(len(cells)), strict=False))


def _plain(value: Any) -> Any:
    """TFDS gives text as bytes and numbers as numpy scalars."""
    if isinstance(value, bytes):
        return decoded(value)
    return value.item() if hasattr(value, "item") and not getattr(value, "shape", ()) else value
