import math

import pytest

from dense_jax.data.sources.queries import JudgedQuery, ScoredDocument, merge_queries
from dense_jax.errors import DataError


def query(positives, negatives="", identifier="q", text="who"):
    return JudgedQuery(identifier, text, tuple(map(ScoredDocument, positives)), tuple(map(ScoredDocument, negatives)))


def only(*queries):
    (joined,) = merge_queries(queries)
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
    rows = [query("a", identifier=identifier) for identifier in "yxyz"]
    assert [joined.id for joined in merge_queries(rows)] == ["y", "x", "z"]


def test_two_texts_under_one_query_id_are_refused():
    assert len(merge_queries([query("a", text="who is"), query("b", text=" who  is ")])) == 1
    with pytest.raises(DataError, match="query id 'q' has two texts, 'who' and 'what'; give one"):
        merge_queries([query("a"), query("b", text="what")])
