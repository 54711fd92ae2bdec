"""Queries, and judgements of documents by their ids, row by row, every bad row with its line.

    queries.jsonl        {"_id": "q1", "text": "who discovered radium"}, or other names of `fields`
    queries.SPLIT.tsv    query-id <tab> text, perhaps with a header
    qrels                query-id <tab> corpus-id <tab> grade

Judgements may also be separated by spaces, lack the header, or have TREC's four columns: `query 0 document grade`. A
header with known names of all three decides the order of the columns. Ids with spaces need tabs.
"""

import contextlib
import csv
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from dense_jax.data.sources.fields import (
    COLLECTION_TEXTS,
    GRADES,
    JUDGED_DOCUMENTS,
    JUDGED_QUERIES,
    QUERY_IDS,
    as_id,
    first_known,
    is_known,
    listed,
)
from dense_jax.data.sources.lines import TextLine, form, lines
from dense_jax.data.sources.queries import JudgedQuery, ScoredDocument
from dense_jax.data.sources.readers import Record, is_array, json_records, jsonl_records
from dense_jax.data.sources.rejects import RowError, each
from dense_jax.errors import DataError
from dense_jax.io import AnyPath
from dense_jax.types import Reject

_LONGEST_LINE = 1 << 20  # bytes; a longer one is not a query and would stall the tokenizer
_HEADER_ADVICE = "if it is a header, write it as query-id, corpus-id and score"
_TAB_ADVICE = "if ids hold spaces, separate the columns by tabs"
_PACKED = ("", ".gz", ".xz")


class QueryText(NamedTuple):
    """A query of a collection."""

    id: str
    text: str


@dataclass(frozen=True, slots=True)
class RejectedQuery(Reject):
    """A row with an id and an unusable query; it is harmless if no judgement has this id."""

    id: str
    is_empty: bool = False  # the query is an empty text


class Judgement(NamedTuple):
    """The grade of a document for a query."""

    line: int
    query: str
    document: str
    grade: int  # relevant from 1


def query_rows(path: AnyPath) -> Iterator[QueryText | Reject]:
    """The queries of a JSONL or TSV file in its order; integer ids become strings. A repeated id is a bad row."""
    first: dict[str, int] = {}
    id_name: str | None = None  # of the first row that has an id, and so of all rows

    def query(record: Record) -> QueryText | RejectedQuery:
        nonlocal id_name
        id_name = id_name or first_known(record.values, QUERY_IDS)
        identifier = _query_id(record.values, id_name or "_id")
        try:
            if first.setdefault(identifier, record.number) != record.number:
                raise RowError(
                    f"query id {identifier!r} stands on line {first[identifier]} already; ids must be unique"
                )
            return QueryText(identifier, _query_text(record.values))
        except RowError as error:
            text = record.values.get(first_known(record.values, COLLECTION_TEXTS) or "text")
            is_empty = isinstance(text, str) and not text.strip()
            return RejectedQuery(f"{path}:{record.number}", str(error), identifier, is_empty)

    return each(_query_records(path), query, path)


def judgement_rows(path: AnyPath) -> Iterator[Judgement | Reject]:
    """The judgements of a file in its order. One may be repeated with the same grade; with another, it is a bad row."""
    seen: dict[tuple[str, str], Judgement] = {}
    columns: _Columns | None = None

    def judgement(line: TextLine) -> Judgement | None:
        nonlocal columns
        text, cells = line.text, _cells(line.text)
        is_first, columns = columns is None, columns or _columns(cells, text)
        if is_first and columns.header:
            return None
        if len(cells) != columns.width or not all(cells):
            advice = "" if "\t" in text else f"; {_TAB_ADVICE}"
            raise RowError(f"{text!r:.200} does not have {columns.width} non-empty columns like the first row{advice}")
        grade = _grade(cells[columns.grade], is_first)
        row = Judgement(line.number, cells[columns.query], cells[columns.document], grade)
        first = seen.setdefault((row.query, row.document), row)
        if first.grade != row.grade:
            raise RowError(
                f"query {row.query!r} and document {row.document!r} have grade {row.grade}, "
                f"but line {first.line} gives them {first.grade}; keep one"
            )
        return row

    return each(lines(path, _LONGEST_LINE), judgement, path)


