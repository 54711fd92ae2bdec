"""Salient spans that regular expressions find in English text: dates, quantities, money, percentages and numbers.

A single digit by itself is not a span.

Every repeat is bounded and every alternative starts at the edge of a word, so backtracking is bounded.
"""

import re

from dense_jax.data.salient.taggers import Span, without_overlaps
from dense_jax.types import Document

_START = r"(?<![\w.,:/$€£¥-])"  # not inside a word or a number
_END = r"(?![\w])"
_NUMBER = r"(?:\d{1,3}(?:,\d{3}){1,6}(?:\.\d{1,9})?|\d{1,15}(?:\.\d{1,9})?)(?!\d)(?![,.:]\d)"
_SMALL = "two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|(?:thir|four|fif|six|seven|eigh|nine)teen"
_TENS = "(?:twen|thir|for|fif|six|seven|eigh|nine)ty(?:-(?:one|two|three|four|five|six|seven|eight|nine))?"
_SPELLED = rf"(?:one|{_SMALL}|{_TENS})"
_SCALE = r"(?:hundred|thousand|million|billion|trillion)"
_AMOUNT = rf"(?:{_NUMBER}|{_SPELLED})(?:[ -]{_SCALE}){{0,2}}"
_ORDINAL = (
    r"(?:\d{1,2}(?:st|nd|rd|th)|first|second|third|fourth|fifth|sixth|seventh|eighth|ninth|tenth|eleventh|twelfth|"
    r"(?:thir|four|fif|six|seven|eigh|nine)teenth|twentieth|twenty-first)"
)
_MONTH = (
    "(?:January|February|March|April|May|June|July|August|September|October|November|December|"
    r"(?:Jan|Feb|Mar|Apr|Jun|Jul|Aug|Sept?|Oct|Nov|Dec)\.?)"
)
_DAY = r"\d{1,2}(?:st|nd|rd|th)?(?!\d)"
_ERA = r"(?:BCE|BC|CE|AD|B\.C\.(?:E\.)?|A\.D\.)"
_YEAR = r"(?:1\d{3}|20\d{2})(?!\d)"
_TO = r"(?: ?[-–] ?| to )"  # noqa: RUF001
_UNIT = (
    r"(?:(?:square|cubic) )?(?:kilomet(?:er|re)s?|met(?:er|re)s?|centimet(?:er|re)s?|millimet(?:er|re)s?|km/h|km[²2]?|"
    r"cm|mm|m²?|mi|miles?|feet|foot|ft|inch(?:es)?|yards?|acres?|hectares?|ha|kilograms?|grams?|kg|mg|tons?|tonnes?|pounds?|"
    r"lbs?|ounces?|lit(?:er|re)s?|gallons?|barrels?|degrees?|°[CF]?|kelvins?|watts?|kilowatts?|megawatts?|MW|kW|volts?|"
    r"hertz|Hz|kHz|MHz|GHz|bytes?|bits?|KB|MB|GB|mph|knots?|seconds?|minutes?|hours?|days?|weeks?|months?|years?|"
    r"decades?|centuries|century|people|inhabitants|persons|men|women|soldiers|troops|students|members|households)"
)
_CURRENCY = (
    r"(?:(?:US|U\.S\.|American|Canadian|Australian) )?(?:dollars?|euros?|pounds?(?: sterling)?|yen|yuan|francs?|marks?|"
    r"rubles?|roubles?|rupees?|pesos?|cents?|shillings?|USD|EUR|GBP)"
)
_SIGN = r"(?:(?:US|CA?|AU?|NZ|HK)?\$|€|£|¥)"

_EDGES = {
    "date": (
        rf"{_DAY} (?:of )?{_MONTH}(?:,? {_YEAR})?"
        rf"|{_MONTH} {_DAY}(?:,? ?{_YEAR})?|{_MONTH},? (?:of )?{_YEAR}"
        r"|\d{4}-\d{2}-\d{2}|\d{1,2}/\d{1,2}/\d{2,4}"
        rf"|(?:the )?{_ORDINAL}[ -]century(?: {_ERA})?"
    ),
    "year": (
        rf"\d{{1,5}}(?:{_TO}| and )\d{{1,5}} {_ERA}|(?:AD|A\.D\.) \d{{1,4}}|\d{{1,5}} {_ERA}"
        rf"|{_YEAR}(?: ?[-–/] ?(?:\d{{4}}|\d{{2}}))?|(?:1\d|20)\d0'?s"  # noqa: RUF001
    ),
    "quantity": rf"{_AMOUNT}(?:{_TO}{_AMOUNT})?[ -]?{_UNIT}",
    "money": rf"{_AMOUNT} {_CURRENCY}",
    "percentage": rf"{_AMOUNT}%?(?:{_TO}{_AMOUNT})? ?(?:percent|per cent|percentage points)",
    "number": rf"{_NUMBER}(?: {_SCALE}){{1,2}}|(?!\d(?!\d|[,.]\d)){_NUMBER}|{_SPELLED}(?:[ -]{_SCALE}){{1,2}}|{_TENS}",
}
_OPEN = {  # those that may end in a sign, or begin with one
    "money": rf"(?<!\w){_SIGN} ?{_NUMBER}(?:[ -]{_SCALE}|[MmBb]n?\b)?(?!\w)",
    "percentage": rf"{_START}{_NUMBER}%?(?:{_TO}{_NUMBER})? ?%",
}
_PATTERNS = [re.compile(f"{_START}(?:{body}){_END}") for body in _EDGES.values()]
_PATTERNS += [re.compile(body) for body in _OPEN.values()]


class Patterns:
    """Dates, years, quantities, money, percentages and numbers; of overlapping ones the longest.

    >>> text = "On 4 May 1912 it cost $3.5 million, or 12% of 40,000 square miles."
    >>> [text[start:end] for start, end in Patterns()(Document("", "", text))]
    ['4 May 1912', '$3.5 million', '12%', '40,000 square miles']
    """

    def __call__(self, document: Document) -> list[Span]:
        return without_overlaps(match.span() for pattern in _PATTERNS for match in pattern.finditer(document.text))
