"""A test collection in BEIR's layout, read so that no row is lost, guessed or counted twice.

    FOLDER/queries.jsonl        {"_id": "q1", "text": "who discovered radium"}
    FOLDER/qrels/SPLIT.tsv      query-id <tab> corpus-id <tab> score

Both may be gzipped. Judgements may also be separated by spaces, lack the header, or have TREC's four columns.
"""

import gzip
import zlib
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from dense_jax.errors import DataError

Queries = dict[str, str]  # id -> text
Qrels = dict[str, dict[str, int]]  # query id -> document id -> grade; relevant from 1

_LONGEST_LINE = 1 << 20  # bytes; a longer one is not a query and would stall the tokenizer
_HEADERS = {"queryid", "qid", "query", "topic", "topicid"}  # what the first cell of a header says, without - and _


@dataclass(frozen=True, slots=True)
class TestSet:
    """Queries and their judgements; every query has both."""

    name: str
    split: str
    queries: Queries
    qrels: Qrels
    unknown_queries: tuple[str, ...]  # judged, but without a text: excluded from everything

    def missing_documents(self, ids: Collection[str]) -> list[str]:
        """The judged documents that `ids`, a corpus, lacks. They stay in the denominators, as in published figures."""
        known = set(ids)
        return sorted({document for grades in self.qrels.values() for document in grades} - known)


def read_test_set(folder: Path, split: str) -> TestSet:
    """The queries of `split` in the order of the queries file, with their judgements.

    Raises:
        DataError: a file is missing or malformed, or none of the judged queries has a text.
    """
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; name a folder with queries.jsonl and qrels/{split}.tsv")
    queries_path = _existing(folder, "queries.jsonl")
    texts, qrels = read_queries(queries_path), read_qrels(_qrels_path(folder, split))
    queries = {query: text for query, text in texts.items() if query in qrels}
    if not queries:
        raise DataError(
            f"{folder}: none of the {len(qrels)} queries of qrels/{split}.tsv stands in {queries_path.name}, "
            f"for example {next(iter(qrels))!r}; the two files do not belong together"
        )
    unknown = tuple(query for query in qrels if query not in texts)
    return TestSet(folder.name, split, queries, {query: qrels[query] for query in queries}, unknown)


def read_queries(path: Path) -> Queries:
    """Id -> text, in the file's order; integer ids become strings.

    Raises:
        DataError: naming file and line of a row that is not a query, or of a repeated id.
    """
    queries: Queries = {}
    lines: dict[str, int] = {}
    for number, line in _lines(path):
        query, text = _query(line, f"{path}:{number}")
        if query in queries:
            raise DataError(
                f"{path}:{number}: query id {query!r} stands on line {lines[query]} already; ids must be unique"
            )
        queries[query], lines[query] = text, number
    if not queries:
        raise DataError(f"{path}: holds no query")
    return queries


def read_qrels(path: Path) -> Qrels:
    """Query id -> document id -> grade. A repeated judgement is accepted if its grade is the same.

    Raises:
        DataError: naming file and line of a row that is not a judgement, or that contradicts an earlier one.
    """
    qrels: Qrels = {}
    lines: dict[tuple[str, str], int] = {}
    columns = 0
    for number, line in _lines(path):
        where = f"{path}:{number}"
        cells = [cell.strip() for cell in line.split("\t")] if "\t" in line else line.split()
        columns = columns or _known_columns(cells, where)
        if len(cells) != columns or not all(cells):
            raise DataError(f"{where}: {line!r} does not have {columns} non-empty columns like the first row")
        if not qrels and _is_header(cells):
            continue
        query, document, grade = cells[0], cells[-2], _grade(cells[-1], where)
        first = lines.setdefault((query, document), number)
        known = qrels.setdefault(query, {}).setdefault(document, grade)
        if known != grade:
            raise DataError(
                f"{where}: query {query!r} and document {document!r} have grade {grade}, "
                f"but line {first} gives them {known}; keep one"
            )
    if not qrels:
        raise DataError(f"{path}: holds no judgement")
    return qrels


def _existing(folder: Path, name: str) -> Path:
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_file():
            return path
    raise DataError(f"{folder / name}: no such file, nor {name}.gz")


def _qrels_path(folder: Path, split: str) -> Path:
    splits = {path.name.removesuffix(".gz").removesuffix(".tsv"): path for path in sorted(folder.glob("qrels/*.tsv*"))}
    if split not in splits:
        known = f"there are: {', '.join(splits)}" if splits else "the folder has none"
        raise DataError(f"{folder}: no split {split!r} (qrels/{split}.tsv); {known}")
    return splits[split]


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines that are not blank, numbered from 1, without their ends."""
    number = 0
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            while raw := file.readline(_LONGEST_LINE + 1):
                number += 1
                line = _decoded(raw, f"{path}:{number}").strip("\r\n")
                if line.strip():
                    yield number, line
    except FileNotFoundError:
        raise DataError(f"{path}: no such file") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}:{number + 1}: the compressed file is damaged ({error})") from None


def _decoded(raw: bytes, where: str) -> str:
    if len(raw) > _LONGEST_LINE:
        raise DataError(f"{where}: longer than {_LONGEST_LINE:,} bytes; a query or a judgement is one short line")
    if b"\0" in raw:
        raise DataError(f"{where}: holds a NUL byte; the file is not text")
    try:
        return raw.decode("utf-8-sig")  # the mark that Windows puts at the start of a file is no part of the first id
    except UnicodeDecodeError as error:
        raise DataError(f"{where}: is not UTF-8 ({error.reason} at byte {error.start})") from None


def _query(line: str, where: str) -> tuple[str, str]:
    try:
        row = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise DataError(f"{where}: is not JSON ({error})") from None
    if not isinstance(row, dict):
        raise DataError(f'{where}: is not a JSON object with "_id" and "text"')
    query, text = row.get("_id"), row.get("text")
    if isinstance(query, bool) or not isinstance(query, str | int) or query == "":
        raise DataError(f'{where}: "_id" is {_shown(query)}, not a string or an integer')
    if not isinstance(text, str):
        raise DataError(f'{where}: "text" is {_shown(text)}, not a string')
    if not text.strip() or "\0" in text:
        raise DataError(f'{where}: "text" {"holds a NUL character" if text.strip() else "is empty"}')
    return str(query), text


def _shown(value: Any) -> str:
    return "missing" if value is None else repr(value)[:80]


def _known_columns(cells: list[str], where: str) -> int:
    if len(cells) not in (3, 4):
        raise DataError(
            f"{where}: {len(cells)} columns; a judgement is `query document grade` or `query 0 document grade`"
        )
    return len(cells)


def _is_header(cells: list[str]) -> bool:
    """Only by its own words: a first row that merely looks odd must fail, not vanish."""
    return cells[0].lower().replace("-", "").replace("_", "") in _HEADERS and not _is_number(cells[-1])


def _is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True


def _grade(cell: str, where: str) -> int:
    """Negative grades are allowed and gain nothing."""
    if not _is_number(cell) or not float(cell).is_integer():
        raise DataError(
            f"{where}: grade {cell!r} is not a whole number; round the grades, or keep those that are relevant as 1"
        )
    return int(float(cell))
