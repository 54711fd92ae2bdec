"""Documents -> sentences -> ids, tokenised in batches by the tokenizer's threads."""

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np

from dense_jax.arrays import Int
from dense_jax.contracts import Document
from dense_jax.data.passages import split_sentences
from dense_jax.data.tokenizer import Tokenizer

_BATCH = 1 << 20  # characters tokenised together

Ids = Int[np.ndarray, " _"]  # of any length
Sentence = tuple[str, Ids]


class Tokenised(NamedTuple):
    """A document as ids; sentences without any are left out."""

    document: Document
    title: Ids
    sentences: list[Sentence]


def tokenised(documents: Iterable[Document], tokenizer: Tokenizer) -> Iterator[Tokenised]:
    """Each document's title and sentences, with their ids."""
    for batch in _batches(documents):
        split = [split_sentences(document.text) for document in batch]
        titles = tokenizer.encode([document.title for document in batch])
        ids = iter(tokenizer.encode([text for sentences in map(_spaced, batch, split) for text in sentences]))
        for document, title, texts in zip(batch, titles, split, strict=True):
            yield Tokenised(document, title, [(text, tokens) for text in texts if len(tokens := next(ids))])


def _batches(documents: Iterable[Document]) -> Iterator[list[Document]]:
    batch: list[Document] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += len(document.text)
        if size >= _BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _spaced(document: Document, sentences: list[str]) -> list[str]:
    """Sentences with the space that stands before each: byte-level tokenizers see the start of a word by it."""
    return [f" {sentence}" if i or document.title else sentence for i, sentence in enumerate(sentences)]
