"""Training queries on disk, read by row, their writer, and the documents that they are about.

    FOLDER/claim.json                    written first: the settings that made the rest
           queries-00000.array_record    one record a query: token ids, rows of its documents, a teacher's scores
           texts-00000.array_record      one record a query: id and text as JSON, read only to be shown
           progress.json                 counts of the finished shards, while the writer works
           manifest.json                 written last: claim, notes, counts of the shards, digests

Rows are numbered source by source. A shard has queries of one source, and shards are numbered as they were written.
"""

import bisect
import itertools
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
import orjson
from pydantic import Field
from typing_extensions import TypedDict

from dense_jax.arrays import Int
from dense_jax.artifact import MANIFEST, Manifest, finish, read_manifest
from dense_jax.data.stores.guide import open_guide
from dense_jax.data.stores.passage_store import PassageStore
from dense_jax.data.stores.records import Records, verify_records, write_records
from dense_jax.data.stores.shards import shard_path
from dense_jax.errors import StorageError
from dense_jax.io import Count, Digests, Settings, digest, is_written, read_json, write_json
from dense_jax.types import Candidates, Document, Guide, SourceRows, TrainingQuery, TrainingSet

_PROGRESS = "progress.json"
_NUMBER = np.dtype("<u4")  # of a record: three lengths, token ids, positives, negatives, the bits of their scores
_SCORE = np.dtype("<f4")
_BLOCK = 4_096  # texts held in memory while their ids are read

Tokenise = Callable[[Sequence[str]], Sequence[Int[np.ndarray, " l"]]]


_Number = Annotated[str, Field(pattern=r"^\d{1,9}$")]


class _ShardCounts(TypedDict):
    source: Count  # its number
    queries: Count
    tokens: Count
    longest: Count  # tokens of a query
    negatives: Count


class _QueryCounts(TypedDict):
    """Content of progress.json."""

    shards: list[_ShardCounts]
    positives: dict[_Number, Count]  # number of positives -> queries that have as many
    files: Digests


class _QueryManifest(_QueryCounts, Manifest):
    notes: Settings
    sources: list[str]


class StoredQuery(NamedTuple):
    """Stored content of one query, without its tokens."""

    id: str
    text: str
    positives: Candidates
    negatives: Candidates


class QueryStore(TrainingSet):
    """Queries by row, read from any number of threads and, pickled, from other processes."""

    def __init__(self, folder: Path, documents: PassageStore, guide: str = "") -> None:
        """`guide`: a folder with another model's vectors of queries and documents, written by `mine`.

        Raises:
            StorageError: the folder is unfinished, or a file is missing or damaged.
            DataError: the guide lacks a query or a document.
        """
        self.folder, self.documents = folder, documents
        self.manifest = read_manifest(folder, _QueryManifest, "queries", "prepare")
        verify_records(folder, self.manifest["files"])
        shards = list(enumerate(self.manifest["shards"]))
        shards.sort(key=lambda numbered: numbered[1]["source"])
        counts = [shard["queries"] for _, shard in shards]
        self._queries, self._texts = (
            Records([shard_path(folder, kind, i) for i, _ in shards], counts) for kind in ("queries", "texts")
        )
        self._sources = [
            [shard for _, shard in shards if shard["source"] == i] for i in range(len(self.manifest["sources"]))
        ]
        self._ends = [*itertools.accumulate(sum(shard["queries"] for shard in own) for own in self._sources)]
        if sum(counts) != [0, *self._ends][-1]:
            raise StorageError(
                f"{folder / MANIFEST}: damaged (a shard is of none of its sources); remove {folder} and run `dense-jax "
                "prepare` again"
            )
        self._guide = open_guide(Path(guide), self.ids(), documents.ids()) if guide else None

    def __len__(self) -> int:
        return len(self._queries)

    def sample(self, row: int, epoch: int, rng: np.random.Generator) -> TrainingQuery:
        """Query `row` with all passages that it was judged with."""
        return self.samples([row], epoch)[0]

    def samples(self, rows: Sequence[int], epoch: int) -> list[TrainingQuery]:
        return [
            self._query(int(row), epoch, record) for row, record in zip(rows, self._queries.read(rows), strict=True)
        ]

    def document(self, row: int) -> Document:
        """Return the query's id and text."""
        return self.texts([row])[0]

    def texts(self, rows: Sequence[int]) -> list[Document]:
        """Return id and text of each of `rows`, in their order; one call for many rows is faster."""
        return [Document(**orjson.loads(text)) for text in self._texts.read(rows)]

    def ids(self) -> list[str]:
        """Return the id of each query."""
        blocks = (range(start, min(start + _BLOCK, len(self))) for start in range(0, len(self), _BLOCK))
        return [query.id for rows in blocks for query in self.texts(rows)]

    def positive_counts(self) -> Mapping[int, int]:
        """Return the number of queries for each number of positives."""
        return {int(count): queries for count, queries in self.manifest["positives"].items()}

    @property
    def negative_count(self) -> int:
        """The number of negatives of all queries together."""
        return sum(shard["negatives"] for shard in self.manifest["shards"])

    @property
    def longest(self) -> int:
        """Tokens of the longest query."""
        return max(shard["longest"] for shard in self.manifest["shards"])

    def parts(self) -> Sequence[SourceRows]:
        """Rows of each source; a query belongs to the source of its first positive."""
        starts = [0, *self._ends]
        return [
            SourceRows(name, range(start, end), sum(shard["tokens"] for shard in own))
            for name, own, start, end in zip(self.manifest["sources"], self._sources, starts, self._ends, strict=False)
        ]

    @property
    def fingerprint(self) -> str:
        """Digest of the whole store: its settings, counts and files."""
        return digest(self.folder / MANIFEST)

    def _query(self, row: int, epoch: int, record: bytes) -> TrainingQuery:
        tokens, positives, negatives = decode_query(record)
        guide = None
        if self._guide:
            guide = Guide(np.array(self._guide.queries.values[row]), self._guide.documents.values)
        source = bisect.bisect_right(self._ends, row)
        return TrainingQuery(row, epoch, tokens, positives, negatives, self.documents, guide, source)


