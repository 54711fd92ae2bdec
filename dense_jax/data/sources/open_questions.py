"""Questions with answers and without passages, in the forms of open-domain question answering.

.jsonl, .json, .parquet     {"question", "answer" or "answers": a text or a list}: NQ-open, DPR;
                            perhaps with an "_id", "id" or another known name (see `fields`)
                            {"_id", "text", "metadata": {"answers"}}: queries.jsonl of a BEIR folder
                            "answers_are": "regex" in a row marks its answers as regular expressions
.json                       SQuAD: a question that its paragraph does not answer is rejected
.tsv, .csv, .txt            question <tab> list of answers, as JSON or as a Python literal: DPR's files
.csv                        the same with commas, if a header names question and answers

`.gz` and `.xz` are unpacked on the way. A question without an id gets that of its text (`queries.text_id`).
"""

import ast
import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import orjson

from dense_jax.data.sources.fields import ANSWERS, QUERY_IDS, QUESTION_TEXTS, as_id, first_known, value_of
from dense_jax.data.sources.lines import form, has_surrogate
from dense_jax.data.sources.queries import one_text_per_id, query_text, text_id
from dense_jax.data.sources.readers import Record, csv_header, csv_records, tsv_records
from dense_jax.data.sources.rejects import RowError, each, sound
from dense_jax.data.sources.source_files import holds_squad, table_records
from dense_jax.data.sources.squad import squad_answers
from dense_jax.errors import DataError
from dense_jax.io import AnyPath
from dense_jax.types import Reject

_LONGEST = 1 << 24  # bytes of a line: DPR's training rows hold a hundred passages
_TABLES = (".tsv", ".csv", ".txt")


class OpenQuestion(NamedTuple):
    """A question and all its answers."""

    id: str
    text: str
    answers: tuple[str, ...]  # one at least, none empty, each once
    patterns: bool = False  # the answers are regular expressions


def open_questions(path: AnyPath, patterns: bool = False) -> Iterator[OpenQuestion | Reject]:
    """The questions of `path` in its order; with `patterns`, all answers are regular expressions (CuratedTREC).

    A question may be repeated; an id with another text than before is a bad row.

    Raises:
        DataError: the form of the file is unknown, or it cannot be read.
    """

    def question(record: Record) -> OpenQuestion:
        return _question(record.values, patterns)

    return each(_records(path), one_text_per_id(question, "question"), path)


def sound_questions(path: AnyPath, patterns: bool = False) -> list[OpenQuestion]:
    """All questions of `path`, every row of which must be usable.

    Raises:
        DataError: a row is bad (with file and line), or the file holds no question.
    """
    questions = list(sound(open_questions(path, patterns)))
    if not questions:
        raise DataError(f"{path}: holds no question")
    return questions


def is_squad_file(path: AnyPath) -> bool:
    """True if the questions of `path` are SQuAD's, which has its own way to compare answers."""
    return form(path) not in _TABLES and holds_squad(path, _LONGEST)


def _records(path: AnyPath) -> Iterator[Record | Reject]:
    header = csv_header(path, _LONGEST) if form(path) == ".csv" else []
    if first_known(header, QUESTION_TEXTS) and first_known(header, ANSWERS):
        return each(csv_records(path, _LONGEST), _with_list, path)
    if form(path) in _TABLES:
        return each(tsv_records(path, _LONGEST, ("question", "answers")), _with_list, path)
    return squad_answers(path) if is_squad_file(path) else table_records(path, _LONGEST)()


def _with_list(record: Record) -> Record:
    """`record` of a table, with the list in its cell of answers."""
    cell = value_of(record.values, ANSWERS)
    try:
        value = orjson.loads(cell)
    except orjson.JSONDecodeError:
        value = _literal(cell)
    if not isinstance(value, list):
        raise RowError(f'the answers are {cell!r:.60}, not a list such as ["Paris"]')
    return Record(record.number, record.values | {"answers": value})


def _literal(cell: str) -> Any:
    """The value of a Python literal, which is not executed; None for other text."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a regular expression may hold sequences that Python does not escape
            return ast.literal_eval(cell.strip())
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return None


def _question(values: dict[str, Any], patterns: bool) -> OpenQuestion:
    text = query_text(value_of(values, QUESTION_TEXTS))
    if has_surrogate(text):
        raise RowError("the question holds half of a UTF-16 pair, which no file can store")
    given = value_of(values, QUERY_IDS)
    identifier = text_id(text) if given is None else as_id(given, "the question id")
    return OpenQuestion(identifier, text, _listed_answers(values), patterns or values.get("answers_are") == "regex")


def _listed_answers(values: dict[str, Any]) -> tuple[str, ...]:
    value = value_of(values, ANSWERS)
    if value is None and isinstance(values.get("metadata"), dict):
        value = value_of(values["metadata"], ANSWERS)
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list) or not listed:
        raise RowError(f"no answer: the answers are {value!r:.60}, not a text or a list of at least one")
    for answer in listed:
        if not isinstance(answer, str) or not answer.strip():
            raise RowError(f"one of the answers is {answer!r:.60}, not a text; an empty one would be found everywhere")
    return tuple(dict.fromkeys(listed))
