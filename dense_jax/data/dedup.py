"""Texts that come again: near-duplicates in a stream, found by MinHash, and equal ones among stored documents."""

import re
from collections.abc import Iterable, Iterator

import numpy as np
import xxhash
from datasketch import MinHash, MinHashLSH

from dense_jax.arrays import Int
from dense_jax.types import PassageCollection

_SHINGLE = 3  # words
_HASHES = 64
_BLOCK = 4_096  # documents read at once
_WORD = re.compile(r"\w+")


def without_near_duplicates(texts: Iterable[tuple[str, str]], similarity: float) -> Iterator[tuple[str, str]]:
    """The (name, text) pairs whose text is unlike all before it.

    Two texts are alike if the sets of their three-word runs have a Jaccard similarity of about `similarity` or more;
    case and punctuation do not count, so one docstring under two names is found and so is one with a changed parameter.
    """
    seen = MinHashLSH(threshold=similarity, num_perm=_HASHES)
    empty = MinHash(num_perm=_HASHES, hashfunc=xxhash.xxh32_intdigest)
    for name, text in texts:
        sketch = empty.copy()  # a new one would draw its hash functions again, which takes longer than all else
        sketch.update_batch(shingles(text))
        if not seen.query(sketch):
            seen.insert(name, sketch, check_duplication=False)
            yield name, text


def words(text: str) -> list[str]:
    """The words of `text`, in lower case."""
    return _WORD.findall(text.lower())


def shingles(text: str) -> list[bytes]:
    """The three-word runs of `text`; of a shorter one all its words."""
    found = words(text)
    return [" ".join(found[i : i + _SHINGLE]).encode() for i in range(max(1, len(found) - _SHINGLE + 1))]


def text_numbers(documents: PassageCollection) -> Int[np.ndarray, " p"]:
    """A number for each document, the same for equal titles and texts, as far as they are stored."""
    blocks = (range(i, min(i + _BLOCK, len(documents))) for i in range(0, len(documents), _BLOCK))
    hashes = (_hash(p.title, p.tokens) for rows in blocks for p in documents.passages(rows))
    return np.fromiter(hashes, np.uint64, len(documents))


def first_of_each_text(documents: PassageCollection) -> Int[np.ndarray, " p"]:
    """For each document, the first row that has its title and text."""
    _, first, inverse = np.unique(text_numbers(documents), return_index=True, return_inverse=True)
    return first[inverse]


class RowOfId:
    """The row of each id, by sorted 64-bit hashes: 16 bytes an id, where a dict of strings takes some 160."""

    def __init__(self, ids: Iterable[str], count: int) -> None:
        """Of `count` ids, which are unequal."""
        hashes = np.fromiter(map(_hash_of_id, ids), np.uint64, count)
        self._rows = np.argsort(hashes)
        self._hashes = hashes[self._rows]

    def get(self, identifier: str) -> int | None:
        """The row of an id; None if it is none of these."""
        wanted = np.uint64(_hash_of_id(identifier))
        place = int(np.searchsorted(self._hashes, wanted))
        return int(self._rows[place]) if place < len(self._hashes) and self._hashes[place] == wanted else None


def _hash_of_id(identifier: str) -> int:
    return xxhash.xxh3_64_intdigest(identifier.encode())


def _hash(title: Int[np.ndarray, " t"], tokens: Int[np.ndarray, " l"]) -> int:
    length = np.int32(len(title)).tobytes()  # else a word could move from the title to the text
    return xxhash.xxh3_64_intdigest(length + title.astype(np.int32).tobytes() + tokens.astype(np.int32).tobytes())
