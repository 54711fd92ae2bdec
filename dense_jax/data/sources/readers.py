"""Readers of records, the values of a row by name: JSONL, arrays of JSON, TSV, CSV and Parquet."""

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import starmap
from typing import Any, NamedTuple

import orjson

from dense_jax.data.sources.lines import TextLine, decoded, first_byte, lines, raw_lines, whole_content
from dense_jax.data.sources.rejects import RowError, each
from dense_jax.errors import DataError, MachineError
from dense_jax.io import AnyPath
from dense_jax.types import Reject

_BATCH = 1_024  # rows of a Parquet file held at once


class Cells(NamedTuple):
    """The cells of one row of a table."""

    number: int
    values: list[str]


class Record(NamedTuple):
    """The values of one row by name."""

    number: int  # line, entry or row, from 1
    values: dict[str, Any]


Records = Callable[[], Iterator[Record | Reject]]  # all records of a file, at each call


def jsonl_records(path: AnyPath, longest: int) -> Iterator[Record | Reject]:
    """A record for each line of `path`; lines of more than `longest` bytes are not parsed."""

    def record(line: TextLine) -> Record:
        try:
            value = orjson.loads(line.text)
        except orjson.JSONDecodeError as error:
            raise RowError(f"is not JSON ({error})") from None
        return _object_record(line.number, value, line.text)

    return each(lines(path, longest), record, path)


def json_records(path: AnyPath) -> Iterator[Record | Reject]:
    """A record for each entry of the array in `path`, which is held in memory.

    Raises:
        DataError: the file holds no array.
    """
    entries = whole_json(path)
    if not isinstance(entries, list):
        raise DataError(f"{path}: holds neither an array of rows nor articles with paragraphs as SQuAD does")
    rows = starmap(Record, enumerate(entries, start=1))
    return each(rows, lambda row: _object_record(row.number, row.values, str(row.values)), path)


def is_array(path: AnyPath) -> bool:
    """True if a file of JSON is one array of objects, under any name."""
    if first_byte(path) != b"[":
        return False  # without reading all of it
    try:
        entries = orjson.loads(whole_content(path))
    except orjson.JSONDecodeError:
        return False
    return isinstance(entries, list) and all(isinstance(entry, dict) for entry in entries)


def whole_json(path: AnyPath) -> Any:
    """The value in a JSON file.

    Raises:
        DataError: the file is not JSON.
    """
    try:
        return orjson.loads(decoded(whole_content(path)))
    except RowError as error:
        raise DataError(f"{path}: {error}") from None
    except orjson.JSONDecodeError as error:
        raise DataError(f"{path}: is not JSON ({error}); a file with an object on each line is named .jsonl") from None


def tsv_cells(path: AnyPath, longest: int) -> Iterator[Cells | Reject]:
    """The cells of each line of `path`, without the quotes of CSV."""

    def cells(line: TextLine) -> Cells:
        return Cells(line.number, [_unquoted(cell) for cell in line.text.split("\t")])

    return each(lines(path, longest), cells, path)


def tsv_records(path: AnyPath, longest: int, names: Sequence[str] = ()) -> Iterator[Record | Reject]:
    """A record for each line of `path` with columns `names`; without `names`, the first line is the header."""
    return _named(tsv_cells(path, longest), path, names)


def csv_records(path: AnyPath, longest: int) -> Iterator[Record | Reject]:
    """A record for each row of a CSV file (RFC 4180) by the names of its header; quoted cells may hold line breaks.

    A record's number is that of the line where it begins.

    Raises:
        DataError: a quote is never closed, a line is longer than `longest` bytes, or two columns have one name.
    """

    def cells(row: Cells) -> Cells:
        return Cells(row.number, [decoded(cell.encode("utf-8", "surrogateescape")) for cell in row.values])

    return _named(each(_csv_rows(path, longest), cells, path), path)


def csv_header(path: AnyPath, longest: int) -> list[str]:
    """The cells of the first line of a CSV file; empty if the file has no line or the line is not text."""
    line = next(lines(path, longest), None)
    return next(csv.reader([line.text]), []) if isinstance(line, TextLine) else []


def column_names(cells: Sequence[str], where: str) -> list[str]:
    """The names in a header.

    Raises:
        DataError: two columns have one name.
    """
    names = [cell.strip() for cell in cells]
    if len(set(names)) < len(names):
        raise DataError(f"{where}: two columns have one name: {', '.join(names)}; call the negatives negative_1, ...")
    return names


def parquet_records(path: AnyPath) -> Iterator[Record]:
    """A record for each row of a Parquet file.

    Raises:
        DataError: the file is damaged or not Parquet.
    """
    try:
        from pyarrow import ArrowException, parquet  # imported here: an extra
    except ImportError:
        raise MachineError(f"{path}: Parquet files need pyarrow; pip install 'dense_jax[parquet]'") from None
    number = 0
    try:
        with path.open("rb") as opened, parquet.ParquetFile(opened) as file:
            for batch in file.iter_batches(_BATCH):
                for values in batch.to_pylist():
                    number += 1
                    yield Record(number, values)
    except (ArrowException, OSError) as error:
        raise DataError(f"{path}:{number + 1}: is no sound Parquet file ({error}); fetch it again") from None


def _object_record(number: int, value: Any, text: str) -> Record:
    if not isinstance(value, dict):
        raise RowError(f"is not a JSON object but {text[:40]!r}")
    return Record(number, value)


def _named(rows: Iterable[Cells | Reject], path: AnyPath, names: Sequence[str] = ()) -> Iterator[Record | Reject]:
    """Records of `rows` with columns `names`; without `names`, the first row is the header."""
    columns = list(names)

    def record(row: Cells) -> Record | None:
        if not columns:
            columns.extend(column_names(row.values, f"{path}:{row.number}"))
            return None
        if len(row.values) != len(columns):
            plural = "s" if len(row.values) != 1 else ""
            raise RowError(f"has {len(row.values)} column{plural}, not the {len(columns)} columns {', '.join(columns)}")
        return Record(row.number, dict(zip(columns, row.values, strict=True)))

    return each(rows, record, path)


def _csv_rows(path: AnyPath, longest: int) -> Iterator[Cells | Reject]:
    """The rows that are not blank, with the line where each begins; cells may hold surrogates in place of bytes."""
    csv.field_size_limit(max(longest, csv.field_size_limit()))  # the module's own limit is less than a document
    reader = csv.reader(_csv_lines(path, longest), strict=True)
    while True:
        number = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            if "end of data" in str(error) or "field limit" in str(error):
                raise DataError(f"{path}:{number}: a quote that opens in this row is never closed ({error})") from None
            yield Reject(f"{path}:{number}", f"is not CSV ({error})")
        else:
            if cells:
                yield Cells(number, cells)


def _csv_lines(path: AnyPath, longest: int) -> Iterator[str]:
    for number, raw in raw_lines(path, longest):
        if raw is None:
            raise DataError(f"{path}:{number}: is longer than {longest:,} bytes, too long for a line of CSV")
        yield raw.decode("utf-8", "surrogateescape")


def _unquoted(cell: str) -> str:
    """A cell without the quotes of CSV, if they enclose it and are doubled inside."""
    inner = cell[1:-1]
    quoted = len(cell) >= 2 and cell[0] == cell[-1] == '"' and '"' not in inner.replace('""', "")
    return inner.replace('""', '"') if quoted else cell
