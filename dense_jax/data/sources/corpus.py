"""Corpora: the documents of one or more sources. A row that is not a document becomes a `Reject` with its line."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

from dense_jax.config import CorpusConfig
from dense_jax.data.sources.demo_corpus import installed_rows, installed_versions
from dense_jax.data.sources.document_files import Contents, tfds_documents
from dense_jax.data.sources.documents import DocumentRow, checked_document
from dense_jax.data.sources.queries import JudgedQuery
from dense_jax.data.sources.rejects import RowError
from dense_jax.data.sources.source_files import FORMS, open_path
from dense_jax.errors import ConfigError, DataError, require
from dense_jax.io import located
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
        first_seen: dict[str, int] = {}
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

    def _document(self, row: DocumentRow, first_seen: dict[str, int]) -> Document | Reject:
        place = self.contents.place
        try:
            document = checked_document(row, self.config.max_characters)
            if (first := first_seen.setdefault(document.id, row.number)) != row.number:
                raise RowError(f"has the id {document.id!r} of {place}:{first}")
        except RowError as error:
            return error.reject(row.where or f"{place}:{row.number}")
        return replace(document, id=self.prefix + document.id)


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
