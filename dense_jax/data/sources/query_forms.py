"""Forms of rows with named values, by their names.

Tevatron    query_id, query, positive_passages, negative_passages: lists of {docid, title, text, score}
DPR         question, positive_ctxs, hard_negative_ctxs, negative_ctxs: lists of {title, text, passage_id, score}
pairs       query | question | anchor, positive | pos | document | passage | answer, perhaps negative | negatives | neg
            or negative_1, negative_2, ...: a text, an object with one, or a list of them; perhaps query_id
ids         query_id, query_text, positive_document_ids, negative_document_ids: see `query_ids`

Ids, titles, texts and queries may have the other names in `fields`.

A pair's score | scores | label | labels is a list with a number for each positive and negative, or for the negatives
alone: then margins, by how much the positive is above each. A single number is the positive's score, or the margin of
the only negative. With margins the positive has the score 0. A pair labelled 0 has no positive.
"""

import enum
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

from dense_jax.config import CorpusConfig
from dense_jax.data.sources.fields import QUERY_IDS, QUERY_TEXTS, find, listed, text_field, value_of
from dense_jax.data.sources.queries import Asked, Told, checked_score, told
from dense_jax.data.sources.readers import Record
from dense_jax.data.sources.rejects import RowError
from dense_jax.types import Reject

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


def form_of(names: Collection[str], config: CorpusConfig) -> Form | None:
    """The form of a row with these names; None: no known one. The other known names of a text come last."""
    if "positive_document_ids" in names:
        return Form.IDS
    if "positive_passages" in names:
        return Form.TEVATRON
    if "positive_ctxs" in names:
        return Form.DPR
    if config.text_field in names:
        return Form.DOCUMENTS
    if is_pairs(names):
        return Form.PAIRS
    if "question" in names and "answers" in names:
        return Form.ANSWERS
    return Form.DOCUMENTS if text_field(tuple(names), config) else None


def is_pairs(names: Collection[str]) -> bool:
    """Whether there is a query and what answers it."""
    return find(names, QUERY_TEXTS) is not None and find(names, _POSITIVE) is not None


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
    negatives = _texts(values, "negative_passages")
    return Asked(number, value_of(values, QUERY_IDS), value_of(values, QUERY_TEXTS), positives, negatives)


def _dpr(number: int, values: Mapping[str, Any]) -> Asked:
    negatives = _texts(values, "hard_negative_ctxs") + _texts(values, "negative_ctxs")
    positives = _texts(values, "positive_ctxs")
    return Asked(number, value_of(values, QUERY_IDS), value_of(values, QUERY_TEXTS), positives, negatives)


def _pair(number: int, values: Mapping[str, Any]) -> Asked:
    query, positive, negative = (find(values, names) for names in (QUERY_TEXTS, _POSITIVE, _NEGATIVE))
    if query is None or positive is None:
        raise RowError(f"has no query and positive; it has {listed(values)}")
    positives = _texts(values, positive)
    negatives = _texts(values, negative) if negative else ()
    numbered = sorted((name for name in values if _NUMBERED.fullmatch(name)), key=lambda name: int(name[9:]))
    negatives += tuple(text for name in numbered for text in _texts(values, name))
    asked = Asked(number, value_of(values, QUERY_IDS), values.get(query), positives, negatives)
    scores = find(values, _SCORES)
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
    """The texts under `name`: a list of them, one, or no text where the value is null or blank."""
    value = values.get(name)
    if value is None or (isinstance(value, str) and not value.strip()):
        return ()
    listed = value if isinstance(value, list) else [value]
    return tuple(told(one, f"{name}[{i}]") for i, one in enumerate(listed))
