"""Which form a file or folder has, told by its content: plain documents, or documents with queries about them.

FOLDER      BEIR if it holds corpus.jsonl (queries.jsonl, qrels/SPLIT.tsv)
            MS MARCO if it holds collection.tsv (queries.SPLIT.tsv, qrels.SPLIT.tsv)
.json       SQuAD if it is an object with a list `data` of articles; else the rows are the entries of its array, or
            its lines
.jsonl      the rows are its lines, or the entries of its array
.parquet    the rows are its rows
.tsv        a header with names of a query and of a positive makes its lines rows; without a header, lines are
            `query <tab> positive [<tab> negative]` where queries are asked for, else `id <tab> text [<tab> title]`

What a row is, is told by the first that has the names of one of these, in this order (see `asked_forms`):
Tevatron, DPR, plain documents (`corpus.text_field`), pairs and tuples.
`.gz` and `.xz` are unpacked on the way.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, islice
from typing import Any

from dense_jax.config import CorpusConfig
from dense_jax.contracts import Reject
from dense_jax.data.sources.asked import Asked, documents, judged
from dense_jax.data.sources.asked_forms import Form, asked_rows, form_of, is_pairs
from dense_jax.data.sources.fields import (
    Fields,
    check_configured,
    configured,
    document_fields,
    header_names,
    header_text,
    is_header,
    listed,
    numbering_note,
)
from dense_jax.data.sources.judged import JudgedQuery
from dense_jax.data.sources.judgements import beir_files, judged_queries, ms_marco_files, packed
from dense_jax.data.sources.lines import first_byte, form
from dense_jax.data.sources.rows import Row, named_rows, tsv_rows
from dense_jax.data.sources.squad import is_squad, squad_queries, squad_rows
from dense_jax.data.sources.tables import (
    Record,
    is_array,
    json_records,
    jsonl_records,
    parquet_records,
    tsv_cells,
    tsv_records,
    whole_json,
)
from dense_jax.errors import DataError
from dense_jax.files import AnyPath, digest

FORMS = (
    "a BEIR or MS MARCO folder, a .jsonl, .json, .tsv or .parquet file of documents, or of queries with texts "
    "(Tevatron, DPR, SQuAD, pairs and tuples), tfds:NAME, or installed"
)
_BEIR = CorpusConfig()  # how a folder's documents are read, whatever fields the config names in other files
_BYTES_PER_CHARACTER = 12  # at most, in JSON: a pair of \\uXXXX
_REST_OF_LINE = 1 << 20  # bytes beside the text
_PAIR = ("query", "positive", "negative")
_LOOKED_AT = 100  # rows that may be bad before one tells the form

Judged = Callable[[], Iterator[JudgedQuery | Reject]]
Records = Callable[[], Iterator[Record | Reject]]


@dataclass(frozen=True)
class Contents:
    """What a file or folder holds."""

    place: AnyPath  # the file that has the documents
    rows: Callable[[], Iterator[Row | Reject]]
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
    if holds_squad(path, longest_line(config)):
        identify = _identify(path, {"form": "SQuAD"})
        return Contents(path, partial(squad_rows, path), identify, partial(squad_queries, path))
    table = open_table(path, config)
    if table.form is Form.DOCUMENTS:
        documents = _documents(path, table.records, table.names, config)
        return Contents(
            path, documents.rows, _identify(path, {"fields": documents.fields.named()}), note=documents.note
        )
    return _asked(path, table)


def open_table(path: AnyPath, config: CorpusConfig) -> Table:
    """The records of a .jsonl, .json or .parquet file.

    Raises:
        DataError: it is another file, or its rows have the names of no form.
    """
    records = table_records(path, longest_line(config))
    first = [record.values for record in islice(records(), _LOOKED_AT) if isinstance(record, Record)]
    names = tuple(dict.fromkeys(name for values in first for name in values))
    found = next((form for values in first if (form := form_of(values, config))), None)
    if names and not found:
        check_configured(str(path), names, config)
        raise DataError(
            f"{path}: its rows have the fields {listed(names)}, which no known form has, and none is "
            f"corpus.text_field={config.text_field}; name {FORMS}; if one of the fields is the text of a document, "
            "name it by --corpus.text_field=NAME"
        )
    return Table(records, found or Form.DOCUMENTS, names)  # without names nothing can be read: each row says why


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
    cells = [cell.lower() for cell in _first_cells(path, longest)]
    return header_names(cells, path) if is_pairs([cell.strip() for cell in cells]) else None


def asked_tsv(path: AnyPath, longest: int, names: tuple[str, ...], header: bool) -> Contents:
    """A TSV file of pairs or triplets."""
    return _asked(path, Table(partial(tsv_records, path, longest, names, header), Form.PAIRS, names))


def _folder(path: AnyPath, config: CorpusConfig, asked: bool) -> Contents:
    longest = longest_line(config)
    if corpus := packed(path, "corpus.jsonl"):
        table = open_table(corpus, replace(_BEIR, max_characters=config.max_characters))
        documents = _documents(corpus, table.records, table.names, _BEIR)
        queries, read_as = partial(beir_files, path, config.split), {"fields": documents.fields.named()}
    elif corpus := packed(path, "collection.tsv"):
        documents = _tsv_documents(corpus, longest, _BEIR)
        queries, read_as = partial(ms_marco_files, path, config.split), {"form": "MS MARCO"}
    else:
        raise DataError(f"corpus source {path}: the folder has no corpus.jsonl or collection.tsv; name {FORMS}")

    def identify() -> dict[str, Any]:
        own = dict(zip(("queries", "judgements"), map(digest, queries()), strict=True)) if asked else {}
        return {"digest": digest(corpus), **read_as, **own}

    return Contents(corpus, documents.rows, identify, lambda: judged_queries(*queries()), documents.note)


def _tsv(path: AnyPath, config: CorpusConfig, asked: bool) -> Contents:
    longest = longest_line(config)
    if names := tsv_names(path, longest):
        return asked_tsv(path, longest, names, header=True)
    first = _first_cells(path, longest)
    if asked and len(first) in (2, 3) and not is_header(first, config):
        return asked_tsv(path, longest, _PAIR[: len(first)], header=False)
    documents = _tsv_documents(path, longest, config)
    return Contents(path, documents.rows, _identify(path, {"fields": configured(config)}), note=documents.note)


@dataclass(frozen=True)
class _Documents:
    """How documents are read from a file of rows."""

    rows: Callable[[], Iterator[Row | Reject]]
    fields: Fields
    note: str


def _documents(path: AnyPath, records: Records, names: tuple[str, ...], config: CorpusConfig) -> _Documents:
    """The rows of `records`, whose first ones have `names`.

    Raises:
        DataError: no row has a field that the config names.
    """
    if any(name not in names for name in configured(config).values()):
        later = (record.values for record in records() if isinstance(record, Record))
        names = tuple(dict.fromkeys(chain(names, chain.from_iterable(later))))
        check_configured(str(path), names, config)
    fields = document_fields(names, config)
    note = numbering_note(str(path), names) if fields.numbered and names else ""
    return _Documents(lambda: named_rows(records(), fields, str(path)), fields, note)


def _tsv_documents(path: AnyPath, longest: int, config: CorpusConfig) -> _Documents:
    """The lines of a TSV file, by the names of its header if it has one.

    Raises:
        DataError: the header lacks a field that the config names, or a text; or there is no header to have it.
    """
    first = _first_cells(path, longest)
    if is_header(first, config):
        names = header_names(first, path)
        check_configured(f"{path}:1", names, config)
        config = replace(config, text_field=header_text(names, config, f"{path}:1"))
        return _documents(path, partial(tsv_records, path, longest, names, header=True), names, config)
    if named := configured(config):
        setting, name = next(iter(named.items()))
        raise DataError(
            f"{path}: has no header, so no column is corpus.{setting}={name}; begin the file with a line of names, "
            "such as id, text and title, or leave out this setting: the columns are then id, text and title"
        )
    return _Documents(partial(tsv_rows, path, longest), document_fields(("id", "text", "title"), config), "")


def _first_cells(path: AnyPath, longest: int) -> list[str]:
    return next((row[1] for row in tsv_cells(path, longest) if not isinstance(row, Reject)), [])


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
    """The records of a .jsonl, .json or .parquet file, whatever they are; lines of up to `longest` bytes.

    Raises:
        DataError: it is another file.
    """
    match form(path):
        case ".jsonl":
            return partial(json_records, path) if is_array(path) else partial(jsonl_records, path, longest)
        case ".json":
            return partial(jsonl_records, path, longest) if _of_lines(path, longest) else partial(json_records, path)
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
