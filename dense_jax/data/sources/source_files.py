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
            `query <tab> positive [<tab> negative]` if queries are wanted, else `id <tab> text [<tab> title]`

The first row with the names of one of these forms decides, in this order (see `query_forms`): Tevatron, DPR, plain
documents (`corpus.text_field`), pairs and tuples, plain documents under another known name of a text (see `fields`).
`.gz` and `.xz` are unpacked on the way.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

from dense_jax.config import CorpusConfig
from dense_jax.data.sources.document_files import (
    Contents,
    file_documents,
    file_identity,
    first_cells,
    line_documents,
    table_documents,
    tsv_documents,
)
from dense_jax.data.sources.fields import check_configured, is_header, listed
from dense_jax.data.sources.judgements import beir_files, judged_queries, ms_marco_files, packed
from dense_jax.data.sources.lines import first_byte, form
from dense_jax.data.sources.queries import row_documents, row_queries
from dense_jax.data.sources.query_forms import Form, form_of, is_pairs, query_row_reader
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
from dense_jax.data.sources.squad import is_squad, squad_documents, squad_queries
from dense_jax.errors import DataError
from dense_jax.io import AnyPath, digest

FORMS = (
    "a BEIR or MS MARCO folder, a .jsonl, .json, .tsv or .parquet file of documents, or of queries with texts "
    "(Tevatron, DPR, SQuAD, pairs and tuples), a .csv file with a header, a .txt file of a document a line, a folder "
    "of .txt files, hf:ORG/NAME, ir:NAME, tfds:NAME, or installed"
)
_BEIR = CorpusConfig()  # a folder's documents have the default fields, also if the config names those of other files
_BYTES_PER_CHARACTER = 12  # at most, in JSON: a pair of \\uXXXX
_REST_OF_LINE = 1 << 20  # bytes of a line apart from the text
_PAIR = ("query", "positive", "negative")
_INSPECTED = 100  # rows that may be bad before one shows the form
_OF_ROWS = (".jsonl", ".json", ".tsv", ".csv", ".parquet")
_OF_COLLECTIONS = ("queries.", "qrels.", "qrels/")  # starts of the names of queries and judgements
_SEPARATORS = ("\t", ";", "|")  # of columns, in place of commas
_FILES_SHOWN = 5


@dataclass(frozen=True)
class Table:
    """A file of records and their form."""

    records: Records
    form: Form
    names: tuple[str, ...] = ()  # of the fields of its first rows


def open_path(path: AnyPath, config: CorpusConfig, with_queries: bool) -> Contents:
    """The contents of `path`, with its queries or its documents only.

    Raises:
        DataError: its form is unknown.
    """
    longest = longest_line(config)
    if path.is_dir():
        return _folder(path, config, with_queries)
    if form(path) == ".tsv":
        return _tsv(path, config, with_queries)
    if form(path) == ".txt":
        return line_documents(path, longest)
    if holds_squad(path, longest):
        identify = file_identity(path, form="SQuAD")
        return Contents(path, partial(squad_documents, path), identify, partial(squad_queries, path), distinct=True)
    table = open_table(path, config)
    if table.form is Form.DOCUMENTS:
        return table_documents(path, table.records, table.names, config)
    return _with_queries(path, table)


def open_table(path: AnyPath, config: CorpusConfig) -> Table:
    """The records of a .jsonl, .json, .csv or .parquet file.

    Raises:
        DataError: the file has another form, or its rows have the names of no form.
    """
    records = table_records(path, longest_line(config))
    first = [record.values for record in islice(records(), _INSPECTED) if isinstance(record, Record)]
    names = tuple(dict.fromkeys(name for values in first for name in values))
    found = next((known for values in first if (known := form_of(values, config))), None)
    if names and not found:
        check_configured(str(path), names, config)
        raise DataError(
            f"{path}: its rows have the fields {listed(names)}, which no known form has, and none is "
            f"corpus.text_field={config.text_field}; name {FORMS}; if one of the fields is the text of a document, "
            f"name it by --corpus.text_field=NAME{_csv_advice(names) if form(path) == '.csv' else ''}"
        )
    return Table(records, found or Form.DOCUMENTS, names)  # without names no row can be read: each gives its reason


