"""Metrics against numbers computed with pytrec_eval and BEIR, and against hand calculation."""

import json
import math
import random
from pathlib import Path

import pytest

from dense_jax.errors import DataError
from dense_jax.retrieval import beir, metrics, runs

GOLDEN = Path(__file__).parent / "golden" / "contriever"
EXPECTED = json.loads((GOLDEN / "metrics_expected.json").read_text())
OURS = {"recip_rank": "MRR", "P": "P", "recall": "Recall", "ndcg_cut": "nDCG", "map_cut": "MAP", "success": "Success"}
EXACT = pytest.approx  # 1e-6 relative: the expected values are doubles, summed in another order


def our_name(golden: str) -> str:
    kind, _, k = golden.rpartition("_")
    return f"{OURS[kind]}@{k}" if k.isdigit() else OURS[golden]


@pytest.fixture(scope="module")
def run():
    """It has ties, scores that only float64 tells apart, an unjudged query, and `d7` as a query and a document."""
    return runs.read_trec_run(GOLDEN / "metrics_run.trec")


@pytest.fixture(scope="module")
def qrels():
    """It has negative grades, a query without a relevant document and one that the run lacks."""
    return beir.read_qrels(GOLDEN / "metrics_qrels.tsv")


@pytest.fixture(scope="module")
def scores(run, qrels):
    names = [our_name(name) for name in EXPECTED["mean"]]
    return metrics.score(run, qrels, [*names, *metrics.MEASURES])


@pytest.mark.parametrize("golden", EXPECTED["mean"])
def test_every_query_scores_as_trec_eval_says(scores, golden):
    for query, expected in EXPECTED["per_query"].items():
        assert scores.per_query[query][our_name(golden)] == EXACT(expected[golden]), query


def test_mrr_at_10_scores_as_trec_eval_says(scores):
    for query, expected in EXPECTED["mrr10"]["per_query"].items():
        assert scores.per_query[query]["MRR@10"] == EXACT(expected), query


def test_exactly_one_judged_query_is_missing_from_the_run(scores):
    assert set(scores.per_query) - set(EXPECTED["queries_scored"]) == {"q_missing"}


def test_t28_a_query_that_the_run_lacks_counts_zero(scores):
    assert set(scores.per_query["q_missing"].values()) == {0.0}


@pytest.mark.parametrize("golden", EXPECTED["mean"])
def test_the_mean_goes_over_all_judged_queries(scores, golden):
    # pytrec_eval's mean leaves out q_missing: 29 queries where we have 30
    assert scores.mean[our_name(golden)] == EXACT(EXPECTED["mean"][golden] * 29 / 30)


def test_beirs_figures_follow_once_identical_ids_are_dropped(run, qrels):
    kept, dropped = runs.without_identical(run)
    judged = {query: grades for query, grades in qrels.items() if query in run}  # as BEIR: only queries of the run
    mean = metrics.score(kept, judged).mean
    found = [round(mean[name], 5) for name in ("nDCG@10", "Recall@100", "MAP@100")]
    assert dropped == ["d7"]
    assert found == [EXPECTED["beir"][name] for name in ("ndcg10", "recall100", "map100")]
    assert mean["nDCG@10"] == EXACT(EXPECTED["identical_ids_removed"]["mean_ndcg10"])


def test_the_query_with_an_identical_document_scores_as_beir_says(run, qrels):
    kept, _ = runs.without_identical(run)
    found = metrics.score(kept, qrels, ["nDCG@10", "MRR@10", "Recall@100"]).per_query["d7"]
    assert list(found.values()) == EXACT(list(EXPECTED["identical_ids_removed"]["d7"].values()))


def test_the_order_in_which_a_run_lists_ties_changes_nothing(run, qrels, scores):
    shuffled = {query: dict(random.Random(0).sample(list(s.items()), len(s))) for query, s in run.items()}
    assert metrics.score(shuffled, qrels).mean == {name: scores.mean[name] for name in metrics.MEASURES}


def test_the_measures_by_hand():
    qrels = {"q": {"a": 2, "b": 1, "c": 0, "gone": 1}}
    run = {"q": {"c": 3.0, "a": 2.0, "b": 1.0}}
    found = metrics.score(run, qrels).mean
    gain, ideal = 2 / math.log2(3) + 1 / math.log2(4), 2 + 1 / math.log2(3) + 1 / math.log2(4)
    assert found["nDCG@10"] == EXACT(gain / ideal)
    assert found["MRR@10"] == EXACT(1 / 2)
    assert found["Recall@100"] == EXACT(2 / 3)  # "gone" is in no corpus and stays in the denominator
    assert found["MAP@100"] == EXACT((1 / 2 + 2 / 3) / 3)
    assert (found["Success@1"], found["Success@5"]) == (0.0, 1.0)


def test_mrr_at_10_ends_at_rank_10():
    run = {"q": {f"d{i:02}": float(-i) for i in range(11)}}
    assert metrics.score(run, {"q": {"d10": 1}}).mean["MRR@10"] == 0.0


def test_the_headline_is_part_of_the_measures():
    assert metrics.MEASURES[:3] == ("nDCG@10", "MRR@10", "Recall@100")


def test_nan_is_refused_with_its_query_and_document():
    with pytest.raises(DataError, match="query 'q': document 'd' has score nan, which cannot be ranked"):
        metrics.score({"q": {"d": float("nan")}}, {"q": {"d": 1}})


def test_no_judgements_are_refused():
    with pytest.raises(DataError, match="no judgements to score against; name a test set"):
        metrics.score({"q": {"d": 1.0}}, {})
