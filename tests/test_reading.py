"""What a reader is given, and where in it an answer stands."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from dense_jax.data.answers import occurrences
from dense_jax.data.reading import answer_places, hold_ids, read_input
from tests.toys import VOCABULARY

CLS, SEP = VOCABULARY.cls, VOCABULARY.sep


def ids(*numbers):
    return np.array(numbers, np.int32)


def test_question_and_passage_stand_in_two_segments_between_special_tokens():
    read = read_input(ids(20, 21), ids(7, 8, 9), 9, VOCABULARY)
    assert read.tokens.ids.tolist() == [CLS, 20, 21, SEP, 7, 8, 9, SEP, VOCABULARY.pad]
    assert read.tokens.types.tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 0]
    assert np.flatnonzero(read.body).tolist() == [4, 5, 6]
    assert read.start == 4


def test_what_does_not_fit_is_cut_from_the_end_of_the_passage_before_the_last_separator():
    read = read_input(ids(20, 21), ids(7, 8, 9), 6, VOCABULARY)
    assert read.tokens.ids.tolist() == [CLS, 20, 21, SEP, 7, SEP]
    assert answer_places(read, [ids(7, 8), ids(7)]).tolist() == [[4, 4]]


def test_an_empty_passage_has_nothing_to_choose():
    read = read_input(ids(20), ids(), 6, VOCABULARY)
    assert not read.body.any()
    assert answer_places(read, [ids(20)]).tolist() == []  # the question's own words are no answer


def test_overlapping_occurrences_all_count():
    read = read_input(ids(), ids(7, 7, 7), 8, VOCABULARY)
    assert answer_places(read, [ids(7, 7)]).tolist() == [[2, 3], [3, 4]]


texts = st.lists(st.integers(5, 7), max_size=6).map(lambda numbers: ids(*numbers))


@given(st.lists(texts, max_size=5), st.lists(texts, max_size=3))
def test_a_passage_holds_an_answer_if_it_occurs_in_that_passage_alone(passages, answers):
    expected = [len(occurrences(passage, answers)) > 0 for passage in passages]
    assert hold_ids(passages, answers).tolist() == expected
