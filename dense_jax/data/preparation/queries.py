"""A corpus with queries -> a store of its documents, whole, and stores of training queries about them.

ROOT/documents                 every document as one passage
ROOT/queries-SPLIT...          the queries, of several kinds: shares, and rounds of mining
"""

import contextlib
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

import orjson
import xxhash

from dense_jax.artifact import check_settings, claim, is_finished, read_claim
from dense_jax.config import Config, CorpusConfig
from dense_jax.data.dedup import RowOfId, first_of_each_text
from dense_jax.data.preparation.entries import DOCUMENT_LENGTH, whole_documents
from dense_jax.data.preparation.fill import AGAIN, check_unchanged, fill_store
from dense_jax.data.preparation.merged_queries import MergedQueries
from dense_jax.data.preparation.scan import REJECTS
from dense_jax.data.sources.corpus import CheckedCorpus, Source, read_queries
from dense_jax.data.sources.queries import JudgedQuery, ScoredDocument
from dense_jax.data.sources.rejects import advice, likely_cause
from dense_jax.data.stores.passage_store import PassageStore, StoreWriter
from dense_jax.data.stores.query_store import QueryStore, QueryWriter
from dense_jax.data.tokenizer import Tokenizer
from dense_jax.errors import DataError
from dense_jax.io import AnyPath, digest, whole_file
from dense_jax.remote.paths import located
from dense_jax.terminal.progress import progress
from dense_jax.types import Reject

_EXAMPLES = 5  # queries shown in an error


def queries_folder(root: Path, config: CorpusConfig) -> Path:
    """The folder of the queries of `config`, such as queries-train-10-percent."""
    share = f"-{100 * config.query_share:g}-percent" if config.query_share < 1 else ""
    named = "".join(digest(path) for path in _query_files(config))
    files = f"-{xxhash.xxh3_64_hexdigest(named.encode())[:8]}" if named else ""
    return root / f"queries-{config.split}{share}{files}"


def open_queries(root: Path, config: CorpusConfig) -> QueryStore:
    """The prepared queries.

    Raises:
        StorageError: the folder is unfinished, or a file is missing or damaged.
    """
    return QueryStore(queries_folder(root, config), PassageStore(root / "documents"), config.guide)


def prepare_queries(config: Config, corpus: CheckedCorpus, root: Path, about: dict[str, Any]) -> dict[str, Any]:
    """Fill ROOT/documents and the queries' folder; return counts. `about` holds settings and counts of the text.

    Raises:
        ConfigError: the queries were prepared with other settings.
        DataError: more queries are unusable than corpus.max_rejects allows, or all are.
    """
    documents = _prepare_documents(config, corpus, root, about)
    chosen, folder = config.corpus, queries_folder(root, config.corpus)
    own = None if chosen.queries else corpus.fingerprint()
    settings_of_queries = {"own": own, "split": chosen.split, "share": chosen.query_share}
    settings = {**about["settings"], "queries": settings_of_queries, "documents": documents.fingerprint}
    check_settings(folder, settings)
    if not is_finished(folder):
        _write_queries(folder, config, corpus, documents, settings)
    store = QueryStore(folder, documents)
    return {"documents": len(documents), **store.manifest["notes"], "folder": str(folder)}


def _prepare_documents(config: Config, corpus: CheckedCorpus, root: Path, about: dict[str, Any]) -> PassageStore:
    folder = root / "documents"
    settings = {**about["settings"], "length": DOCUMENT_LENGTH}
    check_settings(folder, settings)
    if not read_claim(folder):
        claim(folder, settings, about["notes"])
    if not is_finished(folder):
        tokenizer = Tokenizer.load(root / "tokenizer")
        writer = StoreWriter(folder, config.passages.shard_size, tokenizer.size)
        arrange = partial(whole_documents, tokenizer=tokenizer, length=DOCUMENT_LENGTH)
        fill_store(writer, corpus, arrange, config.prepare)
    return PassageStore(folder)


@dataclass(frozen=True)
class _QueryRows:
    """The rows of queries of a corpus, or of files about it, with the ids of the whole corpus."""

    config: CorpusConfig
    corpus: CheckedCorpus
    documents: RowOfId

    def __iter__(self) -> Iterator[JudgedQuery | Reject]:
        for source, rows in self._read():
            for row in rows:
                yield self._named(source, row) if source.prefix and isinstance(row, JudgedQuery) else row

    def _read(self) -> Iterable[tuple[Source, Iterator[JudgedQuery | Reject]]]:
        if self.config.queries:
            first = self.corpus.sources[0]
            bare = replace(first, prefix="")  # ids stay as `mine` wrote them: shares and guides go by them
            return ((first, read_queries(path, bare, self.config)) for path in _query_files(self.config))
        return ((source, source.queries()) for source in self.corpus.sources)

    def _named(self, source: Source, query: JudgedQuery) -> JudgedQuery:
        """`query` with the ids of the whole corpus, which files about several sources have already."""

        def named(documents: tuple[ScoredDocument, ...]) -> tuple[ScoredDocument, ...]:
            known = (self.documents.get(one.id) is not None for one in documents)
            return tuple(
                one if is_known else one._replace(id=source.prefix + one.id)
                for one, is_known in zip(documents, known, strict=True)
            )

        known = query.id if self.config.queries else source.prefix + query.id
        return JudgedQuery(known, query.text, named(query.positives), named(query.negatives))


