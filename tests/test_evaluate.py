"""Evaluation, with a retriever that always gives the same ranking: only the evaluator is on trial."""

import json

import numpy as np
import pytest

from dense_jax.config import FusionConfig
from dense_jax.errors import ConfigError
from dense_jax.retrieval import beir, runs
from dense_jax.retrieval.evaluate import EvaluatedRetriever, evaluate, table, write
from dense_jax.retrieval.fusion import Fusion
from dense_jax.types import Ranking

IDS = [f"d{row}" for row in range(150)]
DEPTH = 100


def in_order_of_rows(queries, k):
    """Every query finds rows 0, 1, 2, ..."""
    return Ranking(
        np.tile(-np.arange(k, dtype=np.float32), (len(queries), 1)), np.tile(np.arange(k), (len(queries), 1))
    )


def nothing(queries, k):
    return Ranking(np.full((len(queries), k), -np.inf, np.float32), np.full((len(queries), k), -1))


def judged(qrels: dict[str, dict[str, int]], **changes) -> beir.TestSet:
    given = {"name": "set", "split": "test", "queries": dict.fromkeys(qrels, "text"), "qrels": qrels}
    return beir.TestSet(**given | {"unknown_queries": ()} | changes)


def test_the_mean_is_that_of_the_ranking_found():
    result = evaluate(in_order_of_rows, IDS, judged({"q1": {"d0": 1}, "q2": {"d3": 1}}), DEPTH)
    assert result.scores.mean["MRR@10"] == (1 + 1 / 4) / 2


def test_per_query_values_stay_with_their_query():
    result = evaluate(in_order_of_rows, IDS, judged({"q1": {"d0": 1}, "q2": {"d3": 1}}), DEPTH)
    assert (result.scores.per_query["q1"]["MRR@10"], result.scores.per_query["q2"]["MRR@10"]) == (1.0, 1 / 4)


def test_the_run_holds_as_many_documents_as_asked_for():
    result = evaluate(in_order_of_rows, IDS, judged({"q1": {"d0": 1}}), DEPTH)
    assert list(result.run["q1"]) == IDS[:DEPTH]


def test_a_corpus_smaller_than_the_depth_is_ranked_whole():
    result = evaluate(in_order_of_rows, IDS[:7], judged({"q1": {"d0": 1}}), DEPTH)
    assert list(result.run["q1"]) == IDS[:7]


def test_a_querys_own_document_is_dropped_and_another_moves_up():
    result = evaluate(in_order_of_rows, IDS, judged({"d0": {"d1": 1}}), DEPTH)
    assert result.scores.mean["MRR@10"] == 1.0
    assert list(result.run["d0"]) == IDS[1 : DEPTH + 1]
    assert result.notes() == ["set/test: 1 results had their query's own id and were dropped, as BEIR does"]


def test_a_dropped_document_that_is_relevant_is_reported():
    result = evaluate(in_order_of_rows, IDS, judged({"d0": {"d0": 1, "d1": 1}}), DEPTH)
    assert result.notes()[1] == (
        "set/test: 1 of these were judged relevant: rename the queries unless they are documents"
    )


def test_documents_of_several_passages_still_fill_the_run():
    result = evaluate(in_order_of_rows, [f"d{row // 3}" for row in range(600)], judged({"q": {"d99": 1}}), DEPTH)
    assert len(result.run["q"]) == DEPTH
    assert result.scores.mean["Recall@100"] == 1.0


def test_queries_that_find_nothing_count_zero_and_are_reported():
    result = evaluate(nothing, IDS, judged({"q1": {"d0": 1}}), DEPTH)
    assert result.scores.mean["nDCG@10"] == 0.0
    assert result.notes() == ["set/test: 1 queries found nothing and count 0"]


def test_judged_documents_that_are_not_in_the_corpus_stay_in_the_denominator_and_are_reported():
    result = evaluate(in_order_of_rows, IDS, judged({"q1": {"d0": 1, "gone": 1}}), DEPTH)
    assert result.scores.mean["Recall@100"] == 1 / 2
    assert result.notes() == ["set/test: 1 judged documents are not in the corpus and cannot be found"]


def test_judged_queries_without_a_text_are_reported():
    result = evaluate(in_order_of_rows, IDS, judged({"q1": {"d0": 1}}, unknown_queries=("q8", "q9")), DEPTH)
    assert result.notes() == ["set/test: 2 judged queries have no text and are left out"]


