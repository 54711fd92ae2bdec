"""Tokenised documents -> entries of a store: passages, spans, chunks or whole documents."""

from collections.abc import Iterable, Iterator
from itertools import accumulate, pairwise

import numpy as np
import xxhash

from dense_jax.config import PassagesConfig, Unit
from dense_jax.data.preparation.running_text import chunks, document_lines
from dense_jax.data.salient.tokens import Tagged, TokenSpans, tokenised_spans
from dense_jax.data.sentence_split import pack_sentences
from dense_jax.data.sentences import Ids, Sentence, Tokenised, spaced, tokenised
from dense_jax.data.stores.shards import Entry, Group
from dense_jax.data.tokenizer import Tokenizer
from dense_jax.types import Document

DOCUMENT_LENGTH = 8_192  # tokens kept of a document: no encoder here takes more
_SPECIAL = 3  # tokens that frame a passage and its title
_BARE = 2  # tokens that frame a text without a title
_TITLE_SHARE = 4  # a title takes at most a fourth of the tokens of a passage


def entries(documents: Iterable[Document], tokenizer: Tokenizer, config: PassagesConfig) -> Iterator[Group]:
    """Entries for training.

    Passages: whole sentences up to `length` tokens with the title and the special tokens. Spans: one entry for the
    document, without its title, with the spans as its "sentences"; a document of fewer than two spans has no entry.
    Chunks: `length` tokens of running text, across documents.
    """
    found = tokenised(documents, tokenizer)
    match config.unit:
        case Unit.PASSAGES:
            return (_alone(_packed(*document, config)) for document in found)
        case Unit.SPANS:
            return (_alone(_spans(*document, config)) for document in found)
        case _:
            return chunks(found, config.length, config.titled)


def lines_of_text(documents: Iterable[Document], tokenizer: Tokenizer, config: PassagesConfig) -> Iterator[Group]:
    """The lines of each document, from which chunks are cut."""
    return document_lines(tokenised(documents, tokenizer), config.titled)


def salient_entries(documents: Iterable[Tagged], tokenizer: Tokenizer, config: PassagesConfig) -> Iterator[Group]:
    """The passages of `entries`, with their salient spans."""
    found = tokenised_spans(documents, tokenizer)
    return (_alone(_with_spans(_packed(*tokens, config), spans)) for tokens, spans in found)


def whole_documents(documents: Iterable[Document], tokenizer: Tokenizer, length: int) -> Iterator[Group]:
    """The first `length` tokens of each document as its one passage; an empty document has an empty one."""
    return (_alone(_whole(*document, length)) for document in tokenised(documents, tokenizer))


def split_documents(documents: Iterable[Document], tokenizer: Tokenizer, length: int) -> Iterator[Group]:
    """Each document as passages of up to `length` tokens, title included; an empty document has an empty one.

    A sentence that is longer than a passage is divided, its text like its tokens, so that nothing of it is cut.
    """
    config = PassagesConfig(length=length)
    return (_alone(_split(document, tokenizer, config)) for document in tokenised(documents, tokenizer))


def _alone(of_one_document: list[Entry]) -> Group:
    return Group(of_one_document, documents=1, left_out=int(not of_one_document))


def _packed(document: Document, title: Ids, sentences: list[Sentence], config: PassagesConfig) -> list[Entry]:
    title = title[: config.length // _TITLE_SHARE]
    runs = _sentence_runs(document, sentences, config, _SPECIAL + len(title) if config.titled else _BARE)
    return [_entry(document, title, sentences[run.start : run.stop]) for run in runs]


def _with_spans(of_one_document: list[Entry], spans: list[TokenSpans]) -> list[Entry]:
    """Add to the entries, which hold all sentences in order, the `spans` of each sentence."""
    left = iter(spans)
    return [
        entry._replace(spans=np.concatenate([start + next(left) for start in entry.sentences]))
        for entry in of_one_document
    ]


def _spans(document: Document, title: Ids, sentences: list[Sentence], config: PassagesConfig) -> list[Entry]:
    runs = _sentence_runs(document, sentences, config, _BARE)
    joined = [sentences[run.start : run.stop] for run in runs]
    spans = [(" ".join(text for text, _ in span), np.concatenate([ids for _, ids in span])) for span in joined]
    return [_entry(document, title[:0], spans)] if len(spans) > 1 else []


def _sentence_runs(document: Document, sentences: list[Sentence], config: PassagesConfig, overhead: int) -> list[range]:
    """Runs of whole sentences up to the length, or at `short_rate` up to a shorter one, drawn by the document's id."""
    lengths = [len(tokens) for _, tokens in sentences]
    if not config.short_rate:
        return pack_sentences(lengths, config.length, overhead)
    rng = np.random.default_rng(xxhash.xxh3_64_intdigest(document.id.encode()))

    def target() -> int:
        short = rng.random() < config.short_rate
        return int(rng.integers(overhead + 1, config.length + 1)) if short else config.length

    return pack_sentences(lengths, target, overhead)


def _whole(document: Document, title: Ids, sentences: list[Sentence], length: int) -> list[Entry]:
    entry = _entry(document, title[:length], sentences)
    tokens = entry.tokens[:length]
    starts = entry.sentences[entry.sentences < max(len(tokens), 1)]
    return [entry._replace(tokens=tokens, sentences=starts)]


def _split(found: Tokenised, tokenizer: Tokenizer, config: PassagesConfig) -> list[Entry]:
    document, title, sentences = found
    room = config.length - _SPECIAL - min(len(title), config.length // _TITLE_SHARE)
    texts = spaced(document, [text for text, _ in sentences])
    pieces = [
        piece
        for sentence, text in zip(sentences, texts, strict=True)
        for piece in ([sentence] if len(sentence[1]) <= room else _divided(text, tokenizer, room))
    ]
    return _packed(document, title, pieces, config) or _whole(*found, config.length)


def _divided(text: str, tokenizer: Tokenizer, room: int) -> list[Sentence]:
    """A sentence in pieces of `room` tokens; characters without a token belong to the piece before them."""
    ((ids, places),) = tokenizer.encode_placed([text])
    cuts = [0, *places[room::room, 0].tolist(), len(text)]
    parts = [text[start:end].strip() for start, end in pairwise(cuts)]
    return [(part, ids[i * room : (i + 1) * room]) for i, part in enumerate(parts)]


def _entry(document: Document, title: Ids, sentences: list[Sentence]) -> Entry:
    ids = [tokens for _, tokens in sentences]
    starts = np.array([0, *accumulate(map(len, ids[:-1]))], np.int32)
    text = " ".join(text for text, _ in sentences)
    return Entry(
        title, np.concatenate([np.empty(0, np.int32), *ids]), starts, Document(document.id, document.title, text)
    )
