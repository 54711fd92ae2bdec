"""Documents with the id of a query: dropped only where the query is that document."""

import numpy as np
import pytest

from dense_jax.config import DropSameId
from dense_jax.retrieval import beir
from dense_jax.retrieval.evaluate import evaluate, own_documents
from dense_jax.types import Document, Ranking

TEXTS = ["Fog over the sea.", "A ship afar.", "The bell rings.", "Oil for the lamp."]
DOCUMENTS = [Document(str(row), f"Title {row}", text) for row, text in enumerate(TEXTS)]
IDS = [document.id for document in DOCUMENTS]


def own(drop, queries, documents=DOCUMENTS):
    ids = [document.id for document in documents]
    return own_documents(drop, queries, ids, lambda rows: [documents[row] for row in rows])


def test_integers_that_meet_by_chance_are_two_things():
    assert own(DropSameId.AUTO, {"0": "what rings?", "1": "what floats?"}) == frozenset()


@pytest.mark.parametrize("text", ["a  SHIP\nafar.", "Title 1 A ship afar.", "title 1"])
def test_a_query_with_the_text_of_its_document_is_that_document(text):
    assert own(DropSameId.AUTO, {"0": "what?", "1": text, "2": "which?"}) == {"1"}


def test_where_half_of_the_queries_are_their_documents_all_are():
    """As in ArguAna, some of whose queries are spelled a little differently."""
    assert own(DropSameId.AUTO, {"0": "Fog over the sea", "1": "A ship afar.", "q": "what?"}) == {"0", "1"}


def test_a_document_in_several_passages_is_compared_whole():
    pieces = [Document("1", "Title 1", "A sh"), Document("1", "Title 1", "ip afar."), Document("2", "", "x")]
    assert own(DropSameId.AUTO, {"1": "A ship afar."}, pieces) == {"1"}


def test_always_and_never_look_at_ids_alone():
    queries = {"0": "what?", "q": "A ship afar."}
    assert (own(DropSameId.ALWAYS, queries), own(DropSameId.NEVER, queries)) == ({"0"}, frozenset())


def result(drop):
    """Both queries find all documents in their order; the document of query 0 has another text."""
    qrels = {"0": {"0": 1}, "1": {"0": 1}, "2": {"3": 1}}
    test_set = beir.TestSet("set", "test", {"0": "what?", "1": TEXTS[1], "2": "x"}, qrels, ())
    rows = np.tile(np.arange(4), (3, 1))
    ranking = Ranking(-rows.astype(np.float32), rows)
    return evaluate(lambda texts, k: ranking, IDS, test_set, 100, own(drop, test_set.queries))


def test_a_kept_document_counts_and_the_note_names_the_row_and_the_setting():
    found = result(DropSameId.AUTO)
    assert [list(found.run[query]) for query in ("0", "1", "2")] == [IDS, ["0", "2", "3"], IDS]
    dropped, kept = found.notes("BM25")
    assert dropped == "set/test, BM25: 1 results had their query's own id and were dropped, as BEIR does"
    assert kept == (
        "set/test, BM25: 2 results have their query's own id and another text, and are kept; "
        "evaluate.drop_same_id=always drops them, as BEIR does"
    )


def test_always_drops_and_never_keeps_every_document_with_its_querys_id():
    always, never = result(DropSameId.ALWAYS), result(DropSameId.NEVER)
    assert [query in always.run[query] for query in ("0", "1", "2")] == [False, False, False]
    assert [query in never.run[query] for query in ("0", "1", "2")] == [True, True, True]
    assert never.notes("BM25") == [
        "set/test, BM25: 3 results have their query's own id, and are kept; "
        "evaluate.drop_same_id=always drops them, as BEIR does"
    ]
