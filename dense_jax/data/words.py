"""Ids of the words between spaces, kept: most words of a text were seen before, and a lookup is cheap."""

import json
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import tokenizers

from dense_jax.arrays import Int

_MOST = 500_000  # words that are kept, some 100 MB
_GROUP = 512  # words that are encoded as one text


def spaces_separate(backend: tokenizers.Tokenizer) -> bool:
    """True if the ids of a text are those of its parts between spaces, one after the other.

    BERT's normaliser and splitter look at no character beyond a space, unlike SentencePiece and byte-level tokenizers,
    whose pieces hold the space before a word.
    """
    settings = json.loads(backend.to_str())
    steps = [(settings[step] or {}).get("type") for step in ("normalizer", "pre_tokenizer", "model")]
    return (
        steps == ["BertNormalizer", "BertPreTokenizer", "WordPiece"]
        and not settings["truncation"]
        and not settings["padding"]
        and not any(_reaches_out(token) for token in settings["added_tokens"])
    )


def _reaches_out(token: dict[str, Any]) -> bool:
    """True if an added token holds a space, takes neighbouring ones, or depends on the characters next to it."""
    return " " in token["content"] or token["lstrip"] or token["rstrip"] or token["single_word"]


class Words:
    """Encoder of texts by their words, for a tokenizer of which `spaces_separate` is true.

    `separator` is one of its added tokens, by which many words are encoded as one text.
    """

    def __init__(self, backend: tokenizers.Tokenizer, separator: str) -> None:
        self._backend, self._separator = backend, separator
        self._ids: dict[str, bytes] = {}  # of int32

    def __reduce__(self) -> tuple[Any, ...]:
        return Words, (self._backend, self._separator)  # other processes keep their own words

    def encode(self, texts: Sequence[str]) -> list[Int[np.ndarray, " l"]]:
        """Ids of each text."""
        if len(self._ids) > _MOST:
            self._ids.clear()
        split = [text.split(" ") for text in texts]
        unknown = sorted(set().union(*split).difference(self._ids))
        groups = [unknown[start : start + _GROUP] for start in range(0, len(unknown), _GROUP)]
        joined = [f" {self._separator} ".join(group) for group in groups]
        for group, ids in zip(groups, self._encode(joined) if joined else (), strict=True):
            self._ids.update(zip(group, self._divided(group, ids), strict=True))
        known = self._ids.__getitem__
        return [np.frombuffer(bytearray().join(map(known, words)), np.int32) for words in split]

    def _divided(self, words: list[str], ids: Int[np.ndarray, " l"]) -> list[bytes]:
        """The ids of each word, from those of all with separators between them."""
        cuts = np.flatnonzero(ids == self._backend.token_to_id(self._separator)).tolist()
        if len(cuts) != len(words) - 1:  # a word holds the separator itself
            return [found.tobytes() for found in self._encode(words)]
        return [ids[start + 1 : end].tobytes() for start, end in pairwise([-1, *cuts, len(ids)])]

    def _encode(self, texts: list[str]) -> Iterator[Int[np.ndarray, " l"]]:
        found = self._backend.encode_batch_fast(texts, add_special_tokens=False)
        return (np.array(encoding.ids, np.int32) for encoding in found)
