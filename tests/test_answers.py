import json
import signal
from pathlib import Path

import numpy as np
import pytest

from dense_jax.augmented.qa_metrics import answered_in, is_correct, top_k_accuracy
from dense_jax.data.answers import (
    answer_tokens,
    exact_match,
    has_answer,
    has_pattern,
    holds_raw,
    nq_open_normalised,
    occurrences,
    pattern_match,
    squad_normalised,
)
from dense_jax.data.sources.open_questions import OpenQuestion
from dense_jax.errors import DataError

GOLDEN = json.loads((Path(__file__).parent / "golden" / "contriever" / "qa_matching.json").read_text("utf-8"))


@pytest.mark.parametrize("case", GOLDEN["has_answer"], ids=lambda case: case["text"])
def test_tokens_and_answers_in_passages_are_those_of_the_reference(case):
    assert answer_tokens(case["text"]) == case["tokens"]
    assert has_answer(case["text"], case["answers"]) is case["has_answer"]


def test_normalisation_and_exact_match_are_those_of_the_reference():
    for case in GOLDEN["squad_normalize"]:
        assert squad_normalised(case["in"]) == case["out"] == nq_open_normalised(case["in"])
    for case in GOLDEN["em"]:
        assert exact_match(case["pred"], [case["gold"]]) is case["em"]
        assert exact_match(case["pred"], [case["gold"]], squad_normalised) is case["em"]


def test_top_k_accuracy_is_that_of_the_reference():
    hits = dict(zip("abcd", GOLDEN["topk"]["hits"], strict=True))
    assert list(top_k_accuracy(hits, depths=(1, 2, 3)).mean.values()) == GOLDEN["topk"]["accuracy"]


def test_the_two_normalisations_differ_where_an_accent_is_spelled_in_two_ways():
    composed, decomposed = "caf\u00e9", "cafe\u0301"
    assert exact_match(composed, ["x", decomposed])
    assert not exact_match(composed, ["x", decomposed], squad_normalised)
    assert not exact_match("cafe", [composed])
    # after NFD the accent is no part of a word, so `the` stands alone, as in ORQA's evaluation
    assert (squad_normalised("th\u00e9 vert"), nq_open_normalised("th\u00e9 vert")) == ("th\u00e9 vert", "\u0301 vert")


def test_no_references_match_nothing_and_a_reference_may_normalise_to_nothing():
    assert not exact_match("", [])
    assert exact_match("The!", ["a"])


def test_a_pattern_matches_from_the_start_in_any_case():
    assert pattern_match("CÉSAR Chavez died", ["x", "césar"])
    assert not pattern_match("and César", ["césar"])
    assert not pattern_match("and\nCésar", ["^césar"])  # several lines, but `match` stays at the first
    assert pattern_match("a\nb", ["a$"])


@pytest.mark.parametrize("pattern", ["(", "a{2,1}", "*", "(?P<x>a)(?P<x>b)", "[z-a]", "a{99999999999999}"])
def test_a_bad_pattern_matches_nothing_and_spoils_nothing(pattern):
    assert not pattern_match(pattern, [pattern])
    assert not has_pattern(pattern, [pattern])
    assert pattern_match("1912", [pattern, r"19\d\d"])


@pytest.mark.parametrize("tried", [pattern_match, has_pattern])
def test_a_pattern_that_takes_exponential_time_is_named_within_a_limit(tried, monkeypatch):
    monkeypatch.setattr("dense_jax.data.answers._PATIENCE", 0.2)
    before = signal.getsignal(signal.SIGALRM)
    with pytest.raises(DataError, match=r"the answer pattern '\(a\|aa\)\+\$' takes more than 0\.2 seconds"):
        tried("a" * 60 + "b", ["never", "(a|aa)+$"])
    assert signal.getsignal(signal.SIGALRM) is before
    assert tried("aa", ["(a|aa)+$"])


def test_the_limit_of_a_pattern_leaves_a_timer_that_ran_before_it_running():
    before = signal.setitimer(signal.ITIMER_REAL, 1_000)
    has_pattern("a", ["a"])
    left, _ = signal.setitimer(signal.ITIMER_REAL, *before)
    assert 900 < left <= 1_000


def test_a_pattern_is_found_anywhere_in_a_passage_and_in_either_spelling_of_an_accent():
    assert has_pattern("It sank in\nApril 1912.", ["^april 19(11|12)"])
    assert has_pattern("the cafe\u0301", ["caf\u00e9$"])
    assert not has_pattern("the cafe", ["caf\u00e9"])


def test_the_raw_label_and_the_labels_of_whole_tokens_disagree_inside_words_and_in_case():
    assert holds_raw("comparison", ["paris"]) and not has_answer("comparison", ["paris"])
    assert not holds_raw("Paris", ["paris"]) and has_answer("Paris", ["paris"])
    assert holds_raw("anything", [""])


def test_occurrences_are_inclusive_overlapping_sorted_and_each_once():
    block = np.array([5, 6, 5, 6, 5], np.int32)
    found = occurrences(block, [[5, 6, 5], [6], [5, 6, 5], [6, 6], [], [5, 6, 5, 6, 5, 6]])
    assert found.tolist() == [[0, 2], [1, 1], [2, 4], [3, 3]]
    assert occurrences(block, []).shape == (0, 2)


def question(identifier, *answers, patterns=False):
    return OpenQuestion(identifier, f"who is {identifier}", answers, patterns)


def test_a_question_counts_at_the_rank_of_its_first_passage_with_an_answer():
    texts = {"a": ["Rome.", "in Paris", "Paris"], "b": ["in 1912"], "c": ["Rome."]}
    questions = [question("a", "paris"), question("b", r"19\d\d", patterns=True), question("c", "Oslo")]
    hits = {one.id: [answered_in(one, text) for text in texts[one.id]] for one in questions}
    scores = top_k_accuracy(hits, depths=(1, 2))
    assert scores.mean == {"AnswerRecall@1": pytest.approx(1 / 3), "AnswerRecall@2": pytest.approx(2 / 3)}
    assert scores.per_query["c"] == {"AnswerRecall@1": 0.0, "AnswerRecall@2": 0.0}


def test_predictions_are_matched_as_their_question_says():
    pattern = question("a", "19(11|12)", patterns=True)
    assert is_correct("1912, in April", pattern)
    assert not is_correct("1912", pattern._replace(patterns=False))


def test_no_questions_are_an_error():
    with pytest.raises(DataError, match="no questions"):
        top_k_accuracy({})