def judged_queries(queries: AnyPath, judgements: AnyPath) -> Iterator[JudgedQuery | Reject]:
    """The queries with judgements, in the order of their file: from grade 1 a document is a positive."""

    def rejected(own: dict[str, Judgement], reason: str) -> Reject:
        return Reject(f"{judgements}:{next(iter(own.values())).line}", reason)

    found: dict[str, dict[str, Judgement]] = {}
    for row in judgement_rows(judgements):
        if isinstance(row, Reject):
            yield row
        else:
            found.setdefault(row.query, {})[row.document] = row
    for row in query_rows(queries):
        if isinstance(row, Reject):
            if not isinstance(row, RejectedQuery) or found.pop(row.id, None):
                yield row
        elif own := found.pop(row.id, None):
            positives = tuple(ScoredDocument(document) for document, judgement in own.items() if judgement.grade >= 1)
            negatives = tuple(ScoredDocument(document) for document, judgement in own.items() if judgement.grade < 1)
            if positives:
                yield JudgedQuery(row.id, row.text, positives, negatives)
            else:
                yield rejected(own, f"no positive: query {row.id!r} has no grade of 1 or more")
    for query, own in found.items():
        yield rejected(own, f"no text: query {query!r} has no usable row in {queries.name}")


def beir_files(folder: AnyPath, split: str) -> tuple[AnyPath, AnyPath]:
    """The files of queries and judgements of a BEIR folder.

    Raises:
        DataError: a file is missing; the error names the known splits.
    """
    queries = _existing(folder, "queries.jsonl")
    files = [path for path in sorted(folder.glob("qrels/*.tsv*")) if form(path) == ".tsv"]
    splits = {path.name.split(".tsv")[0]: path for path in files}
    if split not in splits:
        known = f"there are: {', '.join(splits)}" if splits else "the folder has none"
        raise DataError(f"{folder}: no split {split!r} (qrels/{split}.tsv); {known}")
    return queries, splits[split]


def ms_marco_files(folder: AnyPath, split: str) -> tuple[AnyPath, AnyPath]:
    """The files of queries and judgements of an MS MARCO folder.

    Raises:
        DataError: a file is missing.
    """
    return _existing(folder, f"queries.{split}.tsv"), _existing(folder, f"qrels.{split}.tsv")


def folder_queries(folder: AnyPath, split: str) -> AnyPath:
    """The file of queries of an MS MARCO or BEIR folder.

    Raises:
        DataError: the folder has no such file.
    """
    return packed(folder, "queries.jsonl") or _existing(folder, f"queries.{split}.tsv")


def packed(folder: AnyPath, name: str) -> AnyPath | None:
    """The path of `name` in `folder`, plain or packed; None if it is absent."""
    return next((path for end in _PACKED if (path := folder / f"{name}{end}").is_file()), None)


def _existing(folder: AnyPath, name: str) -> AnyPath:
    if path := packed(folder, name):
        return path
    raise DataError(f"{folder / name}: no such file, nor {name}.gz or {name}.xz")


def _query_records(path: AnyPath) -> Iterator[Record | Reject]:
    if form(path) == ".tsv":
        return _tsv_queries(path)
    return json_records(path) if is_array(path) else jsonl_records(path, _LONGEST_LINE)


