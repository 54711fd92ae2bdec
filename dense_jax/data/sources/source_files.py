"""Forms of files and folders, by their content: plain documents, or documents with queries about them.

FOLDER      BEIR if it holds corpus.jsonl (queries.jsonl, qrels/SPLIT.tsv)
            MS MARCO if it holds collection.tsv (queries.SPLIT.tsv, qrels.SPLIT.tsv)
.json       SQuAD if it is an object with a list `data` of articles; else the rows are the entries of its array, or
            its lines
.jsonl      the rows are its lines, or the entries of its array
.parquet    the rows are its rows
.csv        the rows are its rows, by the names of its header
.txt        documents, one a line; a FOLDER of .txt files has one a file
.tsv        a header with names of a query and of a positive makes its lines rows; without a header, lines are
            `query <tab> positive [<tab> negative]` where queries are asked for, else `id <tab> text [<tab> title]`

The first row with the names of one of these forms decides, in this order (see `asked_forms`): Tevatron, DPR, plain
documents (`corpus.text_field`), pairs and tuples, plain documents under another known name of a text (see `fields`).
`.gz` and `.xz` are unpacked on the way.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import Any

from dense_jax.config import CorpusConfig
from dense_jax.data.sources.document_files import (
    documents_of,
    file_rows,
    files_digest,
    files_in,
    first_cells,
    is_text,
    line_rows,
    tsv_documents,
)
from dense_jax.data.sources.documents import DocumentRow
from dense_jax.data.sources.fields import check_configured, configured, is_header, listed
from dense_jax.data.sources.judgements import beir_files, judged_queries, ms_marco_files, packed
from dense_jax.data.sources.lines import first_byte, form
from dense_jax.data.sources.queries import Asked, JudgedQuery, documents, judged
from dense_jax.data.sources.query_forms import Form, asked_rows, form_of, is_pairs
from dense_jax.data.sources.readers import (
    Record,
    Records,
    column_names,
    csv_records,
    is_array,
    json_records,
    jsonl_records,
    parquet_records,
    tsv_records,
    whole_json,
)
from dense_jax.data.sources.squad import is_squad, squad_queries, squad_rows
from dense_jax.errors import DataError
from dense_jax.io import AnyPath, digest
from dense_jax.types import Reject

FORMS = (
    "a BEIR or MS MARCO folder, a .jsonl, .json, .tsv or .parquet file of documents, or of queries with texts "
    "(Tevatron, DPR, SQuAD, pairs and tuples), a .csv file with a header, a .txt file of a document a line, a folder "
    "of .txt files, tfds:NAME, or installed"
)
_BEIR = CorpusConfig()  # how a folder's documents are read, whatever fields the config names in other files
_BYTES_PER_CHARACTER = 12  # at most, in JSON: a pair of \\uXXXX
_REST_OF_LINE = 1 << 20  # bytes beside the text
_PAIR = ("query", "positive", "negative")
_LOOKED_AT = 100  # rows that may be bad before one shows the form
_OF_ROWS = (".jsonl", ".json", ".tsv", ".csv", ".parquet")
_OF_COLLECTIONS = ("queries.", "qrels.", "qrels/")  # what names of queries and judgements start with
_SEPARATORS = ("\t", ";", "|")  # of columns, where they are not commas
_FILES_SHOWN = 5

Judged = Callable[[], Iterator[JudgedQuery | Reject]]


@dataclass(frozen=True)
class Contents:
    """What a file or folder holds."""

    place: AnyPath  # the file that has the documents
    rows: Callable[[], Iterator[DocumentRow | Reject]]
    identify: Callable[[], dict[str, Any]]
    judged: Judged | None = None
    note: str = ""  # a sentence for the user about how it is read


@dataclass(frozen=True)
class Table:
    """A file of records, and what they are."""

    records: Records
    form: Form
    names: tuple[str, ...]  # of the fields of its first rows


def open_path(path: AnyPath, config: CorpusConfig, asked: bool) -> Contents:
    """What `path` holds; `asked` for its queries, or its documents only.

    Raises:
        DataError: its form is unknown.
    """
    if path.is_dir():
        return _folder(path, config, asked)
    if form(path) == ".tsv":
        return _tsv(path, config, asked)
    if is_text(path):
        return Contents(path, partial(line_rows, path, longest_line(config)), _identify(path, {"form": "text"}))
    if holds_squad(path, longest_line(config)):
        identify = _identify(path, {"form": "SQuAD"})
        return Contents(path, partial(squad_rows, path), identify, partial(squad_queries, path))
    table = open_table(path, config)
    if table.form is Form.DOCUMENTS:
        documents = documents_of(path, table.records, table.names, config)
        return Contents(
            path, documents.rows, _identify(path, {"fields": documents.fields.named()}), note=documents.note
        )
    return _asked(path, table)


def open_table(path: AnyPath, config: CorpusConfig) -> Table:
    """The records of a .jsonl, .json, .csv or .parquet file.

    Raises:
        DataError: it is another file, or its rows have the names of no form.
    """
    records = table_records(path, longest_line(config))
    first = [record.values for record in islice(records(), _LOOKED_AT) if isinstance(record, Record)]
    names = tuple(dict.fromkeys(name for values in first for name in values))
    found = next((known for values in first if (known := form_of(values, config))), None)
    if names and not found:
        check_configured(str(path), names, config)
        raise DataError(
            f"{path}: its rows have the fields {listed(names)}, which no known form has, and none is "
            f"corpus.text_field={config.text_field}; name {FORMS}; if one of the fields is the text of a document, "
            f"name it by --corpus.text_field=NAME{_csv_advice(names) if form(path) == '.csv' else ''}"
        )
    return Table(records, found or Form.DOCUMENTS, names)  # without names nothing can be read: each row says why


def _csv_advice(names: tuple[str, ...]) -> str:
    """What may be wrong with a CSV file whose header is `names`."""
    mark = next((mark for mark in _SEPARATORS if len(names) == 1 and mark in names[0]), None)
    if mark is None:
        return "; a .csv file begins with a header"
    fix = "name it .tsv" if mark == "\t" else f"replace {mark!r} by commas"
    return f"; commas separate the columns of a .csv file: {fix}"


def holds_squad(path: AnyPath, longest: int) -> bool:
    """Whether a file is SQuAD's."""
    if form(path) != ".json" or first_byte(path) != b"{":
        return False  # without reading all of a large array
    return not _of_lines(path, longest) and is_squad(whole_json(path))


