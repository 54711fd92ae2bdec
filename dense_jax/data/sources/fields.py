"""Names under which rows hold ids, titles, texts and queries: one table for JSON, Parquet, TFDS, TSV and CSV.

A name counts in any case, and with or without `_`, `-` and spaces: `DocID` is `doc_id`. Of several known names that a
row has, the first in the table counts.
"""

import difflib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from dense_jax.config import CorpusConfig
from dense_jax.data.sources.rejects import RowError
from dense_jax.errors import DataError

Names = tuple[str, ...]

DOCUMENT_IDS: Names = ("_id", "id", "pid", "passage_id", "psg_id", "docid", "document_id", "corpus_id", "docno")
TITLES: Names = ("title", "headline", "page_title", "wikipedia_title")
TEXTS: Names = ("text", "contents", "content", "passage", "paragraph", "document")
QUERY_IDS: Names = ("_id", "query_id", "qid", "id", "question_id", "topic_id")
QUERY_TEXTS: Names = ("query", "question", "query_text", "anchor")
GRADES: Names = ("score", "grade", "relevance", "rel", "label")

_SHOWN = 9  # names in a message
_ID_AND_TEXT = 2  # columns
_DEFAULTS = CorpusConfig()


@dataclass(frozen=True, slots=True)
class Fields:
    """Names of the fields that make a document."""

    id: str
    title: str
    text: str
    numbered: bool = False  # no row has an id

    def named(self) -> dict[str, str]:
        """The three names, as fingerprints hold them."""
        return {"id": self.id, "title": self.title, "text": self.text}


def find(names: Iterable[str], known: Names) -> str | None:
    """The name among `names` that comes first in `known`.

    >>> find(["Title", "doc-id", "text"], DOCUMENT_IDS)
    'doc-id'
    """
    return _find(tuple(names), known)


def value_of(values: Mapping[str, Any], known: Names) -> Any:
    """The value under the first of the `known` names that has one; None if no name has."""
    name = find((name for name, value in values.items() if value is not None), known)
    return None if name is None else values[name]


def is_known(name: str, known: Names) -> bool:
    """Whether `name` is spelled like one of `known`."""
    return find([name], known) is not None


def document_fields(names: Names, config: CorpusConfig) -> Fields:
    """The fields of a document in rows that have `names`: the configured ones, or else the first known ones.

    A default of the config stands for all known names. A field that no name fits keeps its default.
    """
    identifier = _configured("id_field", config) or find(names, DOCUMENT_IDS)
    return Fields(
        identifier or _DEFAULTS.id_field,
        _configured("title_field", config) or find(names, TITLES) or _DEFAULTS.title_field,
        _configured("text_field", config) or find(names, TEXTS) or _DEFAULTS.text_field,
        numbered=identifier is None,
    )


def text_field(names: Names, config: CorpusConfig) -> str | None:
    """The name of a document's text among `names`, if one of them can be that."""
    name = _configured("text_field", config)
    return find(names, TEXTS) if name is None else (name if name in names else None)


def configured(config: CorpusConfig) -> dict[str, str]:
    """Setting -> name, of the fields that the config names itself."""
    settings = ("id_field", "title_field", "text_field")
    return {setting: name for setting in settings if (name := _configured(setting, config)) is not None}


def check_configured(place: str, names: Names, config: CorpusConfig) -> None:
    """Check that rows with `names` have all fields that the config names.

    Raises:
        DataError: no row has one; it lists the names that there are, and the nearest.
    """
    for setting, name in configured(config).items():
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1, cutoff=0.0)
            raise DataError(
                f"{place}: no row has the field corpus.{setting}={name}; the rows have {listed(names)}; name one of "
                f"them, such as --corpus.{setting}={near[0] if near else 'NAME'}"
            )


def is_header(cells: Sequence[str], config: CorpusConfig) -> bool:
    """Whether the first line of a TSV corpus names its columns.

    It begins with the name of an id, or it names a text with an id or a title, or it has a field that the config names.
    """
    names = tuple(cell.strip() for cell in cells)
    if not names:
        return False
    with_text = find(names, TEXTS) and (find(names, DOCUMENT_IDS) or find(names, TITLES))
    return is_known(names[0], DOCUMENT_IDS) or bool(with_text) or any(n in names for n in configured(config).values())


def header_text(names: Names, config: CorpusConfig, where: str) -> str:
    """The name of the column of texts; of two columns, the one that is not the id.

    Raises:
        DataError: no column is known to be it.
    """
    found = text_field(names, config)
    if found is None and len(names) == _ID_AND_TEXT:
        found = next(name for name in reversed(names) if not is_known(name, DOCUMENT_IDS))
    if found is None:
        raise DataError(
            f"{where}: none of the columns {listed(names)} has a known name of a text ({', '.join(TEXTS)}); name it by "
            "--corpus.text_field=NAME"
        )
    return found


def numbering_note(place: str, names: Names) -> str:
    """The sentence about rows that have no id."""
    return (
        f"note: {place}: no row has an id ({', '.join(DOCUMENT_IDS)}), so the rows are numbered from 1; they have "
        f"{listed(names)}; if one of these is the id, name it by --corpus.id_field=NAME"
    )


def listed(names: Iterable[str]) -> str:
    """Names for a message."""
    return ", ".join(map(repr, list(names)[:_SHOWN])) or "no field"


def as_id(value: Any, subject: str) -> str:
    """An id as a string, without white space at its ends; `subject` begins the sentence of an error.

    Raises:
        RowError: it is neither a string nor an integer, or it is blank or holds a line break.
    """
    if isinstance(value, bool) or not isinstance(value, str | int) or value == "":
        whole = isinstance(value, float) and value.is_integer()
        fix = f"; write it as {int(value)}" if whole else ""
        raise RowError(f"{subject} is {value!r:.60}, not a string or an integer{fix}")
    identifier = str(value).strip()
    if not identifier:
        raise RowError(f"{subject} is {value!r:.60}, which is blank")
    if "\n" in identifier or "\r" in identifier:
        raise RowError(f"{subject} is {value!r:.60}, which holds a line break")
    return identifier


def _configured(setting: str, config: CorpusConfig) -> str | None:
    name = getattr(config, setting)
    return None if name == getattr(_DEFAULTS, setting) else name


@lru_cache(maxsize=1_024)
def _find(names: Names, known: Names) -> str | None:
    spelled = {_spelling(name): name for name in reversed(names)}
    found = next((name for name in known if _spelling(name) in spelled), None)
    return found if found is None or found in names else spelled[_spelling(found)]


@lru_cache(maxsize=1_024)
def _spelling(name: str) -> str:
    return re.sub(r"[-_ ]", "", name).lower()
