"""Salient spans, which REALM masks because predicting them needs world knowledge.

A `SpanTagger` finds them in a document. Any function of this signature is a tagger, so an adapter to a model is short:

    def tagged(document):
        return [(entity.start_char, entity.end_char) for entity in nlp(document.text).ents]

    Precomputed      the spans of another program: the choice for real runs (this file)
    Patterns         dates, numbers, money, percentages (`patterns.py`)
    CapitalisedRuns  names by their capitals (`names.py`)
    Gazetteer        names of a list, such as the corpus's own titles (`names.py`)
    RandomSpans      random words: an ablation, which lowers the recall of REALM (this file)
    Union            several of them (this file)

REALM's published figures use a tagger trained on CoNLL-2003 and a regular expression for dates. `Patterns`,
`CapitalisedRuns` and `Gazetteer` need no model and are less precise. Compared with 77 spans marked by hand in 28
well-edited English sentences (`tests/salient_sample.txt`), exact ends required:

                                        precision   recall
    Patterns                              0.96       0.32
    CapitalisedRuns                       0.82       0.55
    Gazetteer of the sample's titles      1.00       0.10
    all three                             0.94       0.88

Other text is harder: lists and headings join names, and dates differ in other languages. All taggers take time linear
in the text and are deterministic.
"""

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import regex
import xxhash

from dense_jax.arrays import Int
from dense_jax.data.sentence_split import split_sentences
from dense_jax.data.sources.fields import as_id
from dense_jax.data.sources.readers import Record, jsonl_records
from dense_jax.data.sources.rejects import RowError, each, sound
from dense_jax.errors import DataError
from dense_jax.io import AnyPath
from dense_jax.types import Document

Span = tuple[int, int]  # characters of a text, half open

# An acronym with its dots, or a word with its inner hyphens and apostrophes. Neither can backtrack by much.
_LETTER = r"[\p{L}\p{N}][\p{L}\p{N}\p{M}]*+"
WORD = regex.compile(rf"(?:\p{{Lu}}\.){{2,8}}|{_LETTER}(?:[-'’&]{_LETTER})*+")  # noqa: RUF001

_LONGEST_LINE = 1 << 26  # bytes


@runtime_checkable
class SpanTagger(Protocol):
    """Finds the salient spans of a document's text."""

    def __call__(self, document: Document) -> Sequence[Span]:
        """Spans of `document.text` in its characters (not bytes), in order and without overlaps."""
        ...


class Sentence(NamedTuple):
    """A sentence with its salient spans."""

    text: str  # as returned by `sentence_split.split_sentences`
    spans: list[Span]  # in it


def salient_sentences(text: str, spans: Iterable[Span]) -> list[Sentence]:
    """Every sentence of `text` with the `spans` inside it; a span that crosses its end is left out.

    White space inside a span is collapsed, as in the sentences.
    """
    sentences = [Sentence(sentence, []) for sentence in split_sentences(text)]
    starts, places, owners = _runs_without_spaces(text, [sentence.text for sentence in sentences])

    def place(at: int) -> tuple[int, int]:
        piece = bisect_right(starts, at) - 1
        return owners[piece], places[piece] + at - starts[piece]

    for start, end in spans:
        stripped = text[start:end].strip()
        if stripped:
            start = text.index(stripped, start)
            (owner, first), (last_owner, last) = place(start), place(start + len(stripped) - 1)
            if owner == last_owner:
                sentences[owner].spans.append((first, last + 1))
    return sentences


def sentence_ranges(text: str) -> list[Span]:
    """The characters of each sentence of `text`.

    >>> sentence_ranges("One  is.\\nTwo are.")
    [(0, 8), (9, 17)]
    """
    sentences = split_sentences(text)
    starts, _, owners = _runs_without_spaces(text, sentences)
    ranges: list[Span] = []
    for i, sentence in enumerate(sentences):
        first, last = bisect_right(owners, i - 1), bisect_right(owners, i) - 1
        ranges.append((starts[first], starts[last] + len(sentence) - sentence.rfind(" ") - 1))
    return ranges


@lru_cache(maxsize=4)  # several taggers read one document in turn
def sentence_words(text: str) -> tuple[tuple[Span, ...], ...]:
    """The words of each sentence."""
    ranges = sentence_ranges(text)
    return tuple(tuple(match.span() for match in WORD.finditer(text, start, end)) for start, end in ranges)


def without_overlaps(spans: Iterable[Span]) -> list[Span]:
    """`spans` in order and without overlaps: of two overlapping ones the longer is kept, of equal ones the earlier.

    >>> without_overlaps([(0, 4), (3, 9), (8, 12), (12, 14), (0, 4)])
    [(3, 9), (12, 14)]
    """
    longest_first = sorted(set(spans), key=lambda span: (span[0] - span[1], span[0]))
    taken = bytearray(max((end for _, end in longest_first), default=0))
    kept: list[Span] = []
    for start, end in longest_first:
        # earlier spans are at least as long, so they cover an end of every span that they overlap
        if not taken[start] and not taken[end - 1]:
            taken[start:end] = b"\1" * (end - start)
            kept.append((start, end))
    return sorted(kept)


