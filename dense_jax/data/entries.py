"""Documents -> what the store keeps of them: split, tokenised in batches by the tokenizer's threads, packed."""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import accumulate

import numpy as np
import xxhash

from dense_jax.arrays import Int
from dense_jax.config import PassagesConfig, Unit
from dense_jax.contracts import Document
from dense_jax.data.passages import pack, split_sentences
from dense_jax.data.store import Entry
from dense_jax.data.tokenizer import Tokenizer

_BATCH = 1 << 20  # characters tokenised together
_SPECIAL = 3  # tokens that frame a passage and its title
_BARE = 2  # tokens that frame a text without a title
_TITLE_SHARE = 4  # a title takes at most one in so many tokens of a passage

Ids = Int[np.ndarray, " _"]  # of any length
Sentence = tuple[str, Ids]
Arrange = Callable[[Document, Ids, list[Sentence]], list[Entry]]


def entries(documents: Iterable[Document], tokenizer: Tokenizer, config: PassagesConfig) -> Iterator[list[Entry]]:
    """What training visits of each document.

    Passages: whole sentences up to `length` tokens with the title and the special tokens. Spans: one entry for the
    document, without its title, its "sentences" being the spans; none if there are fewer than two.
    """
    arrange = {Unit.PASSAGES: _packed, Unit.SPANS: _spans}[config.unit]
    return _entries(documents, tokenizer, partial(arrange, config=config))


def whole_documents(documents: Iterable[Document], tokenizer: Tokenizer, length: int) -> Iterator[list[Entry]]:
    """The first `length` tokens of each document as its one passage; an empty document has an empty one."""
    return _entries(documents, tokenizer, partial(_whole, length=length))


def split_documents(documents: Iterable[Document], tokenizer: Tokenizer, length: int) -> Iterator[list[Entry]]:
    """Each document as passages of up to `length` tokens, title included; an empty document has an empty one.

    A sentence that is longer than a passage is divided, so that nothing of it is cut.
    """
    return _entries(documents, tokenizer, partial(_split, config=PassagesConfig(length=length)))


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


def _packed(document: Document, title: Ids, sentences: list[Sentence], config: PassagesConfig) -> list[Entry]:
    title = title[: config.length // _TITLE_SHARE]
    runs = _runs(document, sentences, config, _SPECIAL + len(title) if config.titled else _BARE)
    return [_entry(document, title, sentences[run.start : run.stop]) for run in runs]


def _spans(document: Document, title: Ids, sentences: list[Sentence], config: PassagesConfig) -> list[Entry]:
    runs = _runs(document, sentences, config, _BARE)
    joined = [sentences[run.start : run.stop] for run in runs]
    spans = [(" ".join(text for text, _ in span), np.concatenate([ids for _, ids in span])) for span in joined]
    return [_entry(document, title[:0], spans)] if len(spans) > 1 else []


def _runs(document: Document, sentences: list[Sentence], config: PassagesConfig, overhead: int) -> list[range]:
    """Whole sentences up to the length; now and then up to a shorter one, which the document's id alone decides."""
    lengths = [len(tokens) for _, tokens in sentences]
    if not config.short_rate:
        return pack(lengths, config.length, overhead)
    rng = np.random.default_rng(xxhash.xxh3_64_intdigest(document.id.encode()))

    def target() -> int:
        short = rng.random() < config.short_rate
        return int(rng.integers(overhead + 1, config.length + 1)) if short else config.length

    return pack(lengths, target, overhead)


def _whole(document: Document, title: Ids, sentences: list[Sentence], length: int) -> list[Entry]:
    entry = _entry(document, title[:length], sentences)
    tokens = entry.tokens[:length]
    starts = entry.sentences[entry.sentences < max(len(tokens), 1)]
    return [entry._replace(tokens=tokens, sentences=starts)]


def _split(document: Document, title: Ids, sentences: list[Sentence], config: PassagesConfig) -> list[Entry]:
    room = config.length - _SPECIAL - min(len(title), config.length // _TITLE_SHARE)
    pieces = [(text, ids[i : i + room]) for text, ids in sentences for i in range(0, len(ids), room)]
    return _packed(document, title, pieces, config) or _whole(document, title, sentences, config.length)


def _entry(document: Document, title: Ids, sentences: list[Sentence]) -> Entry:
    ids = [tokens for _, tokens in sentences]
    starts = np.array([0, *accumulate(map(len, ids[:-1]))], np.int32)
    text = " ".join(text for text, _ in sentences)
    return Entry(
        title, np.concatenate([np.empty(0, np.int32), *ids]), starts, Document(document.id, document.title, text)
    )