def _tsv_queries(path: AnyPath) -> Iterator[Record | Reject]:
    """A record for each line: id and text, or as the first line names them. Quotes are parts of the texts."""
    names: list[str] = []

    def record(line: TextLine) -> Record | None:
        cells = line.text.split("\t")
        if not names:
            header = first_known(cells, QUERY_IDS) and first_known(cells, COLLECTION_TEXTS)
            names.extend(cells if header else ("_id", "text"))
            if header:
                return None
        if len(cells) != len(names) or not all(cell.strip() for cell in cells):
            columns = "two non-empty columns: query id and text" if len(names) == 2 else f"the columns {listed(names)}"
            raise RowError(f"{line.text!r:.200} does not have {columns}")
        return Record(line.number, dict(zip(names, cells, strict=True)))

    return each(lines(path, _LONGEST_LINE), record, path)


def _query_id(values: Mapping[str, Any], name: str) -> str:
    if values.get(name) is None:
        raise RowError(f'"{name}" is missing; the row has {listed(values)}')
    return as_id(values[name], f'"{name}"')


def _query_text(values: Mapping[str, Any]) -> str:
    name = first_known(values, COLLECTION_TEXTS) or "text"
    text = values.get(name)
    if not isinstance(text, str):
        value = "null" if text is None else repr(text)
        shown = f"{value:.80}, not a string" if name in values else f"missing; the row has {listed(values)}"
        raise RowError(f'"{name}" is {shown}')
    if not text.strip() or "\0" in text:
        raise RowError(f'"{name}" {"holds a NUL character" if text.strip() else "is empty"}')
    return text


class _Columns(NamedTuple):
    """The columns of a file of judgements, by its first row."""

    width: int
    query: int
    document: int
    grade: int
    header: bool  # the first row


def _columns(cells: list[str], line: str) -> _Columns:
    """The columns by the names of a header, or else by their order."""
    count = len(cells)
    if named := _named_columns(cells):
        return _Columns(count, *named, header=True)
    if count == 1:
        raise RowError(f"{line!r:.200} has 1 column; separate the columns by tabs: `query-id corpus-id score`")
    if count not in (3, 4):
        raise RowError(
            f"{count} columns; a judgement is `query document grade` or `query 0 document grade`; {_HEADER_ADVICE}"
        )
    is_iteration = _is_number(cells[1]) or cells[1].lower() in ("q0", "iter", "-")  # TREC's second column
    # A header needs a known name: an odd first row must fail, not vanish.
    header = is_known(cells[0], JUDGED_QUERIES) and not _is_number(cells[-1])
    if count == 4 and "\t" not in line and not (header or is_iteration):
        raise RowError(f"{line!r:.200} has {cells[1]!r} where TREC has a 0; {_TAB_ADVICE}")
    return _Columns(count, 0, count - 2, count - 1, header)


def _named_columns(cells: list[str]) -> tuple[int, int, int] | None:
    """The columns of query, document and grade, if `cells` names all three."""
    query = first_known(cells, JUDGED_QUERIES)
    document = first_known([cell for cell in cells if cell != query], JUDGED_DOCUMENTS)
    grade = first_known(cells, GRADES)
    if query is None or document is None or grade is None:
        return None
    return cells.index(query), cells.index(document), cells.index(grade)


def _cells(line: str) -> list[str]:
    """The columns between tabs, or between white space where a line has no tab; cells may be quoted as in CSV."""
    if "\t" not in line:
        return line.split()
    cells = line.split("\t")
    if '"' in line:
        with contextlib.suppress(csv.Error):  # the quotes are parts of ids
            cells = next(csv.reader([line], delimiter="\t", strict=True))
    return [cell.strip() for cell in cells]


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _grade(cell: str, is_first: bool) -> int:
    """Negative grades are allowed and give no gain."""
    if not _is_number(cell) or not float(cell).is_integer():
        fix = "round the grades, or keep those that are relevant as 1"
        header = f"; {_HEADER_ADVICE}" if is_first and not _is_number(cell) else ""
        raise RowError(f"grade {cell!r} is not a whole number; {fix}{header}")
    return int(float(cell))
