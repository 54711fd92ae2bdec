"""Known names of fields, one table for all forms of files, and the fields that make a document.

Names are compared without case, `_`, `-` and spaces: `DocID` is `doc_id`. If a row has several known names, the first
in the table counts.
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
QUESTION_TEXTS: Names = (*QUERY_TEXTS, "text")  # in files of questions and answers
COLLECTION_TEXTS: Names = ("text", *QUERY_TEXTS)  # in the queries of a collection
POSITIVES: Names = ("positive", "pos", "document", "passage", "answer")
NEGATIVES: Names = ("negative", "negatives", "neg")
SCORES: Names = ("scores", "score", "labels", "label")  # of a teacher, in pairs and tuples
ANSWERS: Names = ("answers", "answer")
JUDGED_QUERIES: Names = ("query_id", "qid", "query", "topic_id", "topic", "question_id", "_id")  # in qrels
JUDGED_DOCUMENTS: Names = (*DOCUMENT_IDS, "doc", "document", "passage")  # in qrels
GRADES: Names = ("score", "grade", "relevance", "rel", "label")

_SHOWN = 9  # names in a message
_SETTINGS = ("id_field", "title_field", "text_field")
_DEFAULTS = CorpusConfig()


@dataclass(frozen=True, slots=True)
class Fields:
    """Names of the fields that make a document."""

    id: str
    title: str
    text: str
    numbered: bool = False  # no row has an id

    def named(self) -> dict[str, str]:
        """The three names, for fingerprints."""
        return {"id": self.id, "title": self.title, "text": self.text}


def first_known(names: Iterable[str], known: Names) -> str | None:
    """The name among `names` that comes first in `known`.

    >>> first_known(["Title", "doc-id", "text"], DOCUMENT_IDS)
    'doc-id'
    """
    return _first_known(tuple(names), known)


def value_of(values: Mapping[str, Any], known: Names) -> Any:
    """The first value that is not None, in the order of the `known` names; None if `values` has none of them."""
    name = first_known((name for name, value in values.items() if value is not None), known)
    return None if name is None else values[name]


def is_known(name: str, known: Names) -> bool:
    """True if `name` is one of `known`, in any spelling."""
    return first_known([name], known) is not None


def document_fields(names: Names, config: CorpusConfig) -> Fields:
    """The fields of a document in rows with `names`: those that the config names, or else the first known ones.

    A default of the config stands for all known names. A field without a known name keeps its default.
    """
    chosen = configured(config)
    identifier = chosen.get("id_field") or first_known(names, DOCUMENT_IDS)
    return Fields(
        identifier or _DEFAULTS.id_field,
        chosen.get("title_field") or first_known(names, TITLES) or _DEFAULTS.title_field,
        chosen.get("text_field") or first_known(names, TEXTS) or _DEFAULTS.text_field,
        numbered=identifier is None,
    )


def text_field(names: Names, config: CorpusConfig) -> str | None:
    """The name of a document's text among `names`; None if they have no such name."""
    name = configured(config).get("text_field")
    return first_known(names, TEXTS) if name is None else (name if name in names else None)


def configured(config: CorpusConfig) -> dict[str, str]:
    """Setting -> name, for the fields that the config names itself."""
    return {name: value for name in _SETTINGS if (value := getattr(config, name)) != getattr(_DEFAULTS, name)}


def check_configured(place: str, names: Names, config: CorpusConfig) -> None:
    """Check that rows with `names` have all fields that the config names.

    Raises:
        DataError: a field is missing; the error lists the names of the rows and the nearest one.
    """
    for setting, name in configured(config).items():
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1, cutoff=0.0)
            raise DataError(
                f"{place}: no row has the field corpus.{setting}={name}; the rows have {listed(names)}; name one of "
                f"them, such as --corpus.{setting}={near[0] if near else 'NAME'}"
            )


def is_header(cells: Sequence[str], config: CorpusConfig) -> bool:
    """True if the first line of a TSV corpus names its columns.

    Such a line begins with the name of an id, names a text and an id or title, or has a field that the config names.
    """
    names = tuple(cell.strip() for cell in cells)
    if not names:
        return False
    with_text = first_known(names, TEXTS) and (first_known(names, DOCUMENT_IDS) or first_known(names, TITLES))
    return is_known(names[0], DOCUMENT_IDS) or bool(with_text) or any(n in names for n in configured(config).values())


def header_text(names: Names, config: CorpusConfig, where: str) -> str:
    """The name of the column of texts; if no name is known and there are two columns, the one that is not the id.

    Raises:
        DataError: no column has a known name of a text.
    """
    found = text_field(names, config)
    if found is None and len(names) == 2:
        found = next(name for name in reversed(names) if not is_known(name, DOCUMENT_IDS))
    if found is None:
        raise DataError(
            f"{where}: none of the columns {listed(names)} has a known name of a text ({', '.join(TEXTS)}); name it by "
            "--corpus.text_field=NAME"
        )
    return found


def numbering_note(place: str, names: Names) -> str:
    """The note about rows without ids."""
    return (
        f"note: {place}: no row has an id ({', '.join(DOCUMENT_IDS)}), so the rows are numbered from 1; they have "
        f"{listed(names)}; if one of these is the id, name it by --corpus.id_field=NAME"
    )


def listed(names: Iterable[str]) -> str:
    """The first few names, quoted, for a message."""
    return ", ".join(map(repr, list(names)[:_SHOWN])) or "no field"


def as_id(value: Any, subject: str) -> str:
    """An id as a string, without white space at its ends; `subject` starts the error message.

    Raises:
        RowError: the id is neither a string nor an integer, is blank or holds a line break.
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


@lru_cache(maxsize=1_024)
def _first_known(names: Names, known: Names) -> str | None:
    spelled = {_spelling(name): name for name in reversed(names)}
    found = next((name for name in known if _spelling(name) in spelled), None)
    return found if found is None or found in names else spelled[_spelling(found)]


@lru_cache(maxsize=1_024)
def _spelling(name: str) -> str:
    return re.sub(r"[-_ ]", "", name).lower()
