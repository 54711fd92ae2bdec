"""Another model's vectors of queries and documents, which `mine` writes: they detect false negatives."""

from pathlib import Path
from typing import NamedTuple

import numpy as np

from dense_jax.errors import DataError, StorageError
from dense_jax.io import Ids, digests, read_json


class _Vectors:
    """A memory-mapped file of vectors, or its rows `places` in memory. Pickled as its path."""

    def __init__(self, path: Path, places: list[int] | None) -> None:
        self.path, self.places = path, places
        mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        self.values = mapped if places is None else mapped[places]

    def __reduce__(self) -> tuple[type["_Vectors"], tuple[Path, list[int] | None]]:
        return _Vectors, (self.path, self.places)


class GuideVectors(NamedTuple):
    """Vectors of all queries and all documents."""

    queries: _Vectors
    documents: _Vectors


def open_guide(folder: Path, queries: list[str], documents: list[str]) -> GuideVectors:
    """Return the guide's vectors in the order of our ids, as memory maps if that is their own order.

    Raises:
        StorageError: a file is missing or damaged.
        DataError: the guide lacks a query or a document.
    """
    return GuideVectors(_by_id(folder, "queries", queries), _by_id(folder, "documents", documents))


def guide_fingerprint(folder: str) -> dict[str, str]:
    """Return the digests of a guide's vectors, independent of their folder; empty without a folder."""
    return digests(Path(folder), "*.npy") if folder else {}


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