def test_a_note_about_a_ranking_names_its_row_and_one_about_the_test_set_does_not():
    result = evaluate(nothing, IDS, judged({"q1": {"gone": 1}}), DEPTH)
    assert result.notes("before training") == [
        "set/test, before training: 1 queries found nothing and count 0",
        "set/test: 1 judged documents are not in the corpus and cannot be found",
    ]


def test_empty_queries_that_are_left_out_are_named_with_file_and_line():
    test_set = judged({"q1": {"d0": 1}}, unknown_queries=("q8", "q9"), empty_queries=("queries.jsonl:8",))
    assert evaluate(in_order_of_rows, IDS, test_set, DEPTH).notes() == [
        "set/test: 2 judged queries have no text and are left out; empty: queries.jsonl:8"
    ]


def test_a_depth_that_cuts_recall_short_is_refused():
    with pytest.raises(ConfigError, match=r"evaluate.depth=10 is less than the 100 documents of Recall@100"):
        evaluate(in_order_of_rows, IDS, judged({"q1": {"d0": 1}}), 10)


def test_a_result_is_written_as_figures_and_run(tmp_path):
    result = evaluate(in_order_of_rows, IDS, judged({"q1": {"d3": 1}}), DEPTH)
    write(tmp_path, EvaluatedRetriever("after training", "after", 10, result))
    written = json.loads((tmp_path / "after.json").read_text())
    assert (written["collection"], written["counts"]["queries"]) == ("set/test", 1)
    assert written["mean"]["MRR@10"] == written["per_query"]["q1"]["MRR@10"] == 1 / 4
    assert runs.read_trec_run(tmp_path / "after.trec") == result.run


def test_the_figures_of_a_hybrid_name_its_fusion_and_what_chose_the_weight(tmp_path):
    result = evaluate(in_order_of_rows, IDS, judged({"q1": {"d3": 1}}), DEPTH)
    fusion = Fusion(FusionConfig(weight=0.7), chosen_on="set/dev")
    write(tmp_path, EvaluatedRetriever("BM25 + dense", "hybrid_after", 10, result, fusion))
    written = json.loads((tmp_path / "hybrid_after.json").read_text())
    assert written["fusion"] == {"method": "rrf", "weight": 0.7, "depth": 100, "chosen_on": "set/dev"}
    assert written["step"] == 10


def test_white_space_in_ids_is_percent_encoded_in_the_run_file_and_noted(tmp_path):
    ids = ["Geneva Durben", "50%\tof"]
    result = evaluate(in_order_of_rows, ids, judged({"a query": {"Geneva Durben": 1}}), DEPTH)
    write(tmp_path, EvaluatedRetriever("after training", "after", 10, result))
    lines = (tmp_path / "after.trec").read_text().splitlines()
    assert [line.split()[:3:2] for line in lines] == [["a%20query", "Geneva%20Durben"], ["a%20query", "50%25%09of"]]
    assert json.loads((tmp_path / "after.json").read_text())["per_query"]["a query"]["MRR@10"] == 1.0
    assert result.notes() == [
        "set/test: ids hold white space, which a TREC run cannot express: there it is percent-encoded, as %20, "
        "and % as %25"
    ]


def test_ids_without_white_space_stay_as_they_are_in_the_run_file(tmp_path):
    result = evaluate(in_order_of_rows, ["50%"], judged({"q": {"50%": 1}}), DEPTH)
    write(tmp_path, EvaluatedRetriever("after training", "after", 10, result))
    assert (tmp_path / "after.trec").read_text().split()[2] == "50%"
    assert result.notes() == []


def test_the_table_is_markdown_with_the_headline_figures():
    found = evaluate(in_order_of_rows, IDS, judged({"q1": {"d0": 1}, "q2": {"d1": 1}}), DEPTH)
    assert table({"BM25": found, "after": evaluate(nothing, IDS, judged({"q1": {"d0": 1}}), DEPTH)}) == (
        "|       | nDCG@10 | MRR@10 | Recall@100 |\n"
        "| ----- | ------: | -----: | ---------: |\n"
        "| BM25  |   0.815 |  0.750 |      1.000 |\n"  # nDCG: (1 + 1 / log2(3)) / 2
        "| after |   0.000 |  0.000 |      0.000 |"
    )
