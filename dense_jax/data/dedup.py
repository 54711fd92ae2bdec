"""Duplicates: near-duplicates of a corpus or a stream, found by MinHash, and equal texts of stored documents.

All documents of a corpus but the first of each group of similar ones are left out.

Two texts are similar if the sets of their word trigrams have a Jaccard similarity of about `similarity` or more,
estimated by MinHash and locality-sensitive hashing (Broder 1997; Leskovec et al., Mining of Massive Datasets, chapter
3): a text has several buckets, and texts that share a bucket are similar. At 1.0 they have the same words in the same
order. Case, punctuation and titles do not count; a text without a word has no duplicate. Groups are connected
components, as in the large de-duplication tools, so the order of the corpus decides only the first text of a group.

Documents are compared, not passages, before the test set and the vocabulary: no copy of a test document stays, the
vocabulary is not trained on copies, and all kinds and lengths of passages have the same text.

ROOT/duplicates.jsonl   {"id", "duplicate_of"}, one line for each document left out
"""

import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
import orjson
import xxhash
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from typing_extensions import TypedDict

from dense_jax.arrays import Int
from dense_jax.errors import StorageError
from dense_jax.io import check_kind, whole_file
from dense_jax.terminal.progress import progress
from dense_jax.types import Document, PassageCollection

DUPLICATES = "duplicates.jsonl"
_SHINGLE = 3  # words
_HASHES = 128  # of a document of a corpus
_STREAM_HASHES = 64
_MEMBER = np.dtype([("bucket", np.uint64), ("number", np.int64)])
_BLOCK = 4_096  # documents read at once
_WORD = re.compile(r"\w+")

Pairs = Int[np.ndarray, "n 2"]  # numbers of similar documents


class _DuplicateLine(TypedDict):
    """A line of duplicates.jsonl."""

    id: str
    duplicate_of: str


def buckets(similarity: float) -> Callable[[str], list[int]]:
    """A function that returns the buckets of a text: one number of 64 bits for each band of hashes."""
    if similarity == 1:
        return lambda text: [xxhash.xxh3_64_intdigest(" ".join(found).encode())] if (found := words(text)) else []
    from datasketch import MinHash, MinHashLSH  # here: it imports the whole of SciPy, half a second

    best = MinHashLSH(threshold=similarity, num_perm=_HASHES)  # computes the bands with the smallest error
    empty = MinHash(num_perm=_HASHES, hashfunc=xxhash.xxh32_intdigest)

    def of(text: str) -> list[int]:
        if not words(text):
            return []
        sketch = empty.copy()
        sketch.update_batch(shingles(text))
        bands = sketch.hashvalues[: best.b * best.r].reshape(best.b, best.r)
        return [xxhash.xxh3_64_intdigest(band.tobytes(), seed=i) for i, band in enumerate(bands)]

    return of


def similar_pairs(texts: Iterable[str], similarity: float) -> Pairs:
    """Pairs of numbers in `texts`: the first text of a bucket and each later one of the bucket."""
    of = buckets(similarity)
    pairs = ((bucket, number) for number, text in enumerate(texts) for bucket in of(text))
    members = np.sort(np.fromiter(pairs, _MEMBER), order=("bucket", "number"))
    new = np.diff(members["bucket"], prepend=0) != 0
    new[:1] = True
    first = members["number"][new][np.cumsum(new) - 1]
    return np.stack([first, members["number"]], axis=1)[~new]


