"""Documents that come again, word for word or nearly: all but the first of each kind are left out of a corpus.

Two texts are alike if the sets of their three-word runs have a Jaccard similarity of about `similarity` or more, told
by MinHash and locality-sensitive hashing (Broder 1997; Leskovec et al., Mining of Massive Datasets, chapter 3): a text
falls into several buckets, and those that share one are alike. At 1.0 they have the same words in the same order. Case
and punctuation do not count, titles neither; a text without a word is like no other. Whatever alike texts join is one
kind, as in the large de-duplication tools, so it depends on the order of the corpus only which text is the first.

It is documents that are compared, not passages: before anything is drawn from the corpus, so that no copy of a test
document stays, a vocabulary is not trained on copies, and all kinds and lengths of passages are of the same text.

ROOT/duplicates.jsonl   {"id", "duplicate_of"}, one line for each document that is left out
"""

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import orjson
import xxhash
from datasketch import MinHash, MinHashLSH
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from typing_extensions import TypedDict

from dense_jax.arrays import Int
from dense_jax.data.dedup import shingles, words
from dense_jax.errors import StorageError
from dense_jax.io import check_kind, whole_file
from dense_jax.progress import progress
from dense_jax.types import Document

NAME = "duplicates.jsonl"
_HASHES = 128
_MEMBER = np.dtype([("bucket", np.uint64), ("number", np.int64)])


class _DuplicateLine(TypedDict):
    """A line of duplicates.jsonl."""

    id: str
    duplicate_of: str


Edges = Int[np.ndarray, "n 2"]  # numbers of alike documents


def buckets(similarity: float) -> Callable[[str], list[int]]:
    """What gives the buckets of a text: numbers of 64 bits, those of each band of hashes apart."""
    if similarity == 1:
        return lambda text: [xxhash.xxh3_64_intdigest(" ".join(found).encode())] if (found := words(text)) else []
    best = MinHashLSH(threshold=similarity, num_perm=_HASHES)  # knows the bands that err least
    empty = MinHash(num_perm=_HASHES, hashfunc=xxhash.xxh32_intdigest)

    def of(text: str) -> list[int]:
        if not words(text):
            return []
        sketch = empty.copy()
        sketch.update_batch(shingles(text))
        bands = sketch.hashvalues[: best.b * best.r].reshape(best.b, best.r)
        return [xxhash.xxh3_64_intdigest(band.tobytes(), seed=i) for i, band in enumerate(bands)]

    return of


def alike(texts: Iterable[str], similarity: float) -> Edges:
    """Each text that shares a bucket with an earlier one, after the first one there: by number in `texts`."""
    of = buckets(similarity)
    pairs = ((bucket, number) for number, text in enumerate(texts) for bucket in of(text))
    members = np.sort(np.fromiter(pairs, _MEMBER), order=("bucket", "number"))
    new = np.diff(members["bucket"], prepend=0) != 0
    new[:1] = True
    first = members["number"][new][np.cumsum(new) - 1]
    return np.stack([first, members["number"]], axis=1)[~new]


def first_of_each(edges: Edges, count: int) -> Int[np.ndarray, " p"]:
    """For each of `count` documents, the first one that `edges` join it to, in any number of steps.

    >>> first_of_each(np.array([[2, 4], [0, 2], [1, 3]]), count=6).tolist()
    [0, 1, 0, 1, 0, 5]
    """
    graph = coo_array((np.ones(len(edges), bool), (edges[:, 0], edges[:, 1])), shape=(count, count))
    kinds = connected_components(graph, directed=False)[1]
    _, first, kind = np.unique(kinds, return_index=True, return_inverse=True)
    return first[kind]


def list_duplicates(documents: Iterable[Document], first: Int[np.ndarray, " p"], path: Path) -> int:
    """Writes those `documents` that are not the first of their kind, with the id of that; returns how many they are."""
    numbers = np.arange(len(first))
    copies = first != numbers
    kept = set(first[copies].tolist())  # of which there are copies
    names: dict[int, str] = {}
    with whole_file(path) as partial, partial.open("wb") as file:
        for number, document in enumerate(progress(documents, "list near-duplicates", len(first), "documents")):
            if number in kept:
                names[number] = document.id
            elif copies[number]:
                line = {"id": document.id, "duplicate_of": names[int(first[number])]}
                file.write(orjson.dumps(line) + b"\n")
    return int(copies.sum())


def read_duplicates(path: Path, count: int) -> frozenset[str]:
    """The ids of the documents that are left out.

    Raises:
        StorageError: the file is missing, or lists another number than `count`.
    """
    found = frozenset(_ids(path))
    if len(found) != count:
        raise StorageError(f"{path}: lists {len(found)} documents, not the {count} that were left out; prepare anew")
    return found


def _ids(path: Path) -> Iterator[str]:
    if not path.is_file():
        raise StorageError(f"{path}: missing, and it says which documents are left out; prepare in a new --workdir")
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                value = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                raise StorageError(f"{path}:{number}: damaged ({error}); prepare in a new --workdir") from None
            check_kind(value, _DuplicateLine, f"{path}:{number}")
            yield value["id"]
