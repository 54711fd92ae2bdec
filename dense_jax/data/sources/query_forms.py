"""Forms of rows with queries, by the names of their fields.

Tevatron    query_id, query, positive_passages, negative_passages: lists of {docid, title, text, score}
DPR         question, positive_ctxs, hard_negative_ctxs, negative_ctxs: lists of {title, text, passage_id, score}
pairs       query | question | anchor, positive | pos | document | passage | answer, perhaps negative | negatives | neg
            or negative_1, negative_2, ...: a text, an object with one, or a list of them; perhaps query_id
ids         query_id, query_text, positive_document_ids, negative_document_ids, perhaps positive_scores and
            negative_scores: as `mine` writes them

Ids, titles, texts and queries may have the other names in `fields`.

A pair's score | scores | label | labels is a list with a number for each positive and negative, or for the negatives
alone: then margins, the positive's score minus each negative's. A single number is the positive's score, or the margin
of the only negative. From margins, the positive gets score 0 and each negative minus its
margin. A pair labelled 0 has no positive.
"""

import enum
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Any

from dense_jax.config import CorpusConfig
from dense_jax.data.sources.fields import (
    NEGATIVES,
    POSITIVES,
    QUERY_IDS,
    QUERY_TEXTS,
    SCORES,
    as_id,
    first_known,
    is_known,
    listed,
    text_field,
    value_of,
)
from dense_jax.data.sources.queries import (
    JudgedQuery,
    QueryRow,
    ScoredDocument,
    ScoredText,
    checked_score,
    one_text_per_id,
    query_text,
    scored_text,
)
from dense_jax.data.sources.readers import Record, Records
from dense_jax.data.sources.rejects import RowError, each
from dense_jax.types import Reject

_NUMBERED = re.compile(r"negative_(\d+)", re.IGNORECASE)


class Form(enum.Enum):
    """The content of a file's rows."""

    TEVATRON = "Tevatron"
    DPR = "DPR"
    DOCUMENTS = "documents"
    PAIRS = "pairs"
    IDS = "ids"
    ANSWERS = "questions and answers"


def form_of(names: Collection[str], config: CorpusConfig) -> Form | None:
    """The form of a row with `names`, None if it is unknown; other known text fields are tried last."""
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
    """True if `names` are those of a query and of a positive."""
    return first_known(names, QUERY_TEXTS) is not None and first_known(names, POSITIVES) is not None


def query_row_reader(records: Records, form: Form, place: object) -> Callable[[], Iterator[QueryRow | Reject]]:
    """A function that reads the rows of the file `place`, in a form that holds texts."""
    parse = {Form.TEVATRON: _tevatron, Form.DPR: _dpr, Form.PAIRS: _pair}[form]
    return lambda: each(records(), parse, place)


def queries_by_id(records: Records, place: object) -> Iterator[JudgedQuery | Reject]:
    """The queries of the file `place`, which names documents by their ids."""
    return each(records(), one_text_per_id(_query_by_id, "query"), place)


def _query_by_id(record: Record) -> JudgedQuery:
    values = record.values
    text = query_text(value_of(values, QUERY_TEXTS))
    identifier = as_id(value_of(values, QUERY_IDS), "the query id")
    positives, negatives = (_scored_documents(values, side) for side in ("positive", "negative"))
    if not positives:
        raise RowError("no positive: positive_document_ids is empty")
    return JudgedQuery(identifier, text, positives, negatives)


def _scored_documents(values: Mapping[str, Any], side: str) -> tuple[ScoredDocument, ...]:
    """The positive or negative documents, with their scores if the row has any."""
    name, scores_name = f"{side}_document_ids", f"{side}_scores"
    ids = values.get(name)
    ids = [] if ids is None else ids
    scores = values.get(scores_name)
    scores = [None] * len(ids) if scores is None and isinstance(ids, list) else scores
    if not isinstance(ids, list) or not isinstance(scores, list):
        raise RowError(f"{name} or {scores_name} is not a list but {ids!r:.60} and {scores!r:.60}")
    if len(ids) != len(scores):
        raise RowError(f"{scores_name} holds {len(scores)} numbers for {len(ids)} documents")
    return tuple(
        ScoredDocument(as_id(one, f"the document id in {name}"), checked_score(score, scores_name))
        for one, score in zip(ids, scores, strict=True)
    )


def _tevatron(record: Record) -> QueryRow:
    return _query_row(record, _scored_texts(record, "positive_passages"), _scored_texts(record, "negative_passages"))


def _dpr(record: Record) -> QueryRow:
    negatives = _scored_texts(record, "hard_negative_ctxs") + _scored_texts(record, "negative_ctxs")
    return _query_row(record, _scored_texts(record, "positive_ctxs"), negatives)


def _pair(record: Record) -> QueryRow:
    values = record.values
    if not is_pairs(values):
        raise RowError(f"has no query and positive; it has {listed(values)}")
    negative_names = [first_known(values, NEGATIVES), *_numbered_negatives(values)]
    negatives = tuple(text for name in negative_names if name for text in _scored_texts(record, name))
    row = _query_row(record, _scored_texts(record, first_known(values, POSITIVES) or ""), negatives)
    scores = first_known(values, SCORES)
    if scores is None or values[scores] is None:
        return row
    if is_known(scores, ("label",)) and not negatives and checked_score(values[scores], scores) <= 0:
        raise RowError("no positive: the pair is labelled 0; give it as a negative in the row of a positive")
    return _with_scores(row, values[scores], scores)


def _query_row(record: Record, positives: tuple[ScoredText, ...], negatives: tuple[ScoredText, ...]) -> QueryRow:
    values = record.values
    return QueryRow(record.number, value_of(values, QUERY_IDS), value_of(values, QUERY_TEXTS), positives, negatives)


def _numbered_negatives(names: Collection[str]) -> list[str]:
    """The names negative_1, negative_2, ... among `names` in the order of their numbers."""
    found = {name: int(match[1]) for name in names if (match := _NUMBERED.fullmatch(name))}
    return sorted(found, key=found.__getitem__)


def _with_scores(row: QueryRow, value: Any, name: str) -> QueryRow:
    """`row` with a teacher's scores, one for each text, or margins, one for each negative."""
    count, negatives = len(row.positives), len(row.negatives)
    scores = [checked_score(one, name) for one in (value if isinstance(value, list) else [value])]
    if count == 1 and len(scores) == negatives > 0:
        scores = [0.0, *(-margin for margin in scores)]
    if len(scores) != count + negatives:
        raise RowError(f"{name} holds {len(scores)} numbers for {count} positives and {negatives} negatives")
    return row._replace(
        positives=tuple(one._replace(score=s) for one, s in zip(row.positives, scores[:count], strict=True)),
        negatives=tuple(one._replace(score=s) for one, s in zip(row.negatives, scores[count:], strict=True)),
    )


def _scored_texts(record: Record, name: str) -> tuple[ScoredText, ...]:
    """The texts under `name`: a list, a single one, or no text if the value is null or blank."""
    value = record.values.get(name)
    if value is None or (isinstance(value, str) and not value.strip()):
        return ()
    values = value if isinstance(value, list) else [value]
    return tuple(scored_text(one, f"{name}[{i}]") for i, one in enumerate(values))
