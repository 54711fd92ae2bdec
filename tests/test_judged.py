"""Rows of queries, and what is made of those of one query."""

import math

import pytest

from dense_jax.data.preparation.merged_queries import MergedQueries
from dense_jax.data.sources.queries import JudgedQuery, ScoredDocument
from dense_jax.errors import DataError
from tests.query_files import merged


def query(positives, negatives="", identifier="q", text="who"):
    return JudgedQuery(identifier, text, tuple(map(ScoredDocument, positives)), tuple(map(ScoredDocument, negatives)))


def only(*queries):
    (joined,) = merged(queries)
    return joined


def test_rows_of_one_query_are_joined_in_their_order_and_each_document_once():
    joined = only(query("ba", "xy"), query("cb", "zx"))
    assert [document.id for document in joined.positives] == ["b", "a", "c"]
    assert [document.id for document in joined.negatives] == ["x", "y", "z"]


def test_a_document_that_is_a_positive_in_any_row_is_no_negative():
    assert [document.id for document in only(query("a", "bx"), query("b", "ax")).negatives] == ["x"]


def test_the_first_score_of_a_document_is_kept():
    rows = [JudgedQuery("q", "who", (ScoredDocument("a", score),)) for score in (math.nan, 2.0, 3.0)]
    assert only(*rows).positives == (ScoredDocument("a", 2.0),)


def test_queries_stay_in_the_order_of_their_first_rows():
    rows = [query("a", identifier=identifier, text=f"who is {identifier}") for identifier in "yxyz"]
    assert [joined.id for joined in merged(rows)] == ["y", "x", "z"]


def test_queries_of_one_text_are_one_query_under_the_first_id():
    (joined,) = merged([query("a", text="who is"), query("b", identifier="other", text="who  is")])
    assert (joined.id, [document.id for document in joined.positives]) == ("q", ["a", "b"])


def test_a_later_row_may_answer_a_query_that_the_first_row_does_not():
    rows, rejects = [query("?"), query("a"), query("?", identifier="r", text="what")], []
    queries = MergedQueries(lambda: rows, {"a": 0}.get, lambda identifier: True, rejects.append)
    assert [(one.id, one.positives.rows.tolist()) for one in queries] == [("q", [0])]
    assert [reject.where for reject in rejects] == ["query 'r'"]
    assert queries.unknown == 2


def test_two_texts_under_one_query_id_are_refused():
    assert len(merged([query("a", text="who is"), query("b", text=" who  is ")])) == 1
    with pytest.raises(DataError, match="query id 'q' has two texts, 'who' and 'what'; give one"):
        merged([query("a"), query("b", text="what")])
