"""SQuAD (v1.1, v2) as retrieval: each distinct paragraph is a document and the positive of its questions.

Titles are those of Wikipedia's addresses (`Saint_Barth%C3%A9lemy`), decoded. A question of v2 that its paragraph does
not answer has no positive: it is rejected.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, TypeVar
from urllib.parse import unquote

from dense_jax.data.sources.documents import DocumentRow, unique_documents
from dense_jax.data.sources.queries import (
    JudgedQuery,
    QueryRow,
    ScoredText,
    judged_query,
    one_text_per_id,
    scored_text,
)
from dense_jax.data.sources.readers import Record, whole_json
from dense_jax.data.sources.rejects import RowError, each
from dense_jax.io import AnyPath
from dense_jax.types import Reject

T = TypeVar("T")


class _Paragraph(NamedTuple):
    number: int  # in the file, from 1
    title: str
    value: Any


class _Question(NamedTuple):
    number: int  # in the file, from 1
    value: Any
    paragraph: int
    document: ScoredText


def is_squad(value: Any) -> bool:
    """True for the value of a SQuAD file: an object whose `data` is a list of articles with paragraphs."""
    articles = value.get("data") if isinstance(value, dict) else None
    return isinstance(articles, list) and all(
        isinstance(one, dict) and isinstance(one.get("paragraphs"), list) for one in articles
    )


def squad_documents(path: AnyPath) -> Iterator[DocumentRow | Reject]:
    """The distinct paragraphs, numbered as in the file."""

    def row(paragraph: _Paragraph) -> DocumentRow:
        document = _document(paragraph)
        return DocumentRow(paragraph.number, document.id, document.title, document.text)

    return unique_documents(each(_paragraphs(path), row, path), path)


def squad_queries(path: AnyPath) -> Iterator[JudgedQuery | Reject]:
    """The questions, numbered as in the file; reasons also name a question's id and the number of its paragraph."""

    def query(question: _Question) -> JudgedQuery:
        value = question.value
        return judged_query(QueryRow(question.number, value.get("id"), value.get("question"), (question.document,), ()))

    return _each_question(path, one_text_per_id(query, "question"))


def squad_answers(path: AnyPath) -> Iterator[Record | Reject]:
    """`id`, `question` and `answers`, their texts, of each question, numbered as in the file."""

    def answered(question: _Question) -> Record:
        value = question.value
        answers = [one.get("text") for one in value.get("answers") or () if isinstance(one, dict)]
        return Record(question.number, {"id": value.get("id"), "question": value.get("question"), "answers": answers})

    return _each_question(path, answered)


def _each_question(path: AnyPath, parse: Callable[[_Question], T]) -> Iterator[T | Reject]:
    """Parse the questions that their paragraph answers; the others become Rejects, as questions with a RowError do."""

    def parsed(question: _Question) -> T:
        try:
            if not isinstance(question.value, dict):
                raise RowError(f"the question is {question.value!r:.60}, not an object")
            if question.value.get("is_impossible"):
                raise RowError("the question is impossible: its paragraph does not answer it, so it has no positive")
            return parse(question)
        except RowError as error:
            identifier = question.value.get("id") if isinstance(question.value, dict) else None
            raise RowError(f"{error} (id {identifier!r:.60}, paragraph {question.paragraph})") from None

    return each(_questions(path), parsed, path)


def _questions(path: AnyPath) -> Iterator[_Question | Reject]:
    number = 0
    documents = each(_paragraphs(path), lambda paragraph: (paragraph, _document(paragraph)), path)
    for found in documents:
        if isinstance(found, Reject):
            yield found
            continue
        paragraph, document = found
        for value in paragraph.value.get("qas", []):
            number += 1
            yield _Question(number, value, paragraph.number, document)


def _paragraphs(path: AnyPath) -> Iterator[_Paragraph]:
    number = 0
    for article in whole_json(path)["data"]:
        title = unquote(str(article.get("title") or "")).replace("_", " ")
        for paragraph in article["paragraphs"]:
            number += 1
            yield _Paragraph(number, title, paragraph)


def _document(paragraph: _Paragraph) -> ScoredText:
    value = paragraph.value
    if not isinstance(value, dict) or not isinstance(value.get("qas", []), list):
        raise RowError(f"the paragraph is {value!r:.60}, not an object with context and qas")
    return scored_text({"title": paragraph.title, "text": value.get("context")}, "the paragraph")
