"""Training queries as their source gives them: what answers each, and what does not."""

import math
from typing import NamedTuple


class Scored(NamedTuple):
    """A document that a query was judged with."""

    id: str  # of the source's own; without the prefix that it has where there are several sources
    score: float = math.nan  # of a teacher


class JudgedQuery(NamedTuple):
    """One query of training."""

    id: str
    text: str
    positives: tuple[Scored, ...]  # one at least
    negatives: tuple[Scored, ...] = ()
