"""Documents with salient spans -> sentences -> ids, and the tokens of each span.

A token belongs to a span if all its characters lie inside: REALM's released code masks these. A span without such a
token is left out, and so is one that crosses the end of a sentence.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from dense_jax.arrays import Int
from dense_jax.data import held_out
from dense_jax.data.salient.taggers import Span, SpanTagger, salient_sentences
from dense_jax.data.sentences import Tokenised, batches, spaced
from dense_jax.data.tokenizer import Tokenizer
from dense_jax.types import NO_SPANS, Document

TokenSpans = Int[np.ndarray, "_ 2"]  # of any number: first token and one past the last, of a sentence


class Tagged(NamedTuple):
    """A document of the training text, and its salient spans in characters of its text."""

    document: Document
    spans: Sequence[Span]


class Salient(NamedTuple):
    """A document as ids, and the salient spans of each of its sentences."""

    tokens: Tokenised
    spans: list[TokenSpans]


def tagged(documents: Iterable[Document], tagger: SpanTagger, queries: held_out.Queries) -> Iterator[Tagged]:
    """The training text of `documents`, tagged.

    The tagger gets the whole document, in which spans from a file are counted; then a held-out sentence is removed from
    text and spans.
    """
    for document in documents:
        spans = tagger(document)
        (rest,) = held_out.without_queries([document], queries)
        gone = len(document.text) - len(rest.text)
        yield Tagged(rest, [(start - gone, end - gone) for start, end in spans if start >= gone] if gone else spans)


def tokenised_spans(documents: Iterable[Tagged], tokenizer: Tokenizer) -> Iterator[Salient]:
    """Each document as `tokenised`, with the spans of its sentences."""
    for batch in batches(documents, lambda one: len(one.document.text)):
        split = [salient_sentences(document.text, spans) for document, spans in batch]
        texts = [spaced(one.document, [text for text, _ in own]) for one, own in zip(batch, split, strict=True)]
        titles = tokenizer.encode([document.title for document, _ in batch])
        placed = iter(tokenizer.encode_placed([text for own in texts for text in own]))
        for (document, _), title, sentences, own in zip(batch, titles, split, texts, strict=True):
            kept, spans = [], []
            for sentence, text in zip(sentences, own, strict=True):
                ids, places = next(placed)
                if len(ids):
                    kept.append((sentence.text, ids))
                    spans.append(covered(sentence.spans, places - (len(text) - len(sentence.text))))
            yield Salient(Tokenised(document, title, kept), spans)


def covered(spans: Sequence[Span], places: Int[np.ndarray, "l 2"]) -> TokenSpans:
    """The tokens, at `places`, that lie inside each of `spans`; a span without any is left out.

    >>> covered([(0, 3), (4, 8), (9, 12)], np.array([[0, 3], [4, 6], [6, 8], [9, 13]])).tolist()
    [[0, 1], [1, 3]]
    """
    wanted = np.array(spans, np.int64).reshape(-1, 2)
    starts, ends = places.T
    # Tokens before `first` start before the span, tokens from `last` on end after it. Few are left to be compared,
    # because places are sorted apart from rare accents: a sentence may have 100,000 spans and as many tokens.
    first = np.searchsorted(np.maximum.accumulate(starts), wanted[:, 0])
    last = np.searchsorted(np.minimum.accumulate(ends[::-1])[::-1], wanted[:, 1], side="right")
    windows = zip(spans, first.tolist(), last.tolist(), strict=True)
    found = [tokens for span, a, b in windows if (tokens := _inside(places[a:b], span, a))]
    return np.array(found, np.int32) if found else NO_SPANS


def _inside(places: Int[np.ndarray, "l 2"], span: Span, first: int) -> Span | None:
    """The first token inside `span` and one past the last; `places` start with token `first`."""
    starts, ends = places.T
    inside = np.flatnonzero((starts >= span[0]) & (ends <= span[1]) & (starts < ends))
    return (first + int(inside[0]), first + int(inside[-1]) + 1) if len(inside) else None
