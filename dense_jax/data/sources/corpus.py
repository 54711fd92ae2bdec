"""Corpora: the documents of one or more sources, and the queries about them, in the source itself or in files.

A row that cannot be used becomes a `Reject` with its line. Files of queries (`corpus.queries`) are

.jsonl, .json, .parquet   rows with the ids of documents (see `query_forms`), as `mine` writes them
.tsv without a header     MS MARCO's triples of ids, `query <tab> positive <tab> negative`, about the queries in the
                          source's folder: queries.SPLIT.tsv, or queries.jsonl
any form with texts       as a source has it (see `source_files`): the ids of its documents are used, not their texts

Whether the source has these documents is checked later.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from dense_jax.config import CorpusConfig
from dense_jax.data.first_values import FirstValues
from dense_jax.data.sources.demo_corpus import installed_rows, installed_versions
from dense_jax.data.sources.document_files import Contents, tfds_documents
from dense_jax.data.sources.documents import DocumentRow, checked_document
from dense_jax.data.sources.judgements import folder_queries, query_rows
from dense_jax.data.sources.lines import form
from dense_jax.data.sources.queries import JudgedQuery, ScoredDocument
from dense_jax.data.sources.query_forms import Form, queries_by_id
from dense_jax.data.sources.readers import Cells, tsv_cells
from dense_jax.data.sources.rejects import RowError, each
from dense_jax.data.sources.source_files import (
    FORMS,
    holds_squad,
    longest_line,
    open_path,
    open_table,
    tsv_has_pairs,
)
from dense_jax.errors import ConfigError, DataError, require
from dense_jax.io import AnyPath
from dense_jax.remote.paths import located
from dense_jax.types import Document, Reject

INSTALLED = "installed"
_TFDS = "tfds:"
_WHITE_SPACE = re.compile(r"\s+")


@dataclass(frozen=True)
class Source:
    """A `Corpus` of the rows of one source."""

    name: str  # independent of the path of the source
    contents: Contents
    config: CorpusConfig
    prefix: str = ""  # of the ids of its documents
    left_out: frozenset[str] = frozenset()  # ids of documents that count as read, and are not given

    def __iter__(self) -> Iterator[Document | Reject]:
        """
        Raises:
            DataError: the source has no row.
        """
        first_seen = FirstValues()
        found = rejected = 0
        for row in self.contents.rows():
            result = row if isinstance(row, Reject) else self._document(row, first_seen)
            found += isinstance(result, Document)
            rejected += isinstance(result, Reject)
            if isinstance(result, Reject) or result.id not in self.left_out:
                yield result
            if found == self.config.limit > 0:
                return
        if not found + rejected:
            raise DataError(f"corpus source {self.config.source}: holds no document; name {FORMS}")

    def queries(self) -> Iterator[JudgedQuery | Reject]:
        """The source's own training queries, about its documents by their ids without the prefix.

        Raises:
            DataError: the source has no queries.
        """
        if self.contents.judged is None:
            raise DataError(
                f"corpus source {self.config.source}: has documents but no training queries; name files of queries "
                "about them in corpus.queries, or as source a BEIR or MS MARCO folder, or a file of queries with texts "
                "(Tevatron, DPR, SQuAD, pairs and tuples)"
            )
        return self.contents.judged()

    def fingerprint(self) -> dict[str, Any]:
        """The identity of the source's content, independent of its path, as JSON values."""
        return {"name": self.name, **self.contents.identify()}

    def _document(self, row: DocumentRow, first_seen: FirstValues) -> Document | Reject:
        place = self.contents.place
        try:
            document = checked_document(row, self.config.max_characters)
            first = row.number if self.contents.distinct else first_seen.setdefault(document.id, row.number)
            if first != row.number:
                raise RowError(f"has the id {document.id!r} of {place}:{first}")
        except RowError as error:
            return error.reject(row.where or f"{place}:{row.number}")
        return replace(document, id=self.prefix + document.id) if self.prefix else document


