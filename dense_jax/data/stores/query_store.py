"""Training queries on disk, and the documents that they are about.

    FOLDER/claim.json                        written first: the settings that made the rest
           tokens texts ids                  of each query: token ids, UTF-8 of its text and of its id
           positives negatives               rows of the documents
           positive-scores negative-scores   of a teacher; NaN for a query without a teacher
           manifest.json                     written last: claim, counts, the queries of each source, digests

Each of the columns is a pair of files, the lists as one and where each ends: NAME.npy and NAME-ends.npy.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from pydantic import Field
from typing_extensions import TypedDict

from dense_jax.arrays import Int
from dense_jax.artifact import MANIFEST, Manifest, finish, read_manifest, verify_files
from dense_jax.data.stores.passage_store import PassageStore
from dense_jax.errors import DataError, StorageError
from dense_jax.io import Count, Ids, Settings, digest, digests, read_json, whole_file
from dense_jax.types import Candidates, Document, Guide, SourceRows, TrainingQuery, TrainingSet

_NAMES = {
    "tokens": np.uint32, "texts": np.uint8, "ids": np.uint8, "positives": np.uint32, "negatives": np.uint32,
    "positive-scores": np.float32, "negative-scores": np.float32,
}  # fmt: skip


class _SourceQueries(TypedDict):
    name: str
    rows: Annotated[list[Count], Field(min_length=2, max_length=2)]
    tokens: Count


class _QueryManifest(Manifest):
    notes: Settings
    parts: list[_SourceQueries]


class StoredQuery(NamedTuple):
    """Stored content of one query."""

    id: str
    text: str
    tokens: Int[np.ndarray, " l"]
    positives: Candidates
    negatives: Candidates


class QueryStore(TrainingSet):
    """Queries by row, read from any number of threads and, pickled, from other processes."""

    def __init__(self, folder: Path, documents: PassageStore, guide: str = "") -> None:
        """`guide`: a folder with another model's vectors of queries and documents, written by `mine`.

        Raises:
            StorageError: the folder is unfinished, or a file is missing or has changed.
            DataError: the guide lacks a query or a document.
        """
        self.folder, self.documents = folder, documents
        self.manifest = read_manifest(folder, _QueryManifest, "queries", "prepare")
        verify_files(folder, self.manifest["files"], "prepare")
        self._lists = {name: _Lists(folder, name) for name in _NAMES}
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
        """Return the query's id and text."""
        identifier, text = (self._lists[name][row].tobytes().decode() for name in ("ids", "texts"))
        return Document(identifier, "", text)

    def ids(self) -> list[str]:
        """Return the id of each query."""
        return [self._lists["ids"][row].tobytes().decode() for row in range(len(self))]

    def positive_counts(self) -> Int[np.ndarray, " q"]:
        """Return the number of positives of each query."""
        return np.diff(self._lists["positives"].ends, prepend=0)

    @property
    def negative_count(self) -> int:
        """The number of negatives of all queries together."""
        return len(self._lists["negatives"].values)

    @property
    def longest(self) -> int:
        """Tokens of the longest query."""
        return int(np.diff(self._lists["tokens"].ends, prepend=0).max())

    def parts(self) -> Sequence[SourceRows]:
        """Rows of each source; a query belongs to the source of its first positive."""
        return [SourceRows(part["name"], range(*part["rows"]), part["tokens"]) for part in self.manifest["parts"]]

    @property
    def fingerprint(self) -> str:
        """Digest of the whole store: its settings, counts and files."""
        return digest(self.folder / MANIFEST)

    def _tokens(self, row: int) -> Int[np.ndarray, " l"]:
        return self._lists["tokens"][row].astype(np.int32)


class _Lists:
    """Lists of a pair of files, by number. Pickled as their path."""

    def __init__(self, folder: Path, name: str) -> None:
        """
        Raises:
            StorageError: a file is missing or cut short.
        """
        self.folder, self.name = folder, name
        self.values, self.ends = _memory_map(folder / f"{name}.npy"), _memory_map(folder / f"{name}-ends.npy")

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, i: int) -> Any:
        """Return list `i` as an array of the written type."""
        return self.values[self.ends[i - 1] if i else 0 : self.ends[i]]

    def __reduce__(self) -> tuple[type["_Lists"], tuple[Path, str]]:
        return _Lists, (self.folder, self.name)


class _Vectors:
    """A memory-mapped file of vectors, or its rows `places` in memory. Pickled as its path."""

    def __init__(self, path: Path, places: list[int] | None) -> None:
        self.path, self.places = path, places
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        self.values = mapped if places is None else mapped[places]

    def __reduce__(self) -> tuple[type["_Vectors"], tuple[Path, list[int] | None]]:
        return _Vectors, (self.path, self.places)


class _GuideVectors(NamedTuple):
    queries: _Vectors
    documents: _Vectors


def write_queries(folder: Path, parts: dict[str, list[StoredQuery]], notes: Settings) -> None:
    """Write the queries of each source to a claimed folder, the manifest with `notes`, its counts, last."""
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
        _write_lists(folder, name, columns[name], dtype)
    described, start = [], 0
    for name, part in parts.items():
        if not part:  # a source without queries of its own
            continue
        tokens = sum(len(query.tokens) for query in part)
        described.append({"name": name, "rows": [start, start + len(part)], "tokens": tokens})
        start += len(part)
    finish(folder, {"notes": notes, "parts": described}, digests(folder, "*.npy"))


def guide_fingerprint(folder: str) -> dict[str, str]:
    """Return the digests of a guide's vectors, independent of their folder; empty without a folder."""
    return digests(Path(folder), "*.npy") if folder else {}


def _write_lists(folder: Path, name: str, lists: Sequence[np.ndarray], dtype: Any) -> None:
    """Write `lists` for `_Lists`, each file whole or not at all."""
    values = np.concatenate([np.empty(0, dtype), *lists]).astype(dtype)
    ends = np.cumsum([len(one) for one in lists], dtype=np.int64)
    for path, array in ((folder / f"{name}.npy", values), (folder / f"{name}-ends.npy", ends)):
        with whole_file(path) as partial, partial.open("wb") as file:
            np.save(file, array, allow_pickle=False)


def _memory_map(path: Path) -> np.ndarray:
    try:
        # a plain array over the map: slicing numpy's memmap takes several times as long
        return np.asarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except FileNotFoundError:
        raise StorageError(f"{path}: missing; remove its folder and run `dense-jax prepare` again") from None
    except (ValueError, EOFError) as error:
        raise StorageError(f"{path}: damaged ({error}); remove its folder and run `dense-jax prepare` again") from None


def _bytes(text: str) -> np.ndarray:
    return np.frombuffer(text.encode(), np.uint8)


def _aligned(folder: Path, queries: list[str], documents: list[str]) -> _GuideVectors:
    """Return the guide's vectors in the order of our rows, as memory maps if that is their own order."""
    return _GuideVectors(_by_id(folder, "queries", queries), _by_id(folder, "documents", documents))


def _by_id(folder: Path, name: str, ids: list[str]) -> _Vectors:
    path = folder / f"{name}.npy"
    try:
        vectors = _Vectors(path, None)
    except (FileNotFoundError, ValueError, EOFError) as error:
        raise StorageError(
            f"corpus.guide={folder}: {name}.npy cannot be read ({error}); run `dense-jax mine --mine.guide=true`"
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