def first_of_each_group(pairs: Pairs, count: int) -> Int[np.ndarray, " p"]:
    """For each of `count` documents, the first document of its connected component.

    >>> first_of_each_group(np.array([[2, 4], [0, 2], [1, 3]]), count=6).tolist()
    [0, 1, 0, 1, 0, 5]
    """
    graph = coo_array((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(count, count))
    kinds = connected_components(graph, directed=False)[1]
    _, first, kind = np.unique(kinds, return_index=True, return_inverse=True)
    return first[kind]


def list_duplicates(documents: Iterable[Document], first: Int[np.ndarray, " p"], path: Path) -> int:
    """Write the ids of the documents to be left out, each with the id of its group's first; return their number."""
    numbers = np.arange(len(first))
    copies = first != numbers
    kept = set(first[copies].tolist())  # those with copies
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
    """The ids of the documents to be left out.

    Raises:
        StorageError: the file is missing, or does not list `count` documents.
    """
    found = frozenset(_ids(path))
    if len(found) != count:
        raise StorageError(
            f"{path}: lists {len(found)} documents, not the {count} that were left out; prepare in a new --workdir"
        )
    return found


def without_near_duplicates(texts: Iterable[tuple[str, str]], similarity: float) -> Iterator[tuple[str, str]]:
    """The (name, text) pairs whose text is not similar to an earlier one.

    A docstring under two names, or with a changed parameter, is found.
    """
    from datasketch import MinHash, MinHashLSH

    seen = MinHashLSH(threshold=similarity, num_perm=_STREAM_HASHES)
    empty = MinHash(num_perm=_STREAM_HASHES, hashfunc=xxhash.xxh32_intdigest)
    for name, text in texts:
        sketch = empty.copy()  # a new one would draw its hash functions again, the slowest step
        sketch.update_batch(shingles(text))
        if not seen.query(sketch):
            seen.insert(name, sketch, check_duplication=False)
            yield name, text


def words(text: str) -> list[str]:
    """The words of `text`, in lower case."""
    return _WORD.findall(text.lower())


def shingles(text: str) -> list[bytes]:
    """The word trigrams of `text`; all its words if it is shorter."""
    found = words(text)
    return [" ".join(found[i : i + _SHINGLE]).encode() for i in range(max(1, len(found) - _SHINGLE + 1))]


def text_numbers(documents: PassageCollection) -> Int[np.ndarray, " p"]:
    """A hash for each document, the same for equal titles and texts, as far as they are stored."""
    blocks = (range(i, min(i + _BLOCK, len(documents))) for i in range(0, len(documents), _BLOCK))
    hashes = (_hash(p.title, p.tokens) for rows in blocks for p in documents.passages(rows))
    return np.fromiter(hashes, np.uint64, len(documents))


def first_of_each_text(documents: PassageCollection) -> Int[np.ndarray, " p"]:
    """For each document, the first row that has its title and text."""
    numbers, rows = text_numbers(documents), np.arange(len(documents), dtype=np.uint32)
    order = np.argsort(numbers, kind="stable").astype(np.uint32)
    starts = np.flatnonzero(np.diff(numbers[order], prepend=~numbers[order[:1]]))
    rows[order] = np.repeat(order[starts], np.diff(starts, append=len(order)))
    return rows


class RowOfId:
    """The row of each id, by sorted 64-bit hashes: 12 bytes an id, where a dict of strings takes some 160."""

    def __init__(self, ids: Iterable[str], count: int) -> None:
        """Index `count` distinct ids."""
        hashes = np.fromiter(map(_hash_of_id, ids), np.uint64, count)
        self._rows = np.argsort(hashes).astype(np.uint32)
        self._hashes = hashes[self._rows]

    def get(self, identifier: str) -> int | None:
        """The row of an id; None for an unknown one."""
        wanted = np.uint64(_hash_of_id(identifier))
        place = int(np.searchsorted(self._hashes, wanted))
        return int(self._rows[place]) if place < len(self._hashes) and self._hashes[place] == wanted else None


def _hash_of_id(identifier: str) -> int:
    return xxhash.xxh3_64_intdigest(identifier.encode())


def _ids(path: Path) -> Iterator[str]:
    if not path.is_file():
        raise StorageError(f"{path}: missing, and it lists the documents left out; prepare in a new --workdir")
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                value = orjson.loads(line)
            except orjson.JSONDecodeError as error:
                raise StorageError(f"{path}:{number}: damaged ({error}); prepare in a new --workdir") from None
            check_kind(value, _DuplicateLine, f"{path}:{number}")
            yield value["id"]


def _hash(title: Int[np.ndarray, " t"], tokens: Int[np.ndarray, " l"]) -> int:
    length = np.int32(len(title)).tobytes()  # otherwise a word could move from the title to the text
    return xxhash.xxh3_64_intdigest(length + title.astype(np.int32).tobytes() + tokens.astype(np.int32).tobytes())
