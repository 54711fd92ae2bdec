"""Documents of files and data sets.

JSONL, CSV, Parquet, TSV with a header     fields by name (see `fields`)
TSV without a header                       id, text and perhaps title; cells may be quoted as in CSV
.txt                                       a document a line, or a document a file of a folder
TFDS                                       examples of tensorflow_datasets in ArrayRecord format, without TensorFlow
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, count
from pathlib import Path
from typing import Any

import xxhash

from dense_jax.config import CorpusConfig
from dense_jax.data.sources.documents import DocumentRow, named_row
from dense_jax.data.sources.fields import (
    check_configured,
    configured,
    document_fields,
    header_text,
    is_header,
    numbering_note,
)
from dense_jax.data.sources.lines import TextLine, decoded, lines, stem, whole_content
from dense_jax.data.sources.queries import JudgedQuery
from dense_jax.data.sources.readers import Cells, Record, Records, column_names, tsv_cells, tsv_records
from dense_jax.data.sources.rejects import RowError, each
from dense_jax.errors import DataError
from dense_jax.io import AnyPath, digest
from dense_jax.types import Reject

_BLOCK = 256  # examples read from TFDS at once: one by one is several times slower

Rows = Callable[[], Iterable[DocumentRow | Reject]]  # all rows of a source, at each call
Judged = Callable[[], Iterator[JudgedQuery | Reject]]


@dataclass(frozen=True)
class Contents:
    """The documents of a file, folder or data set, and its queries if it has any."""

    place: AnyPath | str  # the prefix of a row's number in messages
    rows: Rows
    identify: Callable[[], dict[str, Any]]  # the content, independent of the path, as JSON values
    judged: Judged | None = None
    note: str = ""  # a sentence for the user about the way it is read
    distinct: bool = False  # no two rows have the same id


def file_identity(path: AnyPath, **read_as: Any) -> Callable[[], dict[str, Any]]:
    """A function that returns the digest of a file and the way it is read."""
    return lambda: {"digest": digest(path), **read_as}


def table_documents(path: AnyPath, records: Records, names: tuple[str, ...], config: CorpusConfig) -> Contents:
    """The documents of a file of records, whose first ones have `names`.

    Raises:
        DataError: no row has a field that the config names.
    """
    if any(name not in names for name in configured(config).values()):
        later = (record.values for record in records() if isinstance(record, Record))
        names = tuple(dict.fromkeys(chain(names, chain.from_iterable(later))))
        check_configured(str(path), names, config)
    fields = document_fields(names, config)
    note = numbering_note(str(path), names) if fields.numbered and names else ""
    row, identify = partial(named_row, fields), file_identity(path, fields=fields.named())
    return Contents(path, lambda: each(records(), row, path), identify, note=note)


def tsv_documents(path: AnyPath, longest: int, config: CorpusConfig) -> Contents:
    """The documents of a TSV file, by the names of its header if it has one.

    Raises:
        DataError: the header lacks a text or a field that the config names, or the config names a field without a
            header.
    """
    identify, first = file_identity(path, fields=configured(config)), first_cells(path, longest)
    if is_header(first, config):
        names = tuple(column_names(first, f"{path}:1"))
        check_configured(f"{path}:1", names, config)
        config = replace(config, text_field=header_text(names, config, f"{path}:1"))
        return replace(table_documents(path, partial(tsv_records, path, longest), names, config), identify=identify)
    if chosen := configured(config):
        setting, name = next(iter(chosen.items()))
        raise DataError(
            f"{path}: has no header, so no column is corpus.{setting}={name}; begin the file with a line of names, "
            "such as id, text and title, or leave out this setting: the columns are then id, text and title"
        )
    return Contents(path, partial(_unnamed_rows, path, longest), identify)


def first_cells(path: AnyPath, longest: int) -> list[str]:
    """The cells of the first line that can be read."""
    return next((row.values for row in tsv_cells(path, longest) if not isinstance(row, Reject)), [])


def line_documents(path: AnyPath, longest: int) -> Contents:
    """A document for each line of a .txt file that is not blank; its id is its number."""

    def row(line: TextLine) -> DocumentRow:
        return DocumentRow(line.number, line.number, "", line.text)

    return Contents(path, lambda: each(lines(path, longest), row, path), file_identity(path, form="text"))


def file_documents(folder: AnyPath, files: Sequence[AnyPath], note: str) -> Contents:
    """A document for each of `files`: its id is its path in `folder`, its title is its name without the ending."""

    def row(number: int, path: AnyPath) -> DocumentRow | Reject:
        try:
            text = decoded(whole_content(path))
        except RowError as error:
            return error.reject(f"{path}:1")
        if not text.strip():
            return Reject(f"{path}:1", "holds no text")
        return DocumentRow(number, path.relative_to(folder).as_posix(), stem(path), text, f"{path}:1")

    def identify() -> dict[str, Any]:
        return {"digest": _files_digest(folder, files), "form": "text files"}

    return Contents(folder, lambda: map(row, count(1), files), identify, note=note)


def tfds_documents(name: str, config: CorpusConfig) -> Contents:
    """The examples of a data set in one of its splits.

    Raises:
        DataError: the data set, the split or a field that the config names is absent.
    """
    source = open_tfds(name, config.split)
    place = f"{source.dataset_info.full_name}[{config.split}]"
    names = tuple(source.dataset_info.features)
    check_configured(f"corpus source tfds:{name}", names, config)
    fields = document_fields(names, config)
    note = numbering_note(place, names) if fields.numbered else ""

    def row(example: Record) -> DocumentRow:
        values = {key: _python_value(value) for key, value in example.values.items()}
        return named_row(fields, Record(example.number, values))

    identify = partial(dict, examples=len(source), fields=fields.named())
    return Contents(place, lambda: each(_numbered_examples(source), row, place), identify, note=note)


def open_tfds(name: str, split: str) -> Any:
    """The examples of a data set, by its name or by the folder of a prepared one. A named one is prepared if need be.

    Raises:
        DataError: the data set or split is absent, or cannot be read without TensorFlow.
    """
    import tensorflow_datasets as tfds  # imported here: it takes a second, and most corpora are files

    folder = Path(name)
    try:
        if folder.is_dir():
            builder = tfds.builder_from_directory(folder)
            return builder.as_data_source(split=split)  # pyright: ignore[reportCallIssue]  its decorator hides it
        return tfds.data_source(name, split=split)
    except Exception as error:  # the library raises errors of every kind for its own files
        raise DataError(
            f"corpus source tfds:{name}, corpus.split={split}: {error}\n"
            "name a data set or a prepared folder in array_record format, and one of its splits"
        ) from error


def _unnamed_rows(path: AnyPath, longest: int) -> Iterator[DocumentRow | Reject]:
    """A row for each line of a TSV file without a header."""
    width = 0

    def row(cells: Cells) -> DocumentRow:
        nonlocal width
        found = len(cells.values)
        if not width and found not in (2, 3):
            raise DataError(
                f"{path}:{cells.number}: {found} columns; a TSV corpus is `id text` or `id text title`, or has a header"
            )
        width = width or found
        if found != width:
            raise RowError(f"has {found} columns, the first row has {width}")
        identifier, text, title = (*cells.values, None)[:3]
        return DocumentRow(cells.number, identifier, title, text)

    return each(tsv_cells(path, longest), row, path)


def _numbered_examples(source: Any) -> Iterator[Record]:
    """The examples of a random-access data set of TFDS."""
    for start in range(0, len(source), _BLOCK):
        block = range(start, min(start + _BLOCK, len(source)))
        for number, example in zip(block, source.__getitems__(list(block)), strict=True):
            yield Record(number + 1, example)


def _python_value(value: Any) -> Any:
    """A value of TFDS as Python's: text comes as bytes and numbers as numpy scalars."""
    if isinstance(value, bytes):
        return decoded(value)
    return value.item() if hasattr(value, "item") and not getattr(value, "shape", ()) else value


def _files_digest(folder: AnyPath, files: Sequence[AnyPath]) -> str:
    """The xxh3-128 of the paths of `files` in `folder` and of their content, in hex."""
    hasher = xxhash.xxh3_128()
    for path in files:
        hasher.update(f"{path.relative_to(folder).as_posix()}\n{digest(path)}\n".encode())
    return hasher.hexdigest()