@dataclass(frozen=True)
class Union:
    """The spans of all `taggers`; of overlapping spans the longer is kept."""

    taggers: tuple[SpanTagger, ...]

    def __call__(self, document: Document) -> list[Span]:
        return without_overlaps(span for tagger in self.taggers for span in tagger(document))


@dataclass(frozen=True)
class RandomSpans:
    """Runs of random words, about `share` of all, of geometric length with `mean`, at most `longest`.

    Of overlapping ones the longer is kept. The spans depend on seed and text only.
    """

    share: float = 0.15
    mean: float = 3.0
    longest: int = 10
    seed: int = 0

    def __call__(self, document: Document) -> list[Span]:
        words = [match.span() for match in WORD.finditer(document.text)]
        rng = np.random.default_rng([self.seed, xxhash.xxh3_64_intdigest(document.text.encode("utf-8", "replace"))])
        count = rng.binomial(len(words), min(1.0, self.share / self.mean))
        firsts = rng.choice(len(words), count, replace=False) if count else ()
        lengths = np.minimum(rng.geometric(1 / self.mean, count), self.longest)
        lasts = (min(int(first + length), len(words)) - 1 for first, length in zip(firsts, lengths, strict=True))
        return without_overlaps((words[first][0], words[last][1]) for first, last in zip(firsts, lasts, strict=True))


class Precomputed:
    """Spans from a file of JSON lines, `{"id": "12", "spans": [[0, 9], [14, 18]]}`, one line for each document.

    A span is two numbers of characters, half open, or these and its text, which is then checked:
    `[0, 9, "Anarchism"]`. Of overlapping spans the longer is kept. The file may be packed (.gz, .xz); all spans are
    held in memory, 8 bytes each.

    Raises:
        DataError: a row is bad; the error names file and line. In a call: the file has no line for the document, or a
            span ends beyond its text or has another text than in the file.
    """

    def __init__(self, path: AnyPath) -> None:
        self.path = path
        self._row: dict[str, int] = {}
        self._span_texts: dict[int, list[str | None]] = {}  # rows whose spans carry their text
        ends, flat = [0], bytearray()

        def own_spans(record: Record) -> list[list[Any]]:
            identifier, spans = _checked_spans(record.values)
            if self._row.setdefault(identifier, len(self._row)) != len(ends) - 1:
                raise RowError(f"document {identifier!r} has a line already; give all its spans in one")
            return spans

        for spans in sound(each(jsonl_records(path, _LONGEST_LINE), own_spans, path)):
            if any(len(span) == 3 for span in spans):
                self._span_texts[len(ends) - 1] = [span[2] if len(span) == 3 else None for span in spans]
            flat += np.array([span[:2] for span in spans], np.uint32).tobytes()
            ends.append(ends[-1] + len(spans))
        self._spans: Int[np.ndarray, "n 2"] = np.frombuffer(bytes(flat), np.uint32).reshape(-1, 2)
        self._ends = np.array(ends)

    def __call__(self, document: Document) -> list[Span]:
        row = self._row.get(document.id)
        if row is None:
            raise DataError(
                f"{self.path}: has no line for document {document.id!r}; tag the same corpus that is prepared, and "
                "give documents without spans an empty list"
            )
        spans = [(int(start), int(end)) for start, end in self._spans[self._ends[row] : self._ends[row + 1]]]
        span_texts = self._span_texts.get(row, [None] * len(spans))
        for (start, end), span_text in zip(spans, span_texts, strict=True):
            self._check(document, start, end, span_text)
        return without_overlaps(spans)

    def _check(self, document: Document, start: int, end: int, span_text: str | None) -> None:
        text = document.text
        if end > len(text):
            wrong = f"ends beyond its {len(text)} characters"
        elif span_text not in (None, text[start:end]):
            wrong = f"holds {text[start:end]!r:.60}, and not {span_text!r:.60}"
        else:
            return
        raise DataError(
            f"{self.path}: document {document.id!r}: the span [{start}, {end}] {wrong}; spans are counted in "
            "characters (not bytes) of the text that the corpus gives"
        )


def _checked_spans(values: dict[str, Any]) -> tuple[str, list[list[Any]]]:
    spans = values.get("spans")
    if not isinstance(spans, list):
        raise RowError(f"the spans are {spans!r:.60}, not a list")
    for span in spans:
        sound = isinstance(span, list) and len(span) in (2, 3) and all(type(at) is int for at in span[:2])
        if not sound or not 0 <= span[0] < span[1] < 1 << 32 or not all(isinstance(one, str) for one in span[2:]):
            raise RowError(f"one of the spans is {span!r:.60}, not [start, end] or [start, end, text] with start < end")
    return as_id(values.get("id"), "the document id"), spans


def _runs_without_spaces(text: str, sentences: Sequence[str]) -> tuple[list[int], list[int], list[int]]:
    """For each run of `sentences` without white space: its place in `text` and in its sentence, and the sentence."""
    starts, places, owners = [], [], []
    at = 0
    for owner, sentence in enumerate(sentences):
        place = 0
        for piece in sentence.split(" "):
            at = text.index(piece, at)  # the next run, so only white space is skipped
            starts.append(at)
            places.append(place)
            owners.append(owner)
            at += len(piece)
            place += len(piece) + 1
    return starts, places, owners
