"""Comparison of answers with predictions and with passages.

Each published figure has its own convention; they disagree at times:

    squad_normalised    lower, ASCII punctuation deleted, the words a, an, the deleted, spaces collapsed: SQuAD
    nq_open_normalised  the same after NFD, which takes accents off their letters: ORQA, REALM (section 3.1)
    exact_match         a prediction normalised so is one of the references
    pattern_match       a reference is a regular expression that matches the prediction from its start: CuratedTREC
    has_answer          the tokens of an answer are a run of the passage's tokens, in any case: DPR's top-k accuracy
    has_pattern         a regular expression is found anywhere in a passage: the same for CuratedTREC
    holds_raw           an answer is a substring of a passage, case and all: the positives of ORQA's early loss
    occurrences         the places of an answer's ids in those of a block: the gold spans of ORQA's reader

"caf" + e + a combining accent equals "café"; "cafe" does not.
"""

import contextlib
import re
import signal
import string
import unicodedata
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache

import numpy as np
import regex

from dense_jax.arrays import Int
from dense_jax.errors import DataError

Normalise = Callable[[str], str]

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)
_TOKEN = regex.compile(r"[\p{L}\p{N}\p{M}]+|[^\p{Z}\p{C}]")  # a word, or one sign
_PATTERN_FLAGS = re.IGNORECASE | re.UNICODE | re.MULTILINE
_PATIENCE = 10.0  # seconds for one pattern in one text, which takes microseconds


def squad_normalised(text: str) -> str:
    """`text` as SQuAD compares it.

    >>> squad_normalised("The  U.S.A., twenty-one!")
    'usa twentyone'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_NO_PUNCTUATION)).split())


def nq_open_normalised(text: str) -> str:
    """`text` as NQ-open, WebQuestions and CuratedTREC compare it: both spellings of an accent are one.

    >>> nq_open_normalised("Caf\\u00e9") == nq_open_normalised("the cafe\\u0301")
    True
    """
    return squad_normalised(unicodedata.normalize("NFD", text))


def exact_match(prediction: str, references: Iterable[str], normalise: Normalise = nq_open_normalised) -> bool:
    """True if `prediction` equals any of `references` after normalisation.

    >>> exact_match("Beatles, The", ["Wings", "the Beatles"])
    True
    """
    normalised = normalise(prediction)
    return any(normalise(reference) == normalised for reference in references)


def pattern_match(prediction: str, patterns: Iterable[str]) -> bool:
    """True if any of `patterns` matches `prediction` from its start; an invalid regular expression never does.

    >>> pattern_match("Oct. 12, 1492", [r"oct\\w*\\.? 12", "("]), pattern_match("on Oct. 12", [r"oct\\w*\\.? 12"])
    (True, False)

    Raises:
        DataError: a pattern takes exponential time.
    """
    return any(_matches(pattern, prediction, anywhere=False) for pattern in patterns)


def answer_tokens(text: str) -> list[str]:
    """DPR's tokens: words and single signs after NFD, in lower case.

    >>> answer_tokens("the U.S. army")
    ['the', 'u', '.', 's', '.', 'army']
    """
    return [token.lower() for token in _TOKEN.findall(unicodedata.normalize("NFD", text))]


def has_answer(text: str, answers: Iterable[str]) -> bool:
    """True if the tokens of any of `answers` are a run of the tokens of `text`; an empty answer always is.

    >>> has_answer("He lives in paris, France.", ["Paris"]), has_answer("The comparison failed", ["paris"])
    (True, False)
    """
    spaced = _spaced(text)
    return any(needle in spaced for needle in map(_spaced, answers))


def has_pattern(text: str, patterns: Iterable[str]) -> bool:
    """True if any of `patterns` is found in `text`, both after NFD; one that is no regular expression never is.

    Raises:
        DataError: a pattern takes exponential time.
    """
    decomposed = unicodedata.normalize("NFD", text)
    return any(_matches(unicodedata.normalize("NFD", pattern), decomposed, anywhere=True) for pattern in patterns)


def holds_raw(text: str, answers: Iterable[str]) -> bool:
    """True if any of `answers` is a substring of `text`, also inside a word; an empty answer always is.

    >>> holds_raw("the particle", ["art"]), holds_raw("the Particle", ["part"])
    (True, False)
    """
    return any(answer in text for answer in answers)


def occurrences(
    block: Int[np.ndarray, " l"], answers: Iterable[Int[np.ndarray, " _"] | Sequence[int]]
) -> Int[np.ndarray, "n 2"]:
    """First and last position (inclusive) of every occurrence of any of `answers` in `block`, also overlapping ones.

    Sorted, each once. An answer without ids occurs nowhere.

    >>> occurrences(np.array([7, 7, 7, 2]), [[7, 7], [2], []]).tolist()
    [[0, 1], [1, 2], [3, 3]]
    """
    found: set[tuple[int, int]] = set()
    for answer in map(np.asarray, answers):
        if 0 < len(answer) <= len(block):
            windows = np.lib.stride_tricks.sliding_window_view(block, len(answer))
            starts = np.flatnonzero((windows == answer).all(axis=1)).tolist()
            found.update((start, start + len(answer) - 1) for start in starts)
    return np.array(sorted(found), np.int32).reshape(-1, 2)


def _spaced(text: str) -> str:
    """The tokens of `text`, each between two spaces: tokens hold no space, so a substring is a run of whole tokens."""
    return "".join(f" {token} " for token in answer_tokens(text))


def _matches(pattern: str, text: str, *, anywhere: bool) -> bool:
    found = _compiled(pattern)
    if found is None:
        return False
    with _in_time(pattern, text):
        return bool(found.search(text) if anywhere else found.match(text))


@contextlib.contextmanager
def _in_time(pattern: str, text: str) -> Iterator[None]:
    """A limit on the time of the block, in the main thread: Python's `re` looks at signals while it backtracks."""

    def end(*_) -> None:
        raise DataError(
            f"the answer pattern {pattern!r:.200} takes more than {_PATIENCE:g} seconds on a text of {len(text):,} "
            "characters; write it without repetitions within repetitions, such as (a|aa)+, or leave out its question"
        )

    handler = signal.signal(signal.SIGALRM, end)
    timer = signal.setitimer(signal.ITIMER_REAL, _PATIENCE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, *timer)
        signal.signal(signal.SIGALRM, handler)


@lru_cache(maxsize=4_096)  # one question's patterns are tried on many passages
def _compiled(pattern: str) -> re.Pattern[str] | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of "[[a]", whose meaning has not changed yet
            return re.compile(pattern, _PATTERN_FLAGS)
    except (re.error, OverflowError, RecursionError):
        return None
