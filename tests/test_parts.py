"""The best of several parts: by score, then by row, as a search in all of it would give."""

import numpy as np
import pytest

from dense_jax.config import MeshConfig
from dense_jax.mesh import make_mesh
from dense_jax.retrieval.exact import ExactSearch
from dense_jax.retrieval.vector_search import map_rows, merge_rankings, search_all_parts
from dense_jax.types import Ranking

NOTHING = -np.inf


def ranking(*queries: list[tuple[float, int]]) -> Ranking:
    """What is found for each query, as pairs of score and row."""
    pairs = np.array(queries)
    return Ranking(pairs[..., 0].astype(np.float32), pairs[..., 1].astype(np.int32))


def pairs(found: Ranking) -> list[list[tuple[float, int]]]:
    return [list(zip(*query, strict=True)) for query in zip(found.scores.tolist(), found.rows.tolist(), strict=True)]


def test_the_best_of_two_parts_alternate_by_score():
    found = merge_rankings([ranking([(9, 0), (5, 4), (1, 2)]), ranking([(8, 7), (6, 1), (0, 3)])], 3)
    assert pairs(found) == [[(9, 0), (8, 7), (6, 1)]]


def test_of_equal_scores_the_lower_row_comes_first_whichever_part_it_is_in():
    first, second = ranking([(5, 4), (5, 6), (2, 0)]), ranking([(5, 1), (5, 5), (2, 3)])
    expected = [[(5, 1), (5, 4), (5, 5), (5, 6), (2, 0)]]
    assert pairs(merge_rankings([first, second], 5)) == pairs(merge_rankings([second, first], 5)) == expected


def test_a_part_with_too_few_is_filled_from_the_other():
    found = merge_rankings([ranking([(3, 2), (NOTHING, -1)]), ranking([(-7, 0), (NOTHING, -1)])], 2)
    assert pairs(found) == [[(3, 2), (-7, 0)]]


def test_where_all_parts_have_too_few_the_last_places_are_empty():
    found = merge_rankings([ranking([(3, 2), (NOTHING, -1)]), ranking([(NOTHING, -1), (NOTHING, -1)])], 2)
    assert pairs(found) == [[(3, 2), (NOTHING, -1)]]


def test_each_query_is_merged_by_itself():
    found = merge_rankings([ranking([(1, 0)], [(2, 0)]), ranking([(2, 1)], [(1, 1)])], 1)
    assert pairs(found) == [[(2, 1)], [(2, 0)]]


def test_a_part_finds_rows_of_the_whole_and_says_where_it_has_no_more():
    """It has rows 3, 4 and 8 of the whole; of the four asked for, it finds its three."""
    part = map_rows(lambda queries, k: ranking([(7, 2), (5, 0), (1, 1)]), np.array([3, 4, 8]))
    assert pairs(part(np.zeros((1, 2), np.float32), 4)) == [[(7, 8), (5, 3), (1, 4), (NOTHING, -1)]]


def test_an_empty_part_finds_nothing():
    part = map_rows(lambda queries, k: ranking([(NOTHING, -1)]), np.arange(0))
    assert pairs(part(np.zeros((1, 2), np.float32), 2)) == [[(NOTHING, -1), (NOTHING, -1)]]


def test_an_exact_search_in_no_vectors_at_all_finds_nothing():
    """There may be more processes than files of vectors."""
    search = ExactSearch(np.empty((0, 2), np.float32), make_mesh(MeshConfig())).search
    assert pairs(search(np.ones((1, 2), np.float32), 2)) == [[(NOTHING, -1), (NOTHING, -1)]]


@pytest.mark.parametrize("parts", [1, 2, 5, 9])
def test_a_corpus_in_any_number_of_parts_is_searched_as_a_whole(parts):
    """Scores of few values, so that many are equal; rows are dealt out in turn, and some parts are smaller than k."""
    scores = np.random.default_rng(0).integers(0, 4, (3, 24)).astype(np.float32)

    def find_in(own):
        def find(queries, k):
            order = np.argsort(-scores[:, own], axis=1, kind="stable")[:, :k]
            return Ranking(np.take_along_axis(scores[:, own], order, 1), order)

        return map_rows(find, own)

    found = search_all_parts([find_in(np.arange(number, 24, parts)) for number in range(parts)])(
        np.zeros((3, 2), np.float32), 6
    )
    expected = np.argsort(-scores, axis=1, kind="stable")[:, :6]
    np.testing.assert_array_equal(found.rows, expected)
    np.testing.assert_array_equal(found.scores, np.take_along_axis(scores, expected, 1))