def _write_queries(
    folder: Path, config: Config, corpus: CheckedCorpus, documents: PassageStore, settings: dict[str, Any]
) -> None:
    chosen = config.corpus
    same, by_id = first_of_each_text(documents), RowOfId(documents.each_id(), len(documents))

    def row_of(identifier: str) -> int | None:
        row = by_id.get(identifier)
        return None if row is None else int(same[row])

    with _listing_rejects(folder) as rejects:
        rows = _QueryRows(chosen, corpus, by_id)
        queries = MergedQueries(lambda: rows, row_of, lambda identifier: _in_share(identifier, chosen), rejects.add)
    _check_rejected(rejects, len(queries), folder, chosen.max_rejects)
    claim(folder, settings)
    writer = QueryWriter(
        folder, documents.parts(), config.passages.shard_size, Tokenizer.load(folder.parent / "tokenizer").encode
    )
    positives = negatives = 0
    for query in progress(queries, "write queries", len(queries), "queries"):
        writer.add(query)
        positives, negatives = positives + len(query.positives.rows), negatives + len(query.negatives.rows)
    _check_queries_unchanged(folder, chosen, corpus, settings)
    notes = {"queries": len(queries), "positives": positives, "negatives": negatives}
    notes |= {"rejected queries": rejects.count, "judged documents that the corpus lacks": queries.unknown}
    writer.finish(notes)


def _check_queries_unchanged(
    folder: Path, config: CorpusConfig, corpus: CheckedCorpus, settings: dict[str, Any]
) -> None:
    """
    Raises:
        DataError: the queries changed while they were read; `folder` is removed.
    """
    try:
        if folder != queries_folder(folder.parent, config):
            raise DataError(f"a file of corpus.queries changed while it was read; {AGAIN}")
        if not config.queries:
            check_unchanged(corpus, settings["queries"]["own"])
    except DataError:
        shutil.rmtree(folder)
        raise


@dataclass
class _Rejects:
    """Rejected queries, listed in a file."""

    file: BinaryIO
    causes: Counter[str] = field(default_factory=Counter)
    first: list[Reject] = field(default_factory=list)

    @property
    def count(self) -> int:
        return self.causes.total()

    def add(self, one: Reject) -> None:
        self.file.write(orjson.dumps({"where": one.where, "reason": one.reason}) + b"\n")
        self.causes[likely_cause(one.reason)] += 1
        self.first += [one] if self.count <= _EXAMPLES else []


@contextlib.contextmanager
def _listing_rejects(folder: Path) -> Iterator[_Rejects]:
    """List rejected queries in the folder's rejects.jsonl."""
    with whole_file(folder / REJECTS) as partial, partial.open("wb") as file:
        yield _Rejects(file)


def _check_rejected(rejects: _Rejects, usable: int, folder: Path, allowed: float) -> None:
    """
    Raises:
        DataError: more queries than `allowed`, a share of all, are rejected, or none is usable.
    """
    if usable and rejects.count <= allowed * (rejects.count + usable):
        return
    shown = "\n".join(f"  {one.where}: {one.reason}" for one in rejects.first)
    if not usable:
        raise DataError(f"no query is left to learn from; for example\n{shown}\nall are in {folder / REJECTS}")
    raise DataError(
        f"{rejects.count:,} of {rejects.count + usable:,} queries cannot be used (corpus.max_rejects={allowed}); for "
        f"example\n{shown}\nall are in {folder / REJECTS}; {advice(rejects.causes, usable)}"
    )


def _in_share(identifier: str, config: CorpusConfig) -> bool:
    """True if the query is in the share; the id alone decides, so a smaller share is part of a larger one."""
    return xxhash.xxh3_64_intdigest(identifier.encode()) < config.query_share * 2**64


def _query_files(config: CorpusConfig) -> list[AnyPath]:
    """The files of `corpus.queries`, all of which must exist."""
    paths = [located(name) for name in config.queries]
    if missing := [path for path in paths if not path.is_file()]:
        raise DataError(f"corpus.queries: {missing[0]}: no such file; `dense-jax mine` writes WORKDIR/mined/NAME.jsonl")
    return paths
