"""Text -> sentences -> passages: pure functions of strings and lengths.

Sentences are split by rule (a break, a terminator, no abbreviation): ORQA used NLTK's Punkt, whose model is a download.
Every function is linear in its input, whatever that holds.
"""

import re
from collections.abc import Callable, Iterator, Sequence

_UNWRAPPED = 120  # a longer line was not wrapped by hand, so its end is the end of a paragraph

# A terminator with what may close after it. Bounded repeats only: nothing here can backtrack.
_CANDIDATE = re.compile(r"[.!?…][\"'”’»)\]`*]{0,3} |[。！？][”’」』）]{0,3} ?")  # noqa: RUF001
_FIELD = r":(?:param|type|return|rtype|raise|yield|arg|key|var|attr|cvar|ivar)"
_BULLET = re.compile(r"[-*+•‣·–] |\d{1,3}[.)] |[a-z]\) |>>> |\.\. |#{1,6} |@\w|\||" + _FIELD)  # noqa: RUF001
_DEFINITION = re.compile(r"[\w.*`]{1,60} ?(?:\([^()]{0,60}\) ?)?:(?: |$)")  # `axis : int`, `x (Array): what`
_RULE = re.compile(r"[-=~^\"'#*_+ ]{3,}$")  # an underline or a separator
_ACRONYM = re.compile(r"[^\W\d_](?:\.[^\W\d_])*$")  # J, U.S, a.m: what stands before the last dot
_OPENING = "([{\"'“‘"  # noqa: RUF001


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Never the end of a sentence.
_ABBREVIATIONS = _words("""
    e.g i.e cf vs viz approx ca mr mrs ms dr prof rev gen col capt lt sgt gov sen rep pres hon messrs mme mlle st mt ft
    fig figs eq eqs eqn sec sect ch chap vol vols no nos nr op pp pg par ref refs ed eds trans resp incl esp dept univ
    jan feb mar apr jun jul aug sep sept oct nov dec
""")
# The end of a sentence only before a word that often starts one; so are initials and acronyms.
_DOUBTFUL = _words("al inc ltd co corp bros jr sr esq ph.d")
_STARTERS = _words("""
    The This That These Those There Then They He She It Its We You In On At As An A And But For From If When While With
    However Although After Before Since During Some Many Most Other His Her Their By To Also Such Because Use See Note
    Returns Return Parameters Raises What Why How Where Who Which
""")


def split_sentences(text: str) -> list[str]:
    """The sentences of `text` in order, white space collapsed to single spaces and nothing else lost.

    Blank lines, bullets, dedents and long unwrapped lines end a sentence, so lists and docstrings come apart too.

    >>> split_sentences("Dr. J. Smith paid 3.5 dollars, e.g. for tea.  He left! Why?")
    ['Dr. J. Smith paid 3.5 dollars, e.g. for tea.', 'He left!', 'Why?']
    """
    return [sentence for unit in _units(text) for sentence in _split_unit(unit)]


def pack_sentences(lengths: Sequence[int], target: int | Callable[[], int], overhead: int = 0) -> list[range]:
    """Greedy runs of whole sentences: the next one joins if overhead + current + next <= target, in tokens.

    A sentence longer than that is a run of its own, and the last partial run is kept (ORQA: target 288 and overhead
    3 + title). A callable `target` is called once for each run (Condenser: sometimes a short one).

    >>> pack_sentences([5, 4, 9, 2], target=12, overhead=3)
    [range(0, 2), range(2, 3), range(3, 4)]
    """
    draw = target if callable(target) else lambda: target
    runs, start, room = [], 0, 0
    for i, length in enumerate(lengths):
        if i == start:
            room = draw() - overhead
        elif length > room:
            runs.append(range(start, i))
            start, room = i, draw() - overhead
        room -= length
    return [*runs, range(start, len(lengths))] if lengths else []


def _units(text: str) -> Iterator[str]:
    """Paragraphs, list items and headings, each with its white space collapsed."""
    unit: list[str] = []
    previous = ""
    for line in text.splitlines():
        if unit and _breaks(previous, line, len(unit)):
            yield " ".join(unit)
            unit = []
        unit += [" ".join(line.split())] if line.strip() else []
        previous = line
    if unit:
        yield " ".join(unit)


def _breaks(previous: str, line: str, lines: int) -> bool:
    """Return whether `line` starts a unit after `previous`, the last of `lines` lines of the current one."""
    stripped = line.lstrip()
    if not stripped or len(previous) > _UNWRAPPED or _BULLET.match(stripped):
        return True
    before = previous.strip()
    if _RULE.match(stripped):
        return False  # it underlines the line above
    if _RULE.match(before):
        return True
    dedent = len(line) - len(stripped) < len(previous) - len(previous.lstrip())
    if dedent and lines > 1:  # an indented first line of a paragraph is no dedent
        return True
    return before[-1] in ".!?:" and _DEFINITION.match(stripped) is not None


def _split_unit(unit: str) -> Iterator[str]:
    start = 0
    for match in _CANDIDATE.finditer(unit):
        if _ends(unit, start, match.start(), match.end()):
            yield unit[start : match.end()].rstrip()
            start = match.end()
    if start < len(unit):
        yield unit[start:]


def _ends(unit: str, start: int, stop: int, following: int) -> bool:
    """Return whether the terminator at `stop` ends the sentence from `start`; the next would begin at `following`."""
    if unit[stop] in "。！？":  # noqa: RUF001
        return True
    if following < len(unit) and unit[following].islower():
        return False
    if unit[stop] != ".":
        return True
    word = unit[max(start, unit.rfind(" ", start, stop) + 1) : stop].lstrip(_OPENING)
    if word.lower() in _ABBREVIATIONS or (word.isdecimal() and stop - len(word) == start):
        return False  # the second is the number of a list item
    if word.lower() in _DOUBTFUL or _ACRONYM.match(word):
        end = unit.find(" ", following)
        return unit[following : end if end > 0 else None].rstrip(",:") in _STARTERS
    return True
