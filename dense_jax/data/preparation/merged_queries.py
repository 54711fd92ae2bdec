"""The queries of a corpus by rows of its documents: one for each id and each text.

Two passes over the rows of the sources. The first one compares ids and texts by digests, and keeps the judgements of
all rows of a query but its first: 13 bytes each. The second one gives the queries in the order of their first rows.
"""

import math
from array import array
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import NamedTuple

import numpy as np

from dense_jax.arrays import Float, Int
from dense_jax.data.first_values import FirstValues
from dense_jax.data.sources.queries import JudgedQuery, text_id
from dense_jax.data.stores.query_store import StoredQuery
from dense_jax.errors import DataError
from dense_jax.types import Candidates, Reject

_LEFT_OUT, _UNANSWERED, _ANSWERED = range(3)  # marks of rows: no first row of a query; without or with a positive
_POSITIVE, _NEGATIVE = range(2)


class _Judgement(NamedTuple):
    side: int  # _POSITIVE or _NEGATIVE
    document: int  # its row
    score: float  # of a teacher; NaN: missing


class MergedQueries:
    """The queries of the rows that `read` gives, the same ones at each call.

    Rows of one id are one query, and so are queries of one text, white space aside: in a batch they would be negatives
    of each other. A document that is a positive in any row is no negative. The first score of a document is kept.
    """

    def __init__(
        self,
        read: Callable[[], Iterable[JudgedQuery | Reject]],
        row_of: Callable[[str], int | None],
        is_chosen: Callable[[str], bool],
        reject: Callable[[Reject], None],
    ) -> None:
        """Run the first pass.

        `row_of` maps the id of a document to its row; equal texts have one row. Queries whose id is not chosen are
        left out. Bad rows, and then the queries that have no positive among the documents, are passed to `reject`.

        Raises:
            DataError: the rows of one id differ in the text.
        """
        self._read, self._row_of = read, row_of
        self.unknown = 0  # documents that queries name and that have no row
        self._marks = bytearray()  # of each row
        self._later = _LaterJudgements()
        first_rows = _FirstRows(read)
        for number, row in enumerate(read()):
            self._marks.append(_LEFT_OUT)
            if isinstance(row, Reject):
                reject(row)
                continue
            first = first_rows.of(row, number)
            if first == number and is_chosen(row.id):
                self._marks[first] = _UNANSWERED
            if self._marks[first] != _LEFT_OUT:
                self._note(first, number, row)
        for query in self._unanswered():
            names = ", ".join(repr(document.id) for document in query.positives[:3])
            reject(Reject(f"query {query.id!r}", f"the corpus has none of its documents: {names}"))

    def __len__(self) -> int:
        """Number of queries with a positive."""
        return self._marks.count(_ANSWERED)

    def __iter__(self) -> Iterator[StoredQuery]:
        later = self._later.by_query()
        for number, (mark, row) in enumerate(zip(self._marks, self._read(), strict=False)):
            if mark == _ANSWERED and isinstance(row, JudgedQuery):
                yield StoredQuery(row.id, row.text, *_sides([*self._judgements(row), *later(number)]))

    def _note(self, first: int, number: int, row: JudgedQuery) -> None:
        judgements = [*self._judgements(row)]
        self.unknown += len(row.positives) + len(row.negatives) - len(judgements)
        if any(one.side == _POSITIVE for one in judgements):
            self._marks[first] = _ANSWERED
        if first != number:
            self._later.add(first, judgements)

    def _judgements(self, row: JudgedQuery) -> Iterator[_Judgement]:
        for side, documents in enumerate((row.positives, row.negatives)):
            for document in documents:
                if (known := self._row_of(document.id)) is not None:
                    yield _Judgement(side, known, document.score)

    def _unanswered(self) -> Iterator[JudgedQuery]:
        if _UNANSWERED in self._marks:
            for mark, row in zip(self._marks, self._read(), strict=False):
                if mark == _UNANSWERED and isinstance(row, JudgedQuery):
                    yield row


class _FirstRows:
    """The first row of the query of each row; `read` gives all rows."""

    def __init__(self, read: Callable[[], Iterable[JudgedQuery | Reject]]) -> None:
        self._read = read
        self._of_ids, self._of_texts = FirstValues(), FirstValues()

    def of(self, query: JudgedQuery, number: int) -> int:
        """
        Raises:
            DataError: an earlier row of the id has another text.
        """
        text = " ".join(query.text.split())
        if query.id.endswith(text_id(query.text)):  # made of the text, of a query without one
            return self._of_texts.setdefault(text, number)
        known = self._of_ids.get(query.id)
        if known is None:
            return self._of_ids.setdefault(query.id, self._of_texts.setdefault(text, number))
        if self._of_texts.get(text) != known:
            earlier = next(islice(self._read(), known, None))
            assert isinstance(earlier, JudgedQuery)
            raise DataError(
                f"query id {query.id!r} has two texts, {earlier.text!r:.80} and {query.text!r:.80}; "
                "give one of the queries another id"
            )
        return known


class _LaterJudgements:
    """Judgements of queries by the number of their first row, in the order in which they were added."""

    def __init__(self) -> None:
        self._queries, self._sides, self._documents, self._scores = array("I"), array("B"), array("I"), array("f")

    def add(self, query: int, judgements: Iterable[_Judgement]) -> None:
        for side, document, score in judgements:
            self._queries.append(query)
            self._sides.append(side)
            self._documents.append(document)
            self._scores.append(score)

    def by_query(self) -> Callable[[int], Iterator[_Judgement]]:
        """A function that returns those of a query."""
        queries: Int[np.ndarray, " j"] = np.array(self._queries)
        order = np.argsort(queries, kind="stable")
        queries = queries[order]

        def of(query: int) -> Iterator[_Judgement]:
            start, end = queries.searchsorted((query, query + 1))
            return (_Judgement(self._sides[i], self._documents[i], self._scores[i]) for i in order[start:end])

        return of


def _sides(judgements: Iterable[_Judgement]) -> tuple[Candidates, Candidates]:
    """Positives and negatives."""
    found: tuple[dict[int, float], dict[int, float]] = ({}, {})
    for side, document, score in judgements:
        if math.isnan(found[side].setdefault(document, score)):
            found[side][document] = score
    positives, negatives = found
    return _candidates(positives), _candidates({row: negatives[row] for row in negatives if row not in positives})


def _candidates(scores: dict[int, float]) -> Candidates:
    values: Float[np.ndarray, " k"] = np.array(list(scores.values()), np.float32)
    return Candidates(np.array(list(scores), np.int32), values)