class QueryWriter:
    """Writer of a claimed folder, shard by shard; a new one passes over the shards that are finished."""

    def __init__(self, folder: Path, sources: Sequence[SourceRows], shard_size: int, tokenise: Tokenise) -> None:
        """`sources` have the rows of the documents."""
        self.folder, self.sources, self.shard_size, self.tokenise = folder, sources, shard_size, tokenise
        self._waiting: list[list[StoredQuery]] = [[] for _ in sources]
        self._next = 0  # number of the next shard
        fresh: dict[str, Any] = {"shards": [], "positives": {}, "files": {}}
        self._state = read_json(folder / _PROGRESS, _QueryCounts) if is_written(folder / _PROGRESS) else fresh

    def add(self, query: StoredQuery) -> None:
        """Add the next query, to the source of its first positive. After an interruption, all are added again."""
        first = int(query.positives.rows[0])  # `in` of a range compares numpy's integers one by one
        source = next(number for number, source in enumerate(self.sources) if first in source.rows)
        self._waiting[source].append(query)
        if self._is_full(source):
            self._write_shard(source)

    def finish(self, notes: Settings) -> None:
        """Write the last shards and then the manifest, with `notes`."""
        for source, waiting in enumerate(self._waiting):
            if waiting:
                self._write_shard(source)
        counts = {name: self._state[name] for name in ("shards", "positives")}
        names = [source.name for source in self.sources]
        finish(self.folder, {"notes": notes, "sources": names, **counts}, self._state["files"])
        (self.folder / _PROGRESS).unlink(missing_ok=True)

    def _is_full(self, source: int) -> bool:
        """True if the queries that wait are a shard; a finished one has the size that it was written with."""
        done, waiting = self._state["shards"], len(self._waiting[source])
        if self._next >= len(done):
            return waiting >= self.shard_size
        return done[self._next]["source"] == source and waiting == done[self._next]["queries"]

    def _write_shard(self, source: int) -> None:
        queries, number = self._waiting[source], self._next
        self._waiting[source], self._next = [], number + 1
        if number < len(self._state["shards"]):
            return
        tokens = self.tokenise([query.text for query in queries])
        kinds = {
            "queries": (encode_query(ids, query) for ids, query in zip(tokens, queries, strict=True)),
            "texts": (orjson.dumps({"id": query.id, "title": "", "text": query.text}) for query in queries),
        }
        for kind, records in kinds.items():
            path = shard_path(self.folder, kind, number)
            write_records(path, records)
            self._state["files"][path.name] = digest(path)
        for count, found in Counter(str(len(query.positives.rows)) for query in queries).items():
            self._state["positives"][count] = self._state["positives"].get(count, 0) + found
        lengths, negatives = [len(ids) for ids in tokens], sum(len(query.negatives.rows) for query in queries)
        counts = {"queries": len(queries), "tokens": sum(lengths), "longest": max(lengths), "negatives": negatives}
        self._state["shards"].append({"source": source, **counts})
        write_json(self.folder / _PROGRESS, self._state)


def encode_query(tokens: Int[np.ndarray, " l"], query: StoredQuery) -> bytes:
    """Return a record of three lengths, tokens, rows of positives and negatives, and the scores of these rows."""
    sides = (query.positives, query.negatives)
    lengths = [len(tokens), *(len(side.rows) for side in sides)]
    numbers = np.concatenate([lengths, tokens, *(side.rows for side in sides)]).astype(_NUMBER)
    return numbers.tobytes() + np.concatenate([side.scores for side in sides]).astype(_SCORE).tobytes()


def decode_query(record: bytes) -> tuple[Int[np.ndarray, " l"], Candidates, Candidates]:
    """Return tokens, positives and negatives of a record of `encode_query`."""
    numbers = np.frombuffer(record, _NUMBER).astype(np.int32)
    length, positives, negatives = numbers[:3].tolist()
    first, end = 3 + length, 3 + length + positives + negatives
    rows, scores = numbers[first:end], np.frombuffer(record, _SCORE)[end:].astype(np.float32)
    positive, negative = slice(positives), slice(positives, None)
    return numbers[3:first], Candidates(rows[positive], scores[positive]), Candidates(rows[negative], scores[negative])
