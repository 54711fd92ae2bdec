"""SQuAD (v1.1, v2) as retrieval: each distinct paragraph is a document and the positive of its questions.

Titles are those of Wikipedia's addresses (`Saint_Barth%C3%A9lemy`), which are spelled out. A question of v2 that its
paragraph does not answer has no positive: it is rejected.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar
from urllib.parse import unquote

from dense_jax.data.sources.documents import DocumentRow
from dense_jax.data.sources.queries import Asked, JudgedQuery, Told, judged_query, told
from dense_jax.data.sources.readers import Record, whole_json
from dense_jax.data.sources.rejects import RowError
from dense_jax.io import AnyPath
from dense_jax.types import Reject

T = TypeVar("T")


class _Paragraph(NamedTuple):
    number: int  # in the file, from 1
    document: Told
    questions: list[Any]


def is_squad(value: Any) -> bool:
    """Whether a JSON file holds SQuAD's form: an object whose `data` is a list of articles with paragraphs."""
    articles = value.get("data") if isinstance(value, dict) else None
    return isinstance(articles, list) and all(
        isinstance(one, dict) and isinstance(one.get("paragraphs"), list) for one in articles
    )


def squad_rows(path: AnyPath) -> Iterator[DocumentRow | Reject]:
    """The distinct paragraphs, numbered as in the file."""
    seen: set[str] = set()
    for paragraph in _paragraphs(path):
        if isinstance(paragraph, Reject):
            yield paragraph
        elif (document := paragraph.document).id not in seen:
            seen.add(document.id)
            yield DocumentRow(paragraph.number, document.id, document.title, document.text)


def squad_queries(path: AnyPath) -> Iterator[JudgedQuery | Reject]:
    """The questions, numbered as in the file; reasons also name a question's id and the number of its paragraph."""
    texts: dict[str, str] = {}

    def query(number: int, question: Any, paragraph: _Paragraph) -> JudgedQuery:
        found = _query(question, paragraph.document)
        if texts.setdefault(found.id, found.text) != found.text:
            raise RowError(f"question id {found.id!r} has another text than in an earlier row")
        return found

    return _of_each_question(path, query)


def squad_answers(path: AnyPath) -> Iterator[Record | Reject]:
    """`id`, `question` and `answers`, their texts, of each question, numbered as in the file."""

    def answered(number: int, question: Any, paragraph: _Paragraph) -> Record:
        _check_answered(question)
        answers = [one.get("text") for one in question.get("answers") or () if isinstance(one, dict)]
        return Record(number, {"id": question.get("id"), "question": question.get("question"), "answers": answers})

    return _of_each_question(path, answered)


def _of_each_question(path: AnyPath, read: Callable[[int, Any, _Paragraph], T]) -> Iterator[T | Reject]:
    """What `read` makes of each question, of its number and paragraph; a RowError of it becomes a Reject."""
    number = 0
    for paragraph in _paragraphs(path):
        if isinstance(paragraph, Reject):
            yield paragraph
            continue
        for question in paragraph.questions:
            number += 1
            try:
                yield read(number, question, paragraph)
            except RowError as error:
                yield Reject(f"{path}:{number}", f"{error} ({_place(question, paragraph)})")


def _check_answered(question: Any) -> None:
    if not isinstance(question, dict):
        raise RowError(f"the question is {question!r:.60}, not an object")
    if question.get("is_impossible"):
        raise RowError("the question is impossible: its paragraph does not answer it, so it has no positive")


def _place(question: Any, paragraph: _Paragraph) -> str:
    identifier = question.get("id") if isinstance(question, dict) else None
    return f"id {identifier!r:.60}, paragraph {paragraph.number}"


def _query(question: Any, paragraph: Told) -> JudgedQuery:
    _check_answered(question)
    return judged_query(Asked(0, question.get("id"), question.get("question"), (paragraph,), ()))


def _paragraphs(path: AnyPath) -> Iterator[_Paragraph | Reject]:
    number = 0
    for article in whole_json(path)["data"]:
        title = unquote(str(article.get("title") or "")).replace("_", " ")
        for paragraph in article["paragraphs"]:
            number += 1
            try:
                yield _paragraph(number, title, paragraph)
            except RowError as error:
                yield Reject(f"{path}:{number}", str(error))


def _paragraph(number: int, title: str, value: Any) -> _Paragraph:
    if not isinstance(value, dict) or not isinstance(value.get("qas", []), list):
        raise RowError(f"the paragraph is {value!r:.60}, not an object with context and qas")
    document = told({"title": title, "text": value.get("context")}, "the paragraph")
    return _Paragraph(number, document, value.get("qas", []))