def longest_line(config: CorpusConfig) -> int:
    """Bytes of a line that can hold one document of the greatest length."""
    return config.max_characters * _BYTES_PER_CHARACTER + _REST_OF_LINE


def tsv_names(path: AnyPath, longest: int) -> tuple[str, ...] | None:
    """The columns of a TSV file of pairs by its header; None: it has no such header.

    Raises:
        DataError: two columns have the same name.
    """
    cells = [cell.lower() for cell in first_cells(path, longest)]
    return tuple(column_names(cells, f"{path}:1")) if is_pairs([cell.strip() for cell in cells]) else None


def asked_tsv(path: AnyPath, longest: int, names: tuple[str, ...], header: bool) -> Contents:
    """A TSV file of pairs or triplets."""
    return _asked(path, Table(partial(tsv_records, path, longest, names, header), Form.PAIRS, names))


def _folder(path: AnyPath, config: CorpusConfig, asked: bool) -> Contents:
    longest = longest_line(config)
    if corpus := packed(path, "corpus.jsonl"):
        table = open_table(corpus, replace(_BEIR, max_characters=config.max_characters))
        documents = documents_of(corpus, table.records, table.names, _BEIR)
        queries, read_as = partial(beir_files, path, config.split), {"fields": documents.fields.named()}
    elif corpus := packed(path, "collection.tsv"):
        documents = tsv_documents(corpus, longest, _BEIR)
        queries, read_as = partial(ms_marco_files, path, config.split), {"form": "MS MARCO"}
    else:
        return _text_folder(path)

    def identify() -> dict[str, Any]:
        own = dict(zip(("queries", "judgements"), map(digest, queries()), strict=True)) if asked else {}
        return {"digest": digest(corpus), **read_as, **own}

    return Contents(corpus, documents.rows, identify, lambda: judged_queries(*queries()), documents.note)


