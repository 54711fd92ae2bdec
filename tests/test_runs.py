"""Runs: their order, and TREC files."""

import numpy as np
import pytest

from dense_jax.errors import DataError
from dense_jax.retrieval import runs
from dense_jax.types import Ranking


def test_higher_scores_come_first():
    assert runs.ordered({"a": 1.0, "b": 3.0, "c": 2.0}) == ["b", "c", "a"]


def test_t28_ties_are_broken_by_descending_id_as_a_string():
    assert runs.ordered({"d10": 1.0, "d9": 1.0, "d1": 1.0}) == ["d9", "d10", "d1"]


def test_scores_that_float32_cannot_tell_apart_are_ties():
    assert runs.ordered({"a": 1.0 + 1e-9, "b": 1.0}) == ["b", "a"]


@pytest.mark.parametrize("score", [float("nan"), float("inf"), 1e300])
def test_t28_a_score_that_cannot_be_ranked_is_refused(score):
    with pytest.raises(DataError, match=f"document 'b' has score {score}".replace("+", r"\+")):
        runs.ordered({"a": 1.0, "b": score})


def test_a_ranking_becomes_a_run_without_its_empty_places():
    ranking = Ranking(np.array([[2.0, 1.0], [3.0, -np.inf]]), np.array([[1, 0], [2, -1]]))
    assert runs.from_ranking(ranking, ["q1", "q2"], ["a", "b", "c"]) == {"q1": {"b": 2.0, "a": 1.0}, "q2": {"c": 3.0}}


def test_a_run_is_cut_in_its_own_order():
    assert runs.truncate({"q": {"a": 1.0, "b": 1.0, "c": 2.0}}, 2) == {"q": {"c": 2.0, "b": 1.0}}


def test_t28_documents_with_their_querys_id_are_dropped_and_named():
    kept, dropped = runs.without_identical({"x": {"x": 9.0, "y": 1.0}, "z": {"x": 1.0}})
    assert (kept, dropped) == ({"x": {"y": 1.0}, "z": {"x": 1.0}}, ["x"])


def test_a_run_file_gives_back_every_score_to_the_last_bit(tmp_path):
    run = {"q1": {"d1": 0.1 + 0.2, "d2": -1e-30}, "q2": {"d1": 7.0}}
    runs.write_trec_run(tmp_path / "run.trec", run, "mine")
    assert runs.read_trec_run(tmp_path / "run.trec") == run


def test_a_run_file_has_six_columns_and_ranks_from_one(tmp_path):
    runs.write_trec_run(tmp_path / "run.trec", {"q": {"a": 0.5, "b": 0.5}}, "mine")
    assert (tmp_path / "run.trec").read_text() == "q Q0 b 1 0.5 mine\nq Q0 a 2 0.5 mine\n"


@pytest.mark.parametrize(
    ("query", "document", "tag"), [("q 1", "d", "t"), ("q", "d\t1", "t"), ("q", "", "t"), ("q", "d", "a b")]
)
def test_ids_that_trec_files_cannot_express_are_refused(tmp_path, query, document, tag):
    with pytest.raises(DataError, match="is empty or holds white space, which TREC files cannot express"):
        runs.write_trec_run(tmp_path / "run.trec", {query: {document: 1.0}}, tag)


def test_a_refused_run_leaves_no_file(tmp_path):
    with pytest.raises(DataError):
        runs.write_trec_run(tmp_path / "run.trec", {"good": {"d": 1.0}, "q 1": {"d": 1.0}}, "t")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("q Q0 d 1 0.5", "run.trec:2: 5 columns"),
        ("q Q0 d2 1 high tag", "run.trec:2: score 'high' is not a number"),
        ("q Q0 d 2 0.1 tag", "run.trec:2: query 'q' has document 'd' twice"),
    ],
)
def test_a_bad_run_file_is_refused_with_its_line(tmp_path, line, message):
    (tmp_path / "run.trec").write_text(f"q Q0 d 1 0.5 tag\n{line}\n")
    with pytest.raises(DataError, match=message):
        runs.read_trec_run(tmp_path / "run.trec")


def test_a_missing_run_file_is_named(tmp_path):
    with pytest.raises(DataError, match=r"run.trec: cannot be read"):
        runs.read_trec_run(tmp_path / "run.trec")