def table_records(path: AnyPath, longest: int) -> Records:
    """The records of a .jsonl, .json, .csv or .parquet file of any form; lines have up to `longest` bytes.

    Raises:
        DataError: the file has another ending.
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


def holds_squad(path: AnyPath, longest: int) -> bool:
    """True for a file of SQuAD."""
    if form(path) != ".json" or first_byte(path) != b"{":
        return False  # without reading all of a large array
    return not _of_lines(path, longest) and is_squad(whole_json(path))


def tsv_has_pairs(path: AnyPath, longest: int) -> bool:
    """True if the header of a TSV file names a query and a positive.

    Raises:
        DataError: two columns have the same name.
    """
    cells = first_cells(path, longest)
    return is_pairs([cell.strip() for cell in cells]) and bool(column_names(cells, f"{path}:1"))


def longest_line(config: CorpusConfig) -> int:
    """Bytes of a line that can hold one document of the greatest length."""
    return config.max_characters * _BYTES_PER_CHARACTER + _REST_OF_LINE


def _of_lines(path: AnyPath, longest: int) -> bool:
    """True if a .json file has a row on each line: its first line is an object by itself."""
    first = next(jsonl_records(path, longest), None)
    return isinstance(first, Record) and not is_squad(first.values)


def _folder(path: AnyPath, config: CorpusConfig, with_queries: bool) -> Contents:
    if corpus := packed(path, "corpus.jsonl"):
        table = open_table(corpus, replace(_BEIR, max_characters=config.max_characters))
        documents = table_documents(corpus, table.records, table.names, _BEIR)
        queries = partial(beir_files, path, config.split)
    elif corpus := packed(path, "collection.tsv"):
        documents = tsv_documents(corpus, longest_line(config), _BEIR)
        queries = partial(ms_marco_files, path, config.split)
    else:
        return _text_folder(path)

    def identify() -> dict[str, object]:
        own = dict(zip(("queries", "judgements"), map(digest, queries()), strict=True)) if with_queries else {}
        return {**documents.identify(), **own}

    return replace(documents, identify=identify, judged=lambda: judged_queries(*queries()))


def _text_folder(path: AnyPath) -> Contents:
    """A document for each .txt file; a note names the other files of the folder."""
    files = _files_in(path)
    texts = [file for file in files if form(file) == ".txt"]
    others = [file for file in files if form(file) != ".txt"]
    if any(file.relative_to(path).as_posix().startswith(_OF_COLLECTIONS) for file in others):
        raise DataError(
            f"{_no_corpus(path)}, but it has queries or judgements; add the documents as corpus.jsonl or collection.tsv"
        )
    if rows := [file for file in others if form(file) in _OF_ROWS]:
        advice = "name it" if len(rows) == 1 else "name one of them in corpus.source and the others in corpus.also"
        raise DataError(f"{_no_corpus(path)}; it holds {_some_names(rows)}: {advice}")
    if not texts:
        raise DataError(f"{_no_corpus(path)}; {f'it holds {_some_names(others)}; ' if others else ''}name {FORMS}")
    note = f"note: {path}: {len(others)} files that are not .txt are not read: {_some_names(others)}" if others else ""
    return file_documents(path, texts, note)


def _files_in(folder: AnyPath) -> list[AnyPath]:
    """All files of a folder and its folders in the order of their names, without hidden ones."""
    files = (path for path in sorted(folder.glob("**/*")) if path.is_file())
    return [path for path in files if not any(part.startswith(".") for part in path.relative_to(folder).parts)]


def _no_corpus(path: AnyPath) -> str:
    return f"corpus source {path}: the folder has no corpus.jsonl or collection.tsv"


def _some_names(files: list[AnyPath]) -> str:
    return ", ".join(file.name for file in files[:_FILES_SHOWN]) + (", ..." if len(files) > _FILES_SHOWN else "")


def _tsv(path: AnyPath, config: CorpusConfig, with_queries: bool) -> Contents:
    longest = longest_line(config)
    if tsv_has_pairs(path, longest):
        return _tsv_pairs(path, longest)
    first = first_cells(path, longest)
    if with_queries and len(first) in (2, 3) and not is_header(first, config):
        return _tsv_pairs(path, longest, _PAIR[: len(first)])
    return tsv_documents(path, longest, config)


def _tsv_pairs(path: AnyPath, longest: int, names: Sequence[str] = ()) -> Contents:
    """A TSV file of pairs or triplets, with columns `names` or a header."""
    return _with_queries(path, Table(partial(tsv_records, path, longest, names), Form.PAIRS))


def _with_queries(path: AnyPath, table: Table) -> Contents:
    """Documents and queries of rows that hold both."""
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
    rows = query_row_reader(table.records, table.form, path)
    return Contents(
        path,
        lambda: row_documents(rows(), path),
        file_identity(path, form=table.form.value),
        lambda: row_queries(rows(), path),
        distinct=True,
    )


def _csv_advice(names: tuple[str, ...]) -> str:
    """The likely mistake in a CSV file with header `names`."""
    mark = next((mark for mark in _SEPARATORS if len(names) == 1 and mark in names[0]), None)
    if mark is None:
        return "; a .csv file begins with a header"
    fix = "name it .tsv" if mark == "\t" else f"replace {mark!r} by commas"
    return f"; commas separate the columns of a .csv file: {fix}"
