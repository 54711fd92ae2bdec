"""Rows of a source as they stand there, nothing checked but that they can be read.

JSONL   one object a line, fields by name
TSV     id, text and perhaps title; a header names them in another order; cells may be quoted as in CSV
TFDS    examples of a data set of tensorflow_datasets in ArrayRecord format, without TensorFlow
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from dense_jax.contracts import Reject
from dense_jax.data.lines import RowError, decoded, lines
from dense_jax.errors import DataError

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


def jsonl_rows(path: Path, fields: Fields, longest: int) -> Iterator[Row | Reject]:
    """A row for each line of `path`; lines of more than `longest` bytes are not parsed."""
    for number, raw in lines(path, longest):
        try:
            yield fields.row(number, _object(raw, longest))
        except RowError as error:
            yield Reject(f"{path}:{number}", str(error))


def tsv_rows(path: Path, longest: int) -> Iterator[Row | Reject]:
    """A row for each line of `path`; the first line says how many columns there are, and which if it is a header.

    Raises:
        DataError: neither two nor three columns and no header.
    """
    columns: dict[str, int] | None = None
    width = 0
    for number, raw in lines(path, longest):
        where = f"{path}:{number}"
        try:
            cells = [_unquoted(cell) for cell in _text(raw, longest).split("\t")]
            if columns is None:
                columns, width = _columns(cells, where), len(cells)
                if cells[0].lower() in _ID_COLUMNS:
                    continue
            if len(cells) != width:
                raise RowError(f"has {len(cells)} columns, the first row has {width}")
        except RowError as error:
            yield Reject(where, str(error))
            continue
        title = cells[columns["title"]] if "title" in columns else None
        yield Row(number, cells[columns["id"]], title, cells[columns["text"]])


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
    except (tfds.core.DatasetNotFoundError, ValueError, KeyError, NotImplementedError, ImportError) as error:
        raise DataError(
            f"corpus source tfds:{name}, corpus.split={split}: {error}\n"
            "name a data set or a prepared folder in array_record format, and one of its splits"
        ) from error


def _text(raw: bytes | None, longest: int) -> str:
    if raw is None:
        raise RowError(f"is longer than {longest:,} bytes")
    return decoded(raw)


def _object(raw: bytes | None, longest: int) -> dict[str, Any]:
    text = _text(raw, longest)
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise RowError(f"is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise RowError(f"is not a JSON object but {text[:40]!r}")
    return value


def _columns(cells: list[str], where: str) -> dict[str, int]:
    """Column of id, text and title; in the order id, text, title unless `cells` is a header that says otherwise."""
    if cells[0].lower() in _ID_COLUMNS and "text" in map(str.lower, cells):
        names = [name.lower() for name in cells]
        return {"id": 0, "text": names.index("text")} | ({"title": names.index("title")} if "title" in names else {})
    if len(cells) not in (2, 3):
        raise DataError(f"{where}: {len(cells)} columns; a TSV corpus is `id text` or `id text title`, or has a header")
    return dict(zip(("id", "text", "title"), range(len(cells)), strict=False))


def _unquoted(cell: str) -> str:
    """A cell without the quotes of CSV, if it has them around it and doubled inside."""
    inner = cell[1:-1]
    quoted = len(cell) >= 2 and cell[0] == cell[-1] == '"' and '"' not in inner.replace('""', "")
    return inner.replace('""', '"') if quoted else cell


def _plain(value: Any) -> Any:
    """TFDS gives text as bytes and numbers as numpy scalars."""
    if isinstance(value, bytes):
        return decoded(value)
    return value.item() if hasattr(value, "item") and not getattr(value, "shape", ()) else value
