"""Salient spans of names: by capitals, and by a list of names."""

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from dense_jax.data.salient.taggers import Span, sentence_words
from dense_jax.types import Document


def _word_set(text: str) -> frozenset[str]:
    return frozenset(text.split())


_INSIDE = _word_set("of the de la le du des del della di da dos von van der den zu und y bin ibn al el")
_ABBREVIATIONS = _word_set("Mr Mrs Ms Dr St Mt Ft Prof Gen Col Lt Sgt Capt Gov Sen Rep Rev Jr Sr No vs")
# Never names by themselves nor the start of one, although they have a capital at the start of a sentence.
_FUNCTION = _word_set("""
    i a an the this that these those there here he she it we you they his her its our your their my him them us me who
    whom whose which what when where why how in on at by for from to of with without within into onto upon over under
    above below between among amongst against about across after before during since until till through throughout
    toward towards via per like unlike despite near beyond behind beside besides along around and or but nor so yet if
    unless because although though while whereas whether as than then thus hence therefore however moreover furthermore
    nevertheless nonetheless meanwhile otherwise instead also too again once only even just still already soon later
    now today not no yes never always often sometimes usually generally perhaps maybe indeed both either neither each
    every all any some many much more most few fewer less least several other others another such same own 
    is are was were be been being am do does did
    done has have had having can could will would shall should might must let don doesn didn isn aren wasn weren
    won couldn wouldn shouldn hasn haven hadn see note given according due up down out off
""")
# The same, but only at the beginning of a sentence: the Second World War.
_NUMERALS = _word_set("one two three four five six seven eight nine ten first second third last next new early late")
_POSSESSIVE = re.compile(r"['’][sS]?$")  # noqa: RUF001
_QUALIFIER = re.compile(r" \([^()]*\)$")  # of a title: Mercury (planet)
_TOKEN = re.compile(r"[^\W_]+|[^\w\s]|_")


@dataclass(frozen=True)
class CapitalisedRuns:
    """Runs of capitalised words, with `of`, `the`, `de`, `von` and the like inside: Joan of Arc, U.S. Army.

    A single word at the start of a sentence counts only if the text, inside sentences, has it more often with the
    capital than without; longer runs lose a first word that does not count and that the text has in lower case. A run
    does not begin with a function word; runs of more than `longest` words, such as headings, do not count.

    >>> text = "In 1430 Joan of Arc left. Later I saw Dr. J. Smith's house. Houses burn."
    >>> [text[start:end] for start, end in CapitalisedRuns()(Document("", "", text))]
    ['Joan of Arc', 'Dr. J. Smith']
    """

    longest: int = 8

    def __call__(self, document: Document) -> list[Span]:
        text = document.text
        usage = _cached_usage(text)
        runs = (run for words in sentence_words(text) for run in _runs(text, words) if len(run) <= self.longest + 2)
        return [span for run in runs if (span := self._span(text, run, usage))]

    def _span(self, text: str, run: list[Span], usage: "_Usage") -> Span | None:
        first = 0
        while first < len(run) and not usage.begins(run, first):
            first += 1
        if first == len(run) or len(run) - first > self.longest:
            return None
        start, end = run[first][0], run[-1][1]
        end -= len(found[0]) if (found := _POSSESSIVE.search(text[run[-1][0] : end])) else 0
        return (start, end) if end - start > 1 else None


