"""Near-duplicates in a stream of texts: found by MinHash, the first one stays."""

import re
from collections.abc import Iterable, Iterator

import xxhash
from datasketch import MinHash, MinHashLSH

_SHINGLE = 3  # words
_HASHES = 64
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
        sketch.update_batch(_runs(text))
        if not seen.query(sketch):
            seen.insert(name, sketch, check_duplication=False)
            yield name, text


def _runs(text: str) -> list[bytes]:
    """The three-word runs of `text`."""
    words = _WORD.findall(text.lower())
    return [" ".join(words[i : i + _SHINGLE]).encode() for i in range(max(1, len(words) - _SHINGLE + 1))]
