"""A corpus with queries -> a store of its documents, whole, and stores of training queries about them.

ROOT/documents                 every document as one passage
ROOT/queries-SPLIT...          the queries, of several kinds: shares, and rounds of mining
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from dense_jax.arrays import Int
from dense_jax.artifact import check_settings, claim, is_finished, read_claim
from dense_jax.config import Config, CorpusConfig
from dense_jax.data.dedup import RowOfId, first_of_each_text
from dense_jax.data.preparation.entries import DOCUMENT_LENGTH, whole_documents
from dense_jax.data.preparation.fill import AGAIN, check_unchanged, fill_store
from dense_jax.data.sources.corpus import CheckedCorpus, Source, read_queries
from dense_jax.data.sources.queries import JudgedQuery, ScoredDocument, merge_queries
from dense_jax.data.sources.rejects import advice, causes_of
from dense_jax.data.stores.passage_store import PassageStore, StoreWriter
from dense_jax.data.stores.query_store import QueryStore, StoredQuery, write_queries
from dense_jax.data.tokenizer import Tokenizer
from dense_jax.errors import DataError
from dense_jax.io import AnyPath, digest, write_json
from dense_jax.remote.paths import located
from dense_jax.types import Candidates, Reject

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
        tokenizer = Tokenizer.load(root / "tokenizer")
        _write_judged(folder, _Judged(config.corpus, corpus, documents), documents, tokenizer, settings)
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


@dataclass
class _Judged:
    """The queries of a corpus by rows of its documents, and the rejected ones."""

    config: CorpusConfig
    corpus: CheckedCorpus
    documents: PassageStore
    rejects: list[Reject] = field(default_factory=list)
    unknown: int = 0  # documents that queries name and the corpus lacks
    _by_id: RowOfId = field(default_factory=lambda: RowOfId((), 0))

    def __iter__(self) -> Iterator[tuple[JudgedQuery, Candidates, Candidates]]:
        """Each usable query with its positives and negatives; equal texts are one row, equal queries are one query."""
        same = first_of_each_text(self.documents)
        self._by_id = RowOfId(self.documents.each_id(), len(self.documents))
        for query in _one_for_each_text(merge_queries(self._all())):
            if not self._chosen(query.id):
                continue
            positives = self._rows(query.positives, same, without=frozenset())
            negatives = self._rows(query.negatives, same, without=frozenset(positives))
            if positives:
                yield query, _candidates(positives), _candidates(negatives)
            else:
                names = ", ".join(repr(document.id) for document in query.positives[:3])
                self.rejects.append(Reject(f"query {query.id!r}", f"the corpus has none of its documents: {names}"))

    def _all(self) -> Iterator[JudgedQuery]:
        for source, rows in self._read():
            for row in rows:
                if isinstance(row, Reject):
                    self.rejects.append(row)
                else:
                    yield self._named(source, row)

    def _read(self) -> Iterable[tuple[Source, Iterator[JudgedQuery | Reject]]]:
        if self.config.queries:
            first = self.corpus.sources[0]
            bare = replace(first, prefix="")  # ids stay as `mine` wrote them: shares and guides go by them
            return ((first, read_queries(path, bare, self.config)) for path in _query_files(self.config))
        return ((source, source.queries()) for source in self.corpus.sources)

    def _named(self, source: Source, query: JudgedQuery) -> JudgedQuery:
        """`query` with the ids of the whole corpus, which files about several sources have already."""

        def named(documents: tuple[ScoredDocument, ...]) -> tuple[ScoredDocument, ...]:
            known = (self._by_id.get(one.id) is not None for one in documents)
            return tuple(
                one if is_known else one._replace(id=source.prefix + one.id)
                for one, is_known in zip(documents, known, strict=True)
            )

        if not source.prefix:
            return query
        known = query.id if self.config.queries else source.prefix + query.id
        return JudgedQuery(known, query.text, named(query.positives), named(query.negatives))

    def _rows(
        self, documents: tuple[ScoredDocument, ...], same: Int[np.ndarray, " p"], without: frozenset[int]
    ) -> dict[int, float]:
        rows: dict[int, float] = {}
        for document in documents:
            row = self._by_id.get(document.id)
            self.unknown += row is None
            if row is not None and (first := int(same[row])) not in without:
                rows.setdefault(first, document.score)
        return rows

    def _chosen(self, identifier: str) -> bool:
        """True if the query is in the share; the id alone decides, so a smaller share is part of a larger one."""
        return xxhash.xxh3_64_intdigest(identifier.encode()) < self.config.query_share * 2**64


def _write_judged(
    folder: Path, judged: _Judged, documents: PassageStore, tokenizer: Tokenizer, settings: dict[str, Any]
) -> None:
    found = list(judged)
    _check_rejected(judged, len(found), folder)
    tokens = tokenizer.encode([query.text for query, _, _ in found])
    parts: dict[str, list[StoredQuery]] = {part.name: [] for part in documents.parts()}
    for (query, positives, negatives), ids in zip(found, tokens, strict=True):
        first = int(positives.rows[0])  # `in` of a range compares numpy's integers one by one
        of = next(part.name for part in documents.parts() if first in part.rows)
        parts[of].append(StoredQuery(query.id, query.text, ids, positives, negatives))
    if folder != queries_folder(folder.parent, judged.config):
        raise DataError(f"a file of corpus.queries changed while it was read; {AGAIN}")
    if not judged.config.queries:
        check_unchanged(judged.corpus, settings["queries"]["own"])
    notes = {
        "queries": len(found),
        "positives": sum(len(positives.rows) for _, positives, _ in found),
        "negatives": sum(len(negatives.rows) for _, _, negatives in found),
        "rejected queries": len(judged.rejects),
        "judged documents that the corpus lacks": judged.unknown,
    }
    claim(folder, settings)
    write_queries(folder, parts, notes)


def _check_rejected(judged: _Judged, usable: int, folder: Path) -> None:
    """List the rejected queries in the folder's rejects.json, and refuse too many."""
    rejected, allowed = len(judged.rejects), judged.config.max_rejects
    write_json(folder / "rejects.json", [{"where": one.where, "reason": one.reason} for one in judged.rejects])
    if usable and rejected <= allowed * (rejected + usable):
        return
    shown = "\n".join(f"  {one.where}: {one.reason}" for one in judged.rejects[:_EXAMPLES])
    if not usable:
        raise DataError(f"no query is left to learn from; for example\n{shown}\nall are in {folder / 'rejects.json'}")
    raise DataError(
        f"{rejected:,} of {rejected + usable:,} queries cannot be used (corpus.max_rejects={allowed}); for example\n"
        f"{shown}\nall are in {folder / 'rejects.json'}; {advice(causes_of(judged.rejects), usable)}"
    )


def _one_for_each_text(queries: list[JudgedQuery]) -> list[JudgedQuery]:
    """Queries of equal text as one, under the first one's id: in a batch they would be negatives of each other."""
    first: Mapping[str, str] = {query.text: query.id for query in reversed(queries)}
    return merge_queries(query._replace(id=first[query.text]) for query in queries)


def _candidates(rows: dict[int, float]) -> Candidates:
    return Candidates(np.array(list(rows), np.int32), np.array(list(rows.values()), np.float32))


def _query_files(config: CorpusConfig) -> list[AnyPath]:
    """The files of `corpus.queries`, all of which must exist."""
    paths = [located(name) for name in config.queries]
    if missing := [path for path in paths if not path.is_file()]:
        raise DataError(f"corpus.queries: {missing[0]}: no such file; `dense-jax mine` writes WORKDIR/mined/NAME.jsonl")
    return paths
