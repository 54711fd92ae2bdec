"""Training queries as their source gives them: what answers each, and what does not."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import NamedTuple

from dense_jax.errors import DataError


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


def merged(queries: Iterable[JudgedQuery]) -> list[JudgedQuery]:
    """One query for each id, in the order of their first rows, with all documents of its rows in their order.

    A document that is a positive in any row is no negative. The first score of a document is kept. Rows of a form
    without query ids have ids made of their text, so equal texts are joined.

    Raises:
        DataError: the rows of one id differ in the text.
    """
    joined: dict[str, _Joined] = {}
    for query in queries:
        known = joined.setdefault(query.id, _Joined(query.text))
        if known.text.split() != query.text.split():
            raise DataError(
                f"query id {query.id!r} has two texts, {known.text!r:.80} and {query.text!r:.80}; "
                "give one of the queries another id"
            )
        known.add(query)
    return [joined_query.query(identifier) for identifier, joined_query in joined.items()]


@dataclass(slots=True)
class _Joined:
    """All that was said of one query so far."""

    text: str
    positives: dict[str, float] = field(default_factory=dict)
    negatives: dict[str, float] = field(default_factory=dict)

    def add(self, query: JudgedQuery) -> None:
        for known, new in ((self.positives, query.positives), (self.negatives, query.negatives)):
            for document, score in new:
                if math.isnan(known.setdefault(document, score)):
                    known[document] = score

    def query(self, identifier: str) -> JudgedQuery:
        positives = tuple(Scored(*item) for item in self.positives.items())
        negatives = tuple(Scored(*item) for item in self.negatives.items() if item[0] not in self.positives)
        return JudgedQuery(identifier, self.text, positives, negatives)
