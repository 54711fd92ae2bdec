"""Plain documents in files of rows: which fields they have there."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain

from dense_jax.config import CorpusConfig
from dense_jax.data.sources.documents import DocumentRow, named_rows, tsv_rows
from dense_jax.data.sources.fields import (
    Fields,
    check_configured,
    configured,
    document_fields,
    header_text,
    is_header,
    numbering_note,
)
from dense_jax.data.sources.readers import Record, Records, column_names, tsv_cells, tsv_records
from dense_jax.errors import DataError
from dense_jax.io import AnyPath
from dense_jax.types import Reject


@dataclass(frozen=True)
class Documents:
    """How documents are read from a file of rows."""

    rows: Callable[[], Iterator[DocumentRow | Reject]]
    fields: Fields
    note: str


def documents_of(path: AnyPath, records: Records, names: tuple[str, ...], config: CorpusConfig) -> Documents:
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
    return Documents(lambda: named_rows(records(), fields, str(path)), fields, note)


def tsv_documents(path: AnyPath, longest: int, config: CorpusConfig) -> Documents:
    """The lines of a TSV file, by the names of its header if it has one.

    Raises:
        DataError: the header lacks a field that the config names, or a text; or there is no header to have it.
    """
    first = first_cells(path, longest)
    if is_header(first, config):
        names = tuple(column_names(first, f"{path}:1"))
        check_configured(f"{path}:1", names, config)
        config = replace(config, text_field=header_text(names, config, f"{path}:1"))
        return documents_of(path, partial(tsv_records, path, longest, names, header=True), names, config)
    if named := configured(config):
        setting, name = next(iter(named.items()))
        raise DataError(
            f"{path}: has no header, so no column is corpus.{setting}={name}; begin the file with a line of names, "
            "such as id, text and title, or leave out this setting: the columns are then id, text and title"
        )
    return Documents(partial(tsv_rows, path, longest), document_fields(("id", "text", "title"), config), "")


def first_cells(path: AnyPath, longest: int) -> list[str]:
    return next((row[1] for row in tsv_cells(path, longest) if not isinstance(row, Reject)), [])
