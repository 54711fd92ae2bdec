"""What a row with named values says, by the names it has.

Tevatron    query_id, query, positive_passages, negative_passages: lists of {docid, title, text, score}
DPR         question, positive_ctxs, hard_negative_ctxs, negative_ctxs: lists of {title, text, passage_id, score}
pairs       query | anchor | question, positive | pos | document | passage | answer, perhaps negative | negatives | neg
            or negative_1, negative_2, ...: a text, an object with one, or a list of them; perhaps query_id
ids         query_id, query_text, positive_document_ids, negative_document_ids: see `query_ids`

A pair's score | scores | label | labels is a list with a number for each positive and negative, or for the negatives
alone: then margins, by how much the positive is above each. A single number is the positive's score, or the margin of
the only negative. With margins the positive has the score 0. A pair labelled 0 has no positive.
"""

import enum
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from dense_jax.contracts import Reject
from dense_jax.data.sources.asked import Asked, Told, checked_score, told
from dense_jax.data.sources.lines import RowError
from dense_jax.data.sources.tables import Record

_QUERY = ("query", "anchor", "question")
_POSITIVE = ("positive", "pos", "document", "passage", "answer")
_NEGATIVE = ("negative", "negatives", "neg")
_NUMBERED = re.compile(r"negative_(\d+)")
_SCORES = ("scores", "score", "labels", "label")


class Form(enum.Enum):
    """What rows hold."""

    TEVATRON = "Tevatron"
    DPR = "DPR"
    DOCUMENTS = "documents"
    PAIRS = "pairs"
    IDS = "ids"
    ANSWERS = "questions and answers"


def form_of(names: Collection[str], text_field: str) -> Form | None:
    """The form of a row with these names, where documents have the field `text_field`; None: none that is known."""
    if "positive_document_ids" in names:
        return Form.IDS
    if "positive_passages" in names:
        return Form.TEVATRON
    if "positive_ctxs" in names:
        return Form.DPR
    if text_field in names:
        return Form.DOCUMENTS
    if is_pairs(names):
        return Form.PAIRS
    return Form.ANSWERS if "question" in names and "answers" in names else None


def is_pairs(names: Collection[str]) -> bool:
    """Whether there is a query and what answers it."""
    return _first(_QUERY, names) is not None and _first(_POSITIVE, names) is not None


def asked_rows(records: Iterable[Record | Reject], form: Form, place: str) -> Iterator[Asked | Reject]:
    """What each record of the file `place` says, in a form that holds texts."""
    parse = {Form.TEVATRON: _tevatron, Form.DPR: _dpr, Form.PAIRS: _pair}[form]
    for record in records:
        if isinstance(record, Reject):
            yield record
            continue
        try:
            yield parse(*record)
        except RowError as error:
            yield Reject(f"{place}:{record.number}", str(error))


def _tevatron(number: int, values: Mapping[str, Any]) -> Asked:
    positives = _texts(values, "positive_passages")
    return Asked(number, values.get("query_id"), values.get("query"), positives, _texts(values, "negative_passages"))


def _dpr(number: int, values: Mapping[str, Any]) -> Asked:
    negatives = _texts(values, "hard_negative_ctxs") + _texts(values, "negative_ctxs")
    return Asked(number, None, values.get("question"), _texts(values, "positive_ctxs"), negatives)


def _pair(number: int, values: Mapping[str, Any]) -> Asked:
    query, positive, negative = (_first(names, values) for names in (_QUERY, _POSITIVE, _NEGATIVE))
    if query is None or positive is None:
        raise RowError(f"has no query and positive; it has {', '.join(map(repr, list(values)[:9])) or 'none'}")
    positives = _texts(values, positive)
    negatives = _texts(values, negative) if negative else ()
    numbered = sorted((name for name in values if _NUMBERED.fullmatch(name)), key=lambda name: int(name[9:]))
    negatives += tuple(text for name in numbered for text in _texts(values, name))
    asked = Asked(number, values.get("query_id"), values.get(query), positives, negatives)
    scores = _first(_SCORES, values)
    if scores is None or values[scores] is None:
        return asked
    if scores == "label" and not negatives and checked_score(values[scores], scores) <= 0:
        raise RowError("no positive: the pair is labelled 0; give it as a negative in the row of a positive")
    return _with_scores(asked, values[scores], scores)


def _with_scores(asked: Asked, value: Any, name: str) -> Asked:
    """`asked` with a teacher's scores, one for each text, or margins, one for each negative."""
    count, negatives = len(asked.positives), len(asked.negatives)
    scores = [checked_score(one, name) for one in (value if isinstance(value, list) else [value])]
    if count == 1 and len(scores) == negatives > 0:
        scores = [0.0, *(-margin for margin in scores)]
    if len(scores) != count + negatives:
        raise RowError(f"{name} holds {len(scores)} numbers for {count} positives and {negatives} negatives")
    return asked._replace(
        positives=tuple(one._replace(score=s) for one, s in zip(asked.positives, scores[:count], strict=True)),
        negatives=tuple(one._replace(score=s) for one, s in zip(asked.negatives, scores[count:], strict=True)),
    )


def _texts(values: Mapping[str, Any], name: str) -> tuple[Told, ...]:
    """The texts under `name`: none, one, or a list."""
    value = values.get(name)
    if value is None:
        return ()
    listed = value if isinstance(value, list) else [value]
    return tuple(told(one, f"{name}[{i}]") for i, one in enumerate(listed))


def _first(names: Iterable[str], known: Collection[str]) -> str | None:
    return next((name for name in names if name in known), None)