@dataclass(frozen=True)
class CheckedCorpus:
    """A `Corpus` of all rows of its sources, one source after the other."""

    sources: tuple[Source, ...]

    @property
    def name(self) -> str:
        return ", ".join(source.name for source in self.sources)

    def __iter__(self) -> Iterator[Document | Reject]:
        return chain.from_iterable(self.sources)

    def fingerprint(self) -> dict[str, Any]:
        """The identity of the content, independent of its path, as JSON values."""
        first, *others = (source.fingerprint() for source in self.sources)
        return first | ({"also": {str(i): other for i, other in enumerate(others, start=1)}} if others else {})

    @property
    def left_out(self) -> frozenset[str]:
        """Ids of the documents that are read and left out."""
        return self.sources[0].left_out

    def without(self, ids: frozenset[str]) -> "CheckedCorpus":
        """The same corpus without some of its documents."""
        return CheckedCorpus(tuple(replace(source, left_out=ids) for source in self.sources))


def open_corpus(config: CorpusConfig, *, with_queries: bool = False) -> CheckedCorpus:
    """The corpus of `config.source` and `config.also`, with its training queries or its documents only.

    With queries, unless `config.queries` names their files, a TSV file without a header holds them, and the fingerprint
    of a folder depends on them. If the corpus has several sources, the ids of documents begin with the name of theirs:
    `news.jsonl/17`.

    Raises:
        ConfigError: no source is named, or two have the same name.
        DataError: a file, folder or data set is absent, or its form is unknown.
    """
    own = with_queries and not config.queries
    sources = [_open_source(replace(config, source=source, also=()), own) for source in config.sources]
    if len(sources) == 1:
        return CheckedCorpus(tuple(sources))
    names = [_WHITE_SPACE.sub("_", source.name) for source in sources]
    if twice := [name for i, name in enumerate(names) if name in names[:i]]:
        raise ConfigError(
            f"corpus.source and corpus.also name two sources that are called {twice[0]}; rename one of them, since the "
            "name stands before the ids of its documents"
        )
    return CheckedCorpus(tuple(replace(source, prefix=f"{name}/") for name, source in zip(names, sources, strict=True)))


def read_queries(path: AnyPath, source: Source, config: CorpusConfig) -> Iterator[JudgedQuery | Reject]:
    """The queries in `path` about documents of `source`; the prefix of `source` is removed from ids that have it.

    Raises:
        DataError: the form of `path` is unknown, or it has no queries.
    """
    for query in _rows_of_queries(path, source, config):
        yield query if isinstance(query, Reject) or not source.prefix else _without_prefix(query, source.prefix)


def _open_source(config: CorpusConfig, with_queries: bool) -> Source:
    require(
        bool(config.source),
        f"no corpus.source; name your documents by --corpus.source=FILE: {FORMS}",
    )
    if config.source == INSTALLED:
        return Source(INSTALLED, Contents(INSTALLED, _Kept(installed_rows()).all, installed_versions), config)
    if config.source.startswith(_TFDS):
        contents = tfds_documents(config.source.removeprefix(_TFDS), config)
        return Source(str(contents.place), contents, config)
    path = located(config.source)
    if not path.exists():
        raise DataError(f"corpus source {config.source}: no such file or folder; name {FORMS}")
    return Source(path.name, open_path(path, config, with_queries), config)


class _Kept:
    """Rows that take long to find, kept after the first pass."""

    def __init__(self, rows: Iterator[DocumentRow]) -> None:
        self.rows = rows
        self.kept: list[DocumentRow] = []

    def all(self) -> Iterator[DocumentRow]:
        yield from self.kept
        for row in self.rows:
            self.kept.append(row)
            yield row


def _rows_of_queries(path: AnyPath, source: Source, config: CorpusConfig) -> Iterator[JudgedQuery | Reject]:
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
        if len(cells) != 3 or not all(cells):
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
