"""Documents -> sentences -> ids, tokenised in batches by the tokenizer's threads."""

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, TypeVar

import numpy as np

from dense_jax.arrays import Int
from dense_jax.data.sentence_split import split_sentences
from dense_jax.data.tokenizer import Tokenizer
from dense_jax.types import Document

T = TypeVar("T")
_BATCH = 1 << 20  # characters tokenised together

Ids = Int[np.ndarray, " _"]  # of any length
Sentence = tuple[str, Ids]


class Tokenised(NamedTuple):
    """A document as ids; sentences without ids are left out."""

    document: Document
    title: Ids
    sentences: list[Sentence]


def tokenised(documents: Iterable[Document], tokenizer: Tokenizer) -> Iterator[Tokenised]:
    """Each document's title and sentences, with their ids."""
    for batch in batches(documents, lambda document: len(document.text)):
        split = [split_sentences(document.text) for document in batch]
        titles = tokenizer.encode([document.title for document in batch])
        ids = iter(tokenizer.encode([text for sentences in map(spaced, batch, split) for text in sentences]))
        for document, title, texts in zip(batch, titles, split, strict=True):
            yield Tokenised(document, title, [(text, tokens) for text in texts if len(tokens := next(ids))])


def batches(documents: Iterable[T], characters: Callable[[T], int]) -> Iterator[list[T]]:
    """Runs of `documents` of about a million characters."""
    batch: list[T] = []
    size = 0
    for document in documents:
        batch.append(document)
        size += characters(document)
        if size >= _BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def spaced(document: Document, sentences: list[str]) -> list[str]:
    """Sentences with the space before each, by which byte-level tokenizers recognise the start of a word."""
    return [f" {sentence}" if i or document.title else sentence for i, sentence in enumerate(sentences)]
