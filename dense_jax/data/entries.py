"""Documents -> what the store keeps of them: split, tokenised in batches by the tokenizer's threads, packed."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import accumulate

import numpy as np

from dense_jax.arrays import Int
from dense_jax.contracts import Document
from dense_jax.data.passages import pack, split_sentences
from dense_jax.data.store import Entry
from dense_jax.data.tokenizer import Tokenizer

_BATCH = 1 << 20  # characters tokenised together
_SPECIAL = 3  # tokens that frame a passage and its title
_TITLE_SHARE = 4  # a title takes at most one in so many tokens of a passage

Ids = Int[np.ndarray, " _"]  # of any length
Sentence = tuple[str, Ids]
Arrange = Callable[[Document, Ids, list[Sentence]], list[Entry]]


def passages(documents: Iterable[Document], tokenizer: Tokenizer, length: int) -> Iterator[list[Entry]]:
    """The passages of each document: whole sentences up to `length` tokens with the title and the special tokens."""
    return _entries(documents, tokenizer, partial(_packed, length=length))


def whole_documents(documents: Iterable[Document], tokenizer: Tokenizer, length: int) -> Iterator[list[Entry]]:
    """The first `length` tokens of each document as its one passage; an empty document has an empty one."""
    return _entries(documents, tokenizer, partial(_whole, length=length))


def _entries(documents: Iterable[Document], tokenizer: Tokenizer, arrange: Arrange) -> Iterator[list[Entry]]:
    for batch in _batches(documents):
        split = [split_sentences(document.text) for document in batch]
        titles = tokenizer.encode([document.title for document in batch])
        ids = iter(tokenizer.encode([text for sentences in map(_spaced, batch, split) for text in sentences]))
        for document, title, texts in zip(batch, titles, split, strict=True):
            sentences = [(text, tokens) for text in texts if len(tokens := next(ids))]
            yield arrange(document, title, sentences)


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


def _packed(document: Document, title: Ids, sentences: list[Sentence], length: int) -> list[Entry]:
    title = title[: length // _TITLE_SHARE]
    runs = pack([len(tokens) for _, tokens in sentences], length, _SPECIAL + len(title))
    return [_entry(document, title, sentences[run.start : run.stop]) for run in runs]


def _whole(document: Document, title: Ids, sentences: list[Sentence], length: int) -> list[Entry]:
    entry = _entry(document, title[:length], sentences)
    tokens = entry.tokens[:length]
    starts = entry.sentences[entry.sentences < max(len(tokens), 1)]
    return [entry._replace(tokens=tokens, sentences=starts)]


def _entry(document: Document, title: Ids, sentences: list[Sentence]) -> Entry:
    ids = [tokens for _, tokens in sentences]
    starts = np.array([0, *accumulate(map(len, ids[:-1]))], np.int32)
    text = " ".join(text for text, _ in sentences)
    return Entry(
        title, np.concatenate([np.empty(0, np.int32), *ids]), starts, Document(document.id, document.title, text)
    )
