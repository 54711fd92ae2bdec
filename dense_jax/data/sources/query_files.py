"""Files of queries about the documents of a source (`corpus.queries`).

.jsonl, .json, .parquet   rows with the ids of documents (see `query_forms`), as `mine` writes them
.tsv without a header     MS MARCO's triples of ids, `query <tab> positive <tab> negative`, about the queries in the
                          source's folder: queries.SPLIT.tsv, or queries.jsonl
any form with texts       as a source has it (see `source_files`): the ids of its documents are used, not their texts

Other fields are ignored. This module does not check that the source has the documents.
"""

from collections.abc import Iterator

from dense_jax.config import CorpusConfig
from dense_jax.data.sources.corpus import Source
from dense_jax.data.sources.judgements import folder_queries, query_rows
from dense_jax.data.sources.lines import form
from dense_jax.data.sources.queries import JudgedQuery, ScoredDocument
from dense_jax.data.sources.query_forms import Form, queries_by_id
from dense_jax.data.sources.readers import Cells, tsv_cells
from dense_jax.data.sources.rejects import RowError, each
from dense_jax.data.sources.source_files import holds_squad, longest_line, open_path, open_table, tsv_has_pairs
from dense_jax.errors import DataError
from dense_jax.io import AnyPath, located
from dense_jax.types import Reject

_TRIPLE = 3


def read_queries(path: AnyPath, source: Source, config: CorpusConfig) -> Iterator[JudgedQuery | Reject]:
    """The queries in `path` about documents of `source`; the prefix of `source` is removed from ids that have it.

    Raises:
        DataError: the form of `path` is unknown, or it has no queries.
    """
    for query in _read(path, source, config):
        yield query if isinstance(query, Reject) or not source.prefix else _without_prefix(query, source.prefix)


def _read(path: AnyPath, source: Source, config: CorpusConfig) -> Iterator[JudgedQuery | Reject]:
    longest = longest_line(config)
    if form(path) == ".tsv":
        if not tsv_has_pairs(path, longest):
            return _triples(path, source, config)
    elif not holds_squad(path, longest) and (table := open_table(path, config)).form is Form.IDS:
        return queries_by_id(table.records, path)
    contents = open_path(path, config, with_queries=True)
    if contents.judged is None:
        raise DataError(
            f"corpus.queries: {path} holds documents but no queries; name files with query_id, query_text and "
            "positive_document_ids, triples of ids, or queries with texts (Tevatron, DPR, SQuAD, pairs and tuples)"
        )
    return contents.judged()


def _triples(path: AnyPath, source: Source, config: CorpusConfig) -> Iterator[JudgedQuery | Reject]:
    """A query for each triple of ids, after the rejected rows of the source's queries."""
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

    def query(row: Cells) -> JudgedQuery:
        cells = [cell.strip() for cell in row.values]
        if len(cells) != _TRIPLE or not all(cells):
            raise RowError(f"{cells!r:.200} are not three ids: query, positive and negative, with tabs between")
        identifier, positive, negative = cells
        if identifier not in texts:
            raise RowError(f"query {identifier!r} has no usable row in {queries.name}")
        return JudgedQuery(identifier, texts[identifier], (ScoredDocument(positive),), (ScoredDocument(negative),))

    yield from each(tsv_cells(path, longest_line(config)), query, path)


def _without_prefix(query: JudgedQuery, prefix: str) -> JudgedQuery:
    """`query` with the source's own ids."""
    positives, negatives = (
        tuple(document._replace(id=document.id.removeprefix(prefix)) for document in side)
        for side in (query.positives, query.negatives)
    )
    return JudgedQuery(query.id.removeprefix(prefix), query.text, positives, negatives)
