"""Training queries on disk, and the documents that they are about.

    FOLDER/tokens texts ids               of each query: ids of its tokens, UTF-8 of its text and of its id
           positives negatives            rows of the documents
           positive-scores negative-scores   of a teacher; NaN where there is none
           manifest.json                  written last: settings, counts, the queries of each source, digests
Each is a pair of files (see `ragged`).
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dense_jax.arrays import Int
from dense_jax.artifact import is_finished
from dense_jax.data.stores.passage_store import PassageStore
from dense_jax.data.stores.ragged import Ragged, write_ragged
from dense_jax.errors import DataError, StorageError
from dense_jax.io import Ids, digest, digests, read_json, verify, write_json
from dense_jax.schemas import QueryManifest
from dense_jax.types import Candidates, Document, Guide, SourceRows, TrainingQuery, TrainingSet

MANIFEST = "manifest.json"
_NAMES = {
    "tokens": np.uint32, "texts": np.uint8, "ids": np.uint8, "positives": np.uint32, "negatives": np.uint32,
    "positive-scores": np.float32, "negative-scores": np.float32,
}  # fmt: skip


class StoredQuery(NamedTuple):
    """What is stored of one query."""

    id: str
    text: str
    tokens: Int[np.ndarray, " l"]
    positives: Candidates
    negatives: Candidates


class QueryStore(TrainingSet):
    """Questions by row, from any number of threads and, pickled, from other processes."""

    def __init__(self, folder: Path, documents: PassageStore, guide: str = "") -> None:
        """`guide`: a folder with another model's vectors of queries and documents, as `mine` writes it.

        Raises:
            StorageError: the folder is unfinished, or a file is missing or has changed.
            DataError: the guide lacks a query or a document.
        """
        if not is_finished(folder):
            raise StorageError(f"{folder}: not prepared to the end (no {MANIFEST}); run `dense-jax prepare` again")
        self.folder, self.documents = folder, documents
        self.manifest: dict[str, Any] = read_json(folder / MANIFEST, QueryManifest)
        verify(folder, self.manifest["files"])
        self._lists = {name: Ragged(folder, name) for name in _NAMES}
        self._guide = _aligned(Path(guide), self.ids(), documents.ids()) if guide else None

    def __len__(self) -> int:
        return len(self._lists["tokens"])

    def sample(self, row: int, epoch: int, rng: np.random.Generator) -> TrainingQuery:
        """Query `row` with all passages that it was judged with."""
        positives, negatives = (
            Candidates(self._lists[f"{side}s"][row].astype(np.int32), np.array(self._lists[f"{side}-scores"][row]))
            for side in ("positive", "negative")
        )
        guide = None
        if self._guide:
            guide = Guide(np.array(self._guide.queries.values[row]), self._guide.documents.values)
        return TrainingQuery(row, epoch, self._tokens(row), positives, negatives, self.documents, guide)

    def document(self, row: int) -> Document:
        """The query's id and text."""
        identifier, text = (self._lists[name][row].tobytes().decode() for name in ("ids", "texts"))
        return Document(identifier, "", text)

    def ids(self) -> list[str]:
        """The id of each query."""
        return [self._lists["ids"][row].tobytes().decode() for row in range(len(self))]

    def parts(self) -> Sequence[SourceRows]:
        """All rows, source by source: a query belongs to that of its first positive."""
        return [SourceRows(part["name"], range(*part["rows"]), part["tokens"]) for part in self.manifest["parts"]]

    @property
    def fingerprint(self) -> str:
        """Changes with anything in the store."""
        return digest(self.folder / MANIFEST)

    def _tokens(self, row: int) -> Int[np.ndarray, " l"]:
        return self._lists["tokens"][row].astype(np.int32)


class _Vectors:
    """A file of vectors, mapped into memory, or in other places than there. Travels to other processes by its path."""

    def __init__(self, path: Path, places: list[int] | None) -> None:
        self.path, self.places = path, places
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        self.values = mapped if places is None else mapped[places]

    def __reduce__(self) -> tuple[type["_Vectors"], tuple[Path, list[int] | None]]:
        return _Vectors, (self.path, self.places)


class _GuideVectors(NamedTuple):
    queries: _Vectors
    documents: _Vectors


def write_queries(folder: Path, parts: dict[str, list[StoredQuery]], about: dict[str, Any]) -> None:
    """Writes the queries of each source, the manifest last; `about` are its settings and counts (JSON values)."""
    queries = [query for part in parts.values() for query in part]
    columns = {
        "tokens": [query.tokens for query in queries],
        "texts": [_bytes(query.text) for query in queries],
        "ids": [_bytes(query.id) for query in queries],
        "positives": [query.positives.rows for query in queries],
        "negatives": [query.negatives.rows for query in queries],
        "positive-scores": [query.positives.scores for query in queries],
        "negative-scores": [query.negatives.scores for query in queries],
    }
    for name, dtype in _NAMES.items():
        write_ragged(folder, name, columns[name], dtype)
    described, start = [], 0
    for name, part in parts.items():
        if not part:  # a source of documents alone, or of texts that an earlier one has
            continue
        tokens = sum(len(query.tokens) for query in part)
        described.append({"name": name, "rows": [start, start + len(part)], "tokens": tokens})
        start += len(part)
    write_json(folder / MANIFEST, {**about, "parts": described, "files": digests(folder, "*.npy")})


def guide_fingerprint(folder: str) -> dict[str, str]:
    """The digests of a guide's vectors, wherever they lie; nothing where no folder is named."""
    return digests(Path(folder), "*.npy") if folder else {}


def _bytes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8)


def _aligned(folder: Path, queries: list[str], documents: list[str]) -> _GuideVectors:
    """The guide's vectors in the order of our rows; memory maps where that is their own order."""
    return _GuideVectors(_by_id(folder, "queries", queries), _by_id(folder, "documents", documents))


def _by_id(folder: Path, name: str, ids: list[str]) -> _Vectors:
    path = folder / f"{name}.npy"
    try:
        vectors = _Vectors(path, None)
    except (FileNotFoundError, ValueError, EOFError) as error:
        raise StorageError(
            f"corpus.guide={folder}: {name}.npy cannot be read ({error}); `dense-jax mine --mine.guide=true` makes it"
        ) from None
    theirs = read_json(folder / f"{name}.json", Ids)
    if theirs == ids:
        return vectors
    places = {identifier: place for place, identifier in enumerate(theirs)}
    if missing := [identifier for identifier in ids if identifier not in places]:
        raise DataError(
            f"corpus.guide={folder}: has no vector of {len(missing):,} of {len(ids):,} {name}, such as {missing[0]!r}; "
            "mine with the same corpus and all its queries"
        )
    return _Vectors(path, [places[identifier] for identifier in ids])
