"""Files of queries about the documents of a source (`corpus.queries`).

.jsonl, .json, .parquet   rows with the names of Tevatron's form with ids, as `mine` writes it: query_id, query_text,
                          positive_document_ids, negative_document_ids, perhaps positive_scores and negative_scores
.tsv without a header     MS MARCO's triples of ids, `query <tab> positive <tab> negative`, about the queries in the
                          source's folder: queries.SPLIT.tsv, or queries.jsonl
any form with texts       as a source has it (see `source_files`): the ids of its documents are used, not their texts

`fields` has the other names of ids and queries; all others are ignored. This module does not check that the source
has the documents.
"""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from dense_jax.config import CorpusConfig
from dense_jax.data.sources.corpus import Source
from dense_jax.data.sources.fields import QUERY_IDS, QUERY_TEXTS, value_of
from dense_jax.data.sources.judgements import folder_queries, query_rows
from dense_jax.data.sources.lines import form
from dense_jax.data.sources.queries import JudgedQuery, ScoredDocument, checked_id, checked_score, query_text
from dense_jax.data.sources.query_forms import Form
from dense_jax.data.sources.readers import Record, tsv_cells
from dense_jax.data.sources.rejects import RowError
from dense_jax.data.sources.source_files import holds_squad, longest_line, open_path, open_table, tsv_names
from dense_jax.errors import DataError
from dense_jax.io import AnyPath, located
from dense_jax.types import Reject

_TRIPLE = 3


def read_queries(path: AnyPath, source: Source, config: CorpusConfig) -> Iterator[JudgedQuery | Reject]:
    """The queries in `path` about documents of `source`; ids lose the prefix of `source` where they have it.

    Raises:
        DataError: the form of `path` is unknown, or it has no queries.
    """
    for query in _read(path, source, config):
        yield query if isinstance(query, Reject) or not source.prefix else _without(source.prefix, query)


def _read(path: AnyPath, source: Source, config: CorpusConfig) -> Iterator[JudgedQuery | Reject]:
    longest = longest_line(config)
    if form(path) == ".tsv":
        if not tsv_names(path, longest):
            return _triples(path, source, config)
    elif not holds_squad(path, longest) and (table := open_table(path, config)).form is Form.IDS:
        return _id_rows(table.records(), str(path))
    contents = open_path(path, config, asked=True)
    if contents.judged is None:
        raise DataError(
            f"corpus.queries: {path} holds documents but no queries; name files with query_id, query_text and "
            "positive_document_ids, triples of ids, or queries with texts (Tevatron, DPR, SQuAD, pairs and tuples)"
        )
    return contents.judged()


def _id_rows(records: Iterable[Record | Reject], place: str) -> Iterator[JudgedQuery | Reject]:
    texts: dict[str, str] = {}
    for record in records:
        if isinstance(record, Reject):
            yield record
            continue
        try:
            query = _id_row(record.values)
            if texts.setdefault(query.id, query.text) != query.text:
                raise RowError(f"query id {query.id!r} has another text than in an earlier row")
            yield query
        except RowError as error:
            yield Reject(f"{place}:{record.number}", str(error))


def _id_row(values: Mapping[str, Any]) -> JudgedQuery:
    text = query_text(value_of(values, QUERY_TEXTS))
    identifier = checked_id(value_of(values, QUERY_IDS), "query id")
    positives, negatives = (_scored(values, side) for side in ("positive", "negative"))
    if not positives:
        raise RowError("no positive: positive_document_ids is empty")
    return JudgedQuery(identifier, text, positives, negatives)


def _scored(values: Mapping[str, Any], side: str) -> tuple[ScoredDocument, ...]:
    """The documents of one side, with their scores if there are any."""
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
        ScoredDocument(checked_id(one, f"document id in {name}"), checked_score(score, scores_name))
        for one, score in zip(ids, scores, strict=True)
    )


def _triples(path: AnyPath, source: Source, config: CorpusConfig) -> Iterator[JudgedQuery | Reject]:
    """A query for each triple of ids."""
    folder = located(source.config.source)
    if not folder.is_dir():
        raise DataError(
            f"corpus.queries: {path} has no header, so it holds triples of ids, and corpus.source={folder} is no "
            f"folder with the texts of their queries in queries.{config.split}.tsv; name such a folder, or another form"
        )
    queries = folder_queries(folder, config.split)
    texts: dict[str, str] = {}
    for row in query_rows(queries):
        if isinstance(row, Reject):
            yield row
        else:
            texts[row.id] = row.text
    for row in tsv_cells(path, longest_line(config)):
        if isinstance(row, Reject):
            yield row
            continue
        number, cells = row
        where, cells = f"{path}:{number}", [cell.strip() for cell in cells]
        if len(cells) != _TRIPLE or not all(cells):
            yield Reject(where, f"{cells!r:.200} are not three ids: query, positive and negative, with tabs between")
        elif cells[0] not in texts:
            yield Reject(where, f"query {cells[0]!r} has no usable row in {queries.name}")
        else:
            yield JudgedQuery(cells[0], texts[cells[0]], (ScoredDocument(cells[1]),), (ScoredDocument(cells[2]),))


def _without(prefix: str, query: JudgedQuery) -> JudgedQuery:
    """`query` by the ids of the source itself."""
    positives, negatives = (
        tuple(document._replace(id=document.id.removeprefix(prefix)) for document in side)
        for side in (query.positives, query.negatives)
    )
    return JudgedQuery(query.id.removeprefix(prefix), query.text, positives, negatives)
