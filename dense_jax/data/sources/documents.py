"""Rows of a source as they stand there, nothing checked but that they can be read.

JSONL   one object a line, fields by name (see `fields`); the rows of a Parquet file or a CSV file, and those of a TSV
        file with a header, as well
TSV     without a header: id, text and perhaps title; cells may be quoted as in CSV
TFDS    examples of a data set of tensorflow_datasets in ArrayRecord format, without TensorFlow
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dense_jax.data.sources.fields import DOCUMENT_IDS, Fields, find
from dense_jax.data.sources.lines import decoded
from dense_jax.data.sources.readers import Record, tsv_cells
from dense_jax.data.sources.rejects import RowError
from dense_jax.errors import DataError
from dense_jax.io import AnyPath
from dense_jax.types import Reject

_BLOCK = 256  # examples read from TFDS at once: one by one is several times slower


@dataclass(frozen=True, slots=True)
class DocumentRow:
    """One row; the values are whatever the source holds."""

    number: int  # line, or example, from 1
    id: Any  # None: this row has none, other rows have one
    title: Any
    text: Any
    where: str = ""  # file and line, where the source has several files


def row_of(number: int, values: Mapping[str, Any], fields: Fields) -> DocumentRow:
    """Row `number` from a mapping.

    Raises:
        RowError: there is no text field, or an id although the first rows have none.
    """
    if fields.text not in values:
        raise RowError(f"has no field {fields.text!r}; it has {', '.join(map(repr, list(values)[:9])) or 'none'}")
    identifier = number if fields.numbered else values.get(fields.id)
    if fields.numbered and (name := find(values, DOCUMENT_IDS)):
        raise RowError(f"has an id, {name!r}, and the first rows have none, so that rows are numbered; give each an id")
    return DocumentRow(number, identifier, values.get(fields.title), values[fields.text])


def named_rows(records: Iterable[Record | Reject], fields: Fields, place: str) -> Iterator[DocumentRow | Reject]:
    """A row for each record of the file `place`."""
    for record in records:
        if isinstance(record, Reject):
            yield record
            continue
        try:
            yield row_of(*record, fields)
        except RowError as error:
            yield Reject(f"{place}:{record.number}", str(error))


def tsv_rows(path: AnyPath, longest: int) -> Iterator[DocumentRow | Reject]:
    """A row for each line of `path`, which has no header: id, text and perhaps title.

    Raises:
        DataError: the first line has neither two nor three columns.
    """
    width = 0
    for row in tsv_cells(path, longest):
        if isinstance(row, Reject):
            yield row
            continue
        number, cells = row
        width = width or _width(cells, f"{path}:{number}")
        if len(cells) == width:
            yield DocumentRow(number, *_in_order(*cells))
        else:
            yield Reject(f"{path}:{number}", f"has {len(cells)} columns, the first row has {width}")


def tfds_rows(source: Any, fields: Fields, name: str) -> Iterator[DocumentRow | Reject]:
    """A row for each example of `source`, random access to examples as TFDS gives them: text in bytes."""
    for start in range(0, len(source), _BLOCK):
        block = range(start, min(start + _BLOCK, len(source)))
        for number, example in zip(block, source.__getitems__(list(block)), strict=True):
            try:
                yield row_of(number + 1, {key: _plain(value) for key, value in example.items()}, fields)
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


def _width(cells: list[str], where: str) -> int:
    if len(cells) not in (2, 3):
        raise DataError(f"{where}: {len(cells)} columns; a TSV corpus is `id text` or `id text title`, or has a header")
    return len(cells)


def _in_order(identifier: str, text: str, title: str | None = None) -> tuple[str, str | None, str]:
    return identifier, title, text


def _plain(value: Any) -> Any:
    """TFDS gives text as bytes and numbers as numpy scalars."""
    if isinstance(value, bytes):
        return decoded(value)
    return value.item() if hasattr(value, "item") and not getattr(value, "shape", ()) else value
