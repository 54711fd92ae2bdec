"""Files whose rows are values by name: JSONL, an array in a JSON file, CSV and TSV with a header, Parquet."""

import csv
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import orjson

from dense_jax.data.sources.lines import decoded, first_byte, lines, raw_lines, whole_content
from dense_jax.data.sources.rejects import RowError
from dense_jax.errors import DataError, MachineError
from dense_jax.io import AnyPath
from dense_jax.types import Reject

_BATCH = 1_024  # rows of a Parquet file held at once


class Record(NamedTuple):
    """One row."""

    number: int  # line, entry or row, from 1
    values: dict[str, Any]


Records = Callable[[], Iterator[Record | Reject]]  # all of a file's at each call


def jsonl_records(path: AnyPath, longest: int) -> Iterator[Record | Reject]:
    """A record for each line of `path`; lines of more than `longest` bytes are not parsed."""
    for number, raw in lines(path, longest):
        try:
            yield Record(number, _object(raw, longest))
        except RowError as error:
            yield Reject(f"{path}:{number}", str(error))


def json_records(path: AnyPath) -> Iterator[Record | Reject]:
    """A record for each entry of the array in `path`, which is held in memory.

    Raises:
        DataError: it is no array.
    """
    entries = whole_json(path)
    if not isinstance(entries, list):
        raise DataError(f"{path}: holds neither an array of rows nor articles with paragraphs as SQuAD does")
    for number, entry in enumerate(entries, start=1):
        if isinstance(entry, dict):
            yield Record(number, entry)
        else:
            yield Reject(f"{path}:{number}", f"is not a JSON object but {str(entry)[:40]!r}")


def is_array(path: AnyPath) -> bool:
    """Whether a file of JSON is one array of objects, whatever its name."""
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
        DataError: it is not JSON.
    """
    try:
        return orjson.loads(decoded(whole_content(path)))
    except RowError as error:
        raise DataError(f"{path}: {error}") from None
    except orjson.JSONDecodeError as error:
        raise DataError(f"{path}: is not JSON ({error}); a file with an object on each line is named .jsonl") from None


def tsv_cells(path: AnyPath, longest: int) -> Iterator[tuple[int, list[str]] | Reject]:
    """The cells of each line of `path`, without the quotes of CSV."""
    for number, raw in lines(path, longest):
        try:
            cells = [_unquoted(cell) for cell in text_of(raw, longest).split("\t")]
        except RowError as error:
            yield Reject(f"{path}:{number}", str(error))
        else:
            yield number, cells


def tsv_records(path: AnyPath, longest: int, names: Sequence[str], header: bool) -> Iterator[Record | Reject]:
    """A record for each line of `path`, its columns called `names`; the first line is none if it is a `header`."""
    for row in tsv_cells(path, longest):
        if isinstance(row, Reject):
            yield row
        elif header:
            header = False
        elif len(row[1]) != len(names):
            columns = ", ".join(names)
            yield Reject(f"{path}:{row[0]}", f"has {len(row[1])} columns, not the {len(names)} columns {columns}")
        else:
            yield Record(row[0], dict(zip(names, row[1], strict=True)))


def csv_records(path: AnyPath, longest: int) -> Iterator[Record | Reject]:
    """A record for each row of a CSV file (RFC 4180) by the names of its header; quoted cells may hold line breaks.

    A record's number is that of the line where it begins.

    Raises:
        DataError: a quote is never closed, a line is longer than `longest` bytes, or two columns have one name.
    """
    names: list[str] = []
    for number, cells in _csv_rows(path, longest):
        if isinstance(cells, str):
            yield Reject(f"{path}:{number}", cells)
        elif not names:
            names = column_names(cells, f"{path}:{number}")
        elif len(cells) != len(names):
            reason = f"has {len(cells)} columns, not the {len(names)} columns {', '.join(names)}"
            yield Reject(f"{path}:{number}", reason)
        else:
            yield Record(number, dict(zip(names, cells, strict=True)))


def csv_header(path: AnyPath, longest: int) -> list[str]:
    """The cells of the first line of a CSV file; no cell if the line is no text or there is no line."""
    _, raw = next(lines(path, longest), (1, b""))
    try:
        return next(csv.reader([text_of(raw, longest)]), [])
    except RowError:
        return []


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
        DataError: it is no Parquet file, or damaged.
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


def _csv_rows(path: AnyPath, longest: int) -> Iterator[tuple[int, list[str] | str]]:
    """(line where it begins, cells) of each row that is not blank; in place of cells, the reason of a bad row."""
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
            yield number, f"is not CSV ({error})"
            continue
        try:
            if cells:
                yield number, [decoded(cell.encode("utf-8", "surrogateescape")) for cell in cells]
        except RowError as error:
            yield number, str(error)


def _csv_lines(path: AnyPath, longest: int) -> Iterator[str]:
    for number, raw in raw_lines(path, longest):
        if raw is None:
            raise DataError(f"{path}:{number}: is longer than {longest:,} bytes, too long for a line of CSV")
        yield raw.decode("utf-8", "surrogateescape")


def text_of(raw: bytes | None, longest: int) -> str:
    """The text of a line as `lines` gives it.

    Raises:
        RowError: it was too long, or is no text.
    """
    if raw is None:
        raise RowError(f"is longer than {longest:,} bytes")
    return decoded(raw)


def _object(raw: bytes | None, longest: int) -> dict[str, Any]:
    text = text_of(raw, longest)
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise RowError(f"is not JSON ({error})") from None
    if not isinstance(value, dict):
        raise RowError(f"is not a JSON object but {text[:40]!r}")
    return value


def _unquoted(cell: str) -> str:
    """A cell without the quotes of CSV, if it has them around it and doubled inside."""
    inner = cell[1:-1]
    quoted = len(cell) >= 2 and cell[0] == cell[-1] == '"' and '"' not in inner.replace('""', "")
    return inner.replace('""', '"') if quoted else cell