class Gazetteer:
    """The longest of `names` at each place, with its own capitals, from the edge of a word to the edge of a word.

    A qualifier in brackets is removed from a name. Function words, single letters, names without a letter and names of
    more than `longest` words and signs are left out. A single word at the start of a sentence counts as in
    `CapitalisedRuns`; as a part of a longer run it does not count: Battle in Battle of Hastings. `names` may be the
    corpus's titles, or answers, but only those of the training split.

    >>> text = "He read The Art of War in New York City."
    >>> names = ["Art", "The Art of War", "New York", "York City", "He"]
    >>> [text[start:end] for start, end in Gazetteer(names)(Document("", "", text))]
    ['The Art of War', 'New York']
    """

    def __init__(self, names: Iterable[str], longest: int = 16) -> None:
        self._known: set[str] = set()
        lengths: dict[str, set[int]] = {}
        for name in names:
            bare = _QUALIFIER.sub("", name.strip())
            tokens = _TOKEN.findall(bare)
            if len(bare) < 2 or len(tokens) > longest or bare.lower() in _FUNCTION or not _has_letter(bare):
                continue
            self._known.add(" ".join(tokens))
            lengths.setdefault(tokens[0], set()).add(len(tokens))
        self._lengths = {token: sorted(own, reverse=True) for token, own in lengths.items()}

    def __call__(self, document: Document) -> list[Span]:
        text = document.text
        places = [match.span() for match in _TOKEN.finditer(text)]
        tokens = [text[start:end] for start, end in places]
        found: list[tuple[int, int]] = []  # first token, number of tokens
        at = 0
        while at < len(tokens):
            length = self._length(tokens, at)
            if length:
                found.append((at, length))
            at += max(length, 1)
        spans = [(places[first][0], places[first + length - 1][1]) for first, length in found]
        if all(length > 1 for _, length in found):
            return spans
        alone = _Alone(document)
        return [span for span, (_, length) in zip(spans, found, strict=True) if length > 1 or alone(span)]

    def _length(self, tokens: list[str], at: int) -> int:
        """Tokens of the longest name that begins at `at`; 0 if no name does."""
        lengths = (one for one in self._lengths.get(tokens[at], ()) if one <= len(tokens) - at)
        return next((one for one in lengths if " ".join(tokens[at : at + one]) in self._known), 0)


class _Alone:
    """Test for single words that are names by themselves."""

    def __init__(self, document: Document) -> None:
        self._usage = _cached_usage(document.text)
        self._runs = CapitalisedRuns()(document)
        self._starts = [start for start, _ in self._runs]

    def __call__(self, word: Span) -> bool:
        before = bisect_right(self._starts, word[0]) - 1
        inside = before >= 0 and word[1] <= self._runs[before][1] and word != self._runs[before]
        return not inside and self._usage.named(word)


class _Usage:
    """Spellings of the words of a text, and the starts of its sentences."""

    def __init__(self, text: str) -> None:
        sentences = sentence_words(text)
        self.text = text
        self._first = {words[0][0] for words in sentences if words}
        self._inside = Counter(_without_possessive(text, word) for words in sentences for word in words[1:])

    def named(self, word: Span) -> bool:
        """True if a single word is a name: its capital is not due to the start of a sentence."""
        bare = _without_possessive(self.text, word)
        begins = word[0] in self._first and bare[:1].isupper()
        return not begins or self._inside[bare] > self._inside[bare.lower()]

    def begins(self, run: list[Span], i: int) -> bool:
        """True if a name can begin with word `i` of `run`."""
        word = run[i]
        bare = _without_possessive(self.text, word)
        stem = bare.lower().replace("’", "'").partition("'")[0]  # noqa: RUF001
        if not bare[:1].isupper() or stem in _FUNCTION:
            return False
        if self.named(word):
            return True
        if stem in _NUMERALS:
            return False
        following = self.text[slice(*run[i + 1])] if i + 1 < len(run) else ""
        if not following:
            return False
        return following[:1].islower() or not self._inside[bare.lower()]


@lru_cache(maxsize=4)  # several taggers read one document in turn
def _cached_usage(text: str) -> _Usage:
    return _Usage(text)


def _runs(text: str, words: Sequence[Span]) -> Iterable[list[Span]]:
    """Runs of capitalised words of one sentence, with the small words inside."""
    run: list[Span] = []
    inside: list[Span] = []
    for word in words:
        capital = text[word[0]].isupper()
        if run and _adjoins(text, (inside or run)[-1], word):
            if capital:
                run += [*inside, word]
                inside = []
                continue
            if text[slice(*word)] in _INSIDE and len(inside) < 2:
                inside.append(word)
                continue
        if run:
            yield run
        run, inside = [word] if capital else [], []
    if run:
        yield run


def _adjoins(text: str, before: Span, after: Span) -> bool:
    """True if only white space, or the dot of an initial or abbreviation, separates the words."""
    gap = text[before[1] : min(after[0], before[1] + 4)]
    if before[1] + len(gap) < after[0] or gap[:1] == "'":
        return False
    word = text[slice(*before)]
    if _POSSESSIVE.search(word):
        return False
    if gap[:1] == "." and (len(word) == 1 or word in _ABBREVIATIONS):
        gap = gap[1:]
        return not gap.strip()
    return bool(gap) and not gap.strip()


def _without_possessive(text: str, word: Span) -> str:
    return _POSSESSIVE.sub("", text[slice(*word)])


def _has_letter(name: str) -> bool:
    return any(character.isalpha() for character in name)
