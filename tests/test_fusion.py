"""Fusion of two rankings, by numbers that can be redone by hand."""

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dense_jax.config import FusionConfig, FusionMethod
from dense_jax.retrieval.fusion import Fusion, at_depth, choose_weight, describe, fuse, fuse_query
from dense_jax.types import Ranking

RRF, ZSCORE = FusionConfig(FusionMethod.RRF), FusionConfig(FusionMethod.ZSCORE)


def fused(lexical: dict[int, float], dense: dict[int, float], fusion: FusionConfig):
    """Each ranking as row -> score, best first."""
    sides = [(np.array([*side], int), np.array([*side.values()], np.float32)) for side in (lexical, dense)]
    return fuse_query(*sides[0], *sides[1], fusion)


def as_dict(found) -> dict[int, float]:
    return dict(zip(found.rows.tolist(), found.scores.tolist(), strict=True))


def test_reciprocal_ranks_are_added_over_the_two_rankings():
    found = fused({3: 9.0, 1: 8.0}, {1: 0.5, 2: 0.4}, RRF)
    assert found.rows.tolist() == [1, 3, 2]
    assert as_dict(found) == pytest.approx({1: (1 / 62 + 1 / 61) / 2, 3: 1 / 61 / 2, 2: 1 / 62 / 2})


def test_scores_have_mean_0_and_deviation_1_in_each_ranking_and_a_missing_document_the_last_value():
    """Scores 4 2 0 have mean 2 and deviation sqrt(8 / 3); scores 1 and 0 become 1 and -1."""
    z = 2 / math.sqrt(8 / 3)
    found = fused({0: 4.0, 1: 2.0, 2: 0.0}, {1: 1.0, 3: 0.0}, ZSCORE)
    expected = {0: (z - 1) / 2, 1: (0 + 1) / 2, 2: (-z - 1) / 2, 3: (-z - 1) / 2}
    assert as_dict(found) == pytest.approx(expected)
    assert found.rows.tolist() == [1, 0, 2, 3]  # of the last two, with equal scores, the lower row first


@pytest.mark.parametrize("method", FusionMethod)
@pytest.mark.parametrize(("weight", "rows"), [(0.0, [5, 6]), (1.0, [7, 8])])
def test_a_weight_of_0_or_1_puts_the_ranking_of_one_side_first(method, weight, rows):
    found = fused({5: 2.0, 6: 1.0, 9: 0.5}, {7: 0.9, 8: 0.8, 9: 0.1}, FusionConfig(method, weight))
    assert found.rows[:2].tolist() == rows


@pytest.mark.parametrize("method", FusionMethod)
def test_a_query_without_a_known_word_has_the_order_of_the_dense_ranking(method):
    found = fused({}, {4: 0.9, 2: 0.8, 7: 0.1}, FusionConfig(method))
    assert found.rows.tolist() == [4, 2, 7]


@pytest.mark.parametrize("score", [1.0, 0.1])
def test_equal_scores_on_one_side_do_not_count(score):
    assert fused({1: score, 2: score, 3: score}, {3: 2.0, 4: 1.0}, ZSCORE).rows.tolist() == [3, 1, 2, 4]


@pytest.mark.parametrize("method", FusionMethod)
def test_each_ranking_is_cut_to_the_depth(method):
    lexical, dense = {1: 3.0, 2: 2.0, 3: 1.0}, {4: 3.0, 5: 2.5, 6: 1.0}
    shallow = FusionConfig(method, depth=2)
    assert as_dict(fused(lexical, dense, shallow)) == as_dict(fused({1: 3.0, 2: 2.0}, {4: 3.0, 5: 2.5}, shallow))


def test_a_document_that_neither_ranking_has_scores_as_the_last_of_both():
    assert fused({0: 4.0, 1: 2.0}, {1: 1.0, 3: 0.0}, ZSCORE).unranked == pytest.approx(-1.0)
    assert fused({0: 4.0, 1: 2.0}, {1: 1.0, 3: 0.0}, RRF).unranked == 0.0


def test_empty_places_are_no_documents_and_stay_at_the_end():
    lexical = Ranking(np.array([[2.0, -np.inf], [-np.inf, -np.inf]]), np.array([[3, -1], [-1, -1]]))
    dense = Ranking(np.array([[0.9], [-np.inf]]), np.array([[3], [-1]]))
    found = fuse(lexical, dense, RRF, 2)
    assert found.rows.tolist() == [[3, -1], [-1, -1]]
    assert found.scores[:, 1].tolist() == [-np.inf, -np.inf]


RANKINGS = st.dictionaries(st.integers(0, 9), st.integers(-3, 3).map(float), max_size=8)


@given(RANKINGS, RANKINGS, st.sampled_from(FusionMethod))
def test_with_equal_weights_the_sides_may_be_exchanged_and_ties_go_to_the_lower_row(one, other, method):
    one, other = (dict(sorted(side.items(), key=lambda item: (-item[1], item[0]))) for side in (one, other))
    found, exchanged = fused(one, other, FusionConfig(method)), fused(other, one, FusionConfig(method))
    assert as_dict(found) == as_dict(exchanged) and found.rows.tolist() == exchanged.rows.tolist()
    assert set(found.rows.tolist()) == one.keys() | other.keys()
    places = list(zip((-found.scores).tolist(), found.rows.tolist(), strict=True))
    assert places == sorted(places)


def test_the_weight_of_the_best_measure_is_chosen_and_of_equal_ones_that_nearest_to_one_half():
    best = choose_weight(RRF, lambda fusion: -abs(fusion.weight - 0.8))
    assert (best.weight, best.method, best.depth) == (0.8, FusionMethod.RRF, 100)
    assert choose_weight(RRF, lambda fusion: 1.0).weight == 0.5


def test_rankings_are_as_deep_as_the_results_that_are_to_be_found():
    assert at_depth(RRF, 500) == replace(RRF, depth=500)
    assert at_depth(RRF, 5) == RRF


def test_the_settings_are_described_with_depth_weight_and_what_chose_it():
    assert describe(Fusion(RRF)) == "reciprocal ranks of the first 100 documents of each, weight 0.5 of the dense side"
    assert describe(Fusion(FusionConfig(FusionMethod.ZSCORE, 0.7, 1_000), "scifact/train")) == (
        "z-scores of the first 1,000 documents of each, weight 0.7 of the dense side, chosen by nDCG@10 on "
        "scifact/train"
    )