def _text_folder(path: AnyPath) -> Contents:
    """A document a .txt file; other files of the folder are named in the note.

    Raises:
        DataError: there is no .txt file, or there are files of rows, one of which may be meant.
    """
    files = files_in(path)
    texts, others = [file for file in files if is_text(file)], [file for file in files if not is_text(file)]
    if any(file.relative_to(path).as_posix().startswith(_OF_COLLECTIONS) for file in others):
        raise DataError(
            f"{_no_corpus(path)}, but it has queries or judgements; add the documents as corpus.jsonl or collection.tsv"
        )
    if rows := [file for file in others if form(file) in _OF_ROWS]:
        advice = "name it" if len(rows) == 1 else "name one of them in corpus.source and the others in corpus.also"
        raise DataError(f"{_no_corpus(path)}; it holds {_names(rows)}: {advice}")
    if not texts:
        raise DataError(f"{_no_corpus(path)}; {f'it holds {_names(others)}; ' if others else ''}name {FORMS}")

    def identify() -> dict[str, Any]:
        return {"digest": files_digest(path, texts), "form": "text files"}

    note = f"note: {path}: {len(others)} files that are not .txt are not read: {_names(others)}" if others else ""
    return Contents(path, partial(file_rows, path, texts), identify, note=note)


def _no_corpus(path: AnyPath) -> str:
    return f"corpus source {path}: the folder has no corpus.jsonl or collection.tsv"


def _names(files: list[AnyPath]) -> str:
    return ", ".join(file.name for file in files[:_FILES_SHOWN]) + (", ..." if len(files) > _FILES_SHOWN else "")


def _tsv(path: AnyPath, config: CorpusConfig, asked: bool) -> Contents:
    longest = longest_line(config)
    if names := tsv_names(path, longest):
        return asked_tsv(path, longest, names, header=True)
    first = first_cells(path, longest)
    if asked and len(first) in (2, 3) and not is_header(first, config):
        return asked_tsv(path, longest, _PAIR[: len(first)], header=False)
    documents = tsv_documents(path, longest, config)
    return Contents(path, documents.rows, _identify(path, {"fields": configured(config)}), note=documents.note)


def _asked(path: AnyPath, table: Table) -> Contents:
    """Documents and queries of rows that hold both.

    Raises:
        DataError: they do not hold the documents.
    """
    if table.form is Form.ANSWERS:
        raise DataError(
            f"{path}: holds questions and answers but no passages to learn from (positive_ctxs); retrieve some for its "
            f"questions first, or name {FORMS}"
        )
    if table.form is Form.IDS:
        raise DataError(
            f"{path}: holds queries about documents by their ids; name it in corpus.queries, and in corpus.source "
            "the documents"
        )

    def rows() -> Iterator[Asked | Reject]:
        return asked_rows(table.records(), table.form, str(path))

    return Contents(
        path,
        lambda: documents(rows(), str(path)),
        _identify(path, {"form": table.form.value}),
        lambda: judged(rows(), str(path)),
    )


def table_records(path: AnyPath, longest: int) -> Callable[[], Iterator[Record | Reject]]:
    """The records of a .jsonl, .json, .csv or .parquet file, whatever they are; lines of up to `longest` bytes.

    Raises:
        DataError: it is another file.
    """
    match form(path):
        case ".jsonl":
            return partial(json_records, path) if is_array(path) else partial(jsonl_records, path, longest)
        case ".json":
            return partial(jsonl_records, path, longest) if _of_lines(path, longest) else partial(json_records, path)
        case ".csv":
            return partial(csv_records, path, longest)
        case ".parquet":
            return partial(parquet_records, path)
        case other:
            raise DataError(f"corpus source {path}: unknown form {other!r}; name {FORMS}")


def _of_lines(path: AnyPath, longest: int) -> bool:
    """Whether a .json file has a row on each line: its first line is an object by itself."""
    first = next(jsonl_records(path, longest), None)
    return isinstance(first, Record) and not is_squad(first.values)


def _identify(path: AnyPath, read_as: dict[str, Any]) -> Callable[[], dict[str, Any]]:
    return lambda: {"digest": digest(path), **read_as}
