"""Which form a file or folder has, told by its content: plain documents, or documents with queries about them.

FOLDER      BEIR if it holds corpus.jsonl (queries.jsonl, qrels/SPLIT.tsv)
            MS MARCO if it holds collection.tsv (queries.SPLIT.tsv, qrels.SPLIT.tsv)
.json       SQuAD if it is an object with a list `data` of articles; else the rows are the entries of its array, or
            its lines
.jsonl      the rows are its lines
.parquet    the rows are its rows
.tsv        a header with names of a query and of a positive makes its lines rows; without a header, lines are
            `query <tab> positive [<tab> negative]` where queries are asked for, else `id <tab> text [<tab> title]`

What a row is, is told by the first that has the names of one of these, in this order (see `asked_forms`):
Tevatron, DPR, plain documents (`corpus.text_field`), pairs and tuples.
`.gz` and `.xz` are unpacked on the way.
"""

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import islice
from typing import Any

from dense_jax.config import CorpusConfig
from dense_jax.contracts import Reject
from dense_jax.data.sources.asked import Asked, documents, judged
from dense_jax.data.sources.asked_forms import Form, asked_rows, form_of, is_pairs
from dense_jax.data.sources.judged import JudgedQuery
from dense_jax.data.sources.judgements import beir_files, judged_queries, ms_marco_files, packed
from dense_jax.data.sources.lines import first_byte, form
from dense_jax.data.sources.rows import Fields, Row, is_header, named_rows, tsv_rows
from dense_jax.data.sources.squad import is_squad, squad_queries, squad_rows
from dense_jax.data.sources.tables import (
    Record,
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
_BEIR = Fields(id="_id", title="title", text="text")  # in a BEIR folder, whatever the config says of other files
_BYTES_PER_CHARACTER = 12  # at most, in JSON: a pair of \\uXXXX
_REST_OF_LINE = 1 << 20  # bytes beside the text
_PAIR = ("query", "positive", "negative")
_LOOKED_AT = 100  # rows that may be bad before one tells the form

Judged = Callable[[], Iterator[JudgedQuery | Reject]]


@dataclass(frozen=True)
class Contents:
    """What a file or folder holds."""

    place: AnyPath  # the file that has the documents
    rows: Callable[[], Iterator[Row | Reject]]
    identify: Callable[[], dict[str, Any]]
    judged: Judged | None = None


@dataclass(frozen=True)
class Table:
    """A file of records, and what they are."""

    records: Callable[[], Iterator[Record | Reject]]
    form: Form


def open_path(path: AnyPath, config: CorpusConfig, asked: bool) -> Contents:
    """What `path` holds; `asked` for its queries, or its documents only.

    Raises:
        DataError: its form is unknown.
    """
    fields = Fields(config.id_field, config.title_field, config.text_field)
    if path.is_dir():
        return _folder(path, config, asked)
    if form(path) == ".tsv":
        return _tsv(path, config, asked)
    if holds_squad(path, longest_line(config)):
        identify = _identify(path, {"form": "SQuAD"})
        return Contents(path, partial(squad_rows, path), identify, partial(squad_queries, path))
    table = open_table(path, config)
    if table.form is Form.DOCUMENTS:
        rows = partial(_documents, table.records, fields, path)
        return Contents(path, rows, _identify(path, {"fields": asdict(fields)}))
    return _asked(path, table)


def open_table(path: AnyPath, config: CorpusConfig) -> Table:
    """The records of a .jsonl, .json or .parquet file.

    Raises:
        DataError: it is another file, or its rows have the names of no form.
    """
    records = table_records(path, longest_line(config))
    names: list[str] = []
    for record in islice(records(), _LOOKED_AT):
        if isinstance(record, Record):
            names = names or list(record.values)
            if found := form_of(record.values, config.text_field):
                return Table(records, found)
    if names:
        raise DataError(
            f"{path}: its rows have the fields {', '.join(map(repr, names[:9]))}, which no known form has, and none is "
            f"corpus.text_field={config.text_field}; name {FORMS}"
        )
    return Table(records, Form.DOCUMENTS)  # nothing to be read: each row says why


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
    first = next((row for row in tsv_cells(path, longest) if not isinstance(row, Reject)), None)
    names = tuple(cell.strip().lower() for cell in first[1]) if first else ()
    if not is_pairs(names):
        return None
    if len(set(names)) < len(names):
        raise DataError(f"{path}:1: two columns have one name: {', '.join(names)}; call the negatives negative_1, ...")
    return names


def asked_tsv(path: AnyPath, longest: int, names: tuple[str, ...], header: bool) -> Contents:
    """A TSV file of pairs or triplets."""
    return _asked(path, Table(partial(tsv_records, path, longest, names, header), Form.PAIRS))


def _folder(path: AnyPath, config: CorpusConfig, asked: bool) -> Contents:
    longest = longest_line(config)
    if corpus := packed(path, "corpus.jsonl"):
        queries, read_as = partial(beir_files, path, config.split), {"fields": asdict(_BEIR)}
        rows = partial(_documents, partial(jsonl_records, corpus, longest), _BEIR, corpus)
    elif corpus := packed(path, "collection.tsv"):
        queries, read_as = partial(ms_marco_files, path, config.split), {"form": "MS MARCO"}
        rows = partial(tsv_rows, corpus, longest)
    else:
        raise DataError(f"corpus source {path}: the folder has no corpus.jsonl or collection.tsv; name {FORMS}")

    def identify() -> dict[str, Any]:
        own = dict(zip(("queries", "judgements"), map(digest, queries()), strict=True)) if asked else {}
        return {"digest": digest(corpus), **read_as, **own}

    return Contents(corpus, rows, identify, lambda: judged_queries(*queries()))


def _tsv(path: AnyPath, config: CorpusConfig, asked: bool) -> Contents:
    longest = longest_line(config)
    if names := tsv_names(path, longest):
        return asked_tsv(path, longest, names, header=True)
    first = next((row[1] for row in tsv_cells(path, longest) if not isinstance(row, Reject)), [])
    if asked and len(first) in (2, 3) and not is_header(first):
        return asked_tsv(path, longest, _PAIR[: len(first)], header=False)
    return Contents(path, partial(tsv_rows, path, longest), _identify(path, {"fields": {}}))


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
            return partial(jsonl_records, path, longest)
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


def _documents(
    records: Callable[[], Iterator[Record | Reject]], fields: Fields, path: AnyPath
) -> Iterator[Row | Reject]:
    return named_rows(records(), fields, str(path))


def _identify(path: AnyPath, read_as: dict[str, Any]) -> Callable[[], dict[str, Any]]:
    return lambda: {"digest": digest(path), **read_as}
