"""What a visit takes of a question, and the example made of it."""

import dataclasses

import numpy as np
import pytest

from dense_jax.data.questions import QuestionLayout
from dense_jax.types import Candidates, Guide, Layout, TrainingQuery
from tests.toys import VOCABULARY, MemoryStore

STORE = MemoryStore(passages=20)
LAYOUT = QuestionLayout(negatives=2, query_length=6, passage_length=8, layout=Layout.BODY, known=3)


def candidates(*rows: int, scores: tuple[float, ...] = ()) -> Candidates:
    return Candidates(np.array(rows, np.int32), np.array(scores or [np.nan] * len(rows), np.float32))


def question(epoch: int = 0, **changes) -> TrainingQuery:
    made = TrainingQuery(
        row=7,
        epoch=epoch,
        tokens=np.array([11, 12, 13], np.int32),
        positives=candidates(3, 4),
        negatives=candidates(10, 11, 12, 13, 14),
        documents=STORE,
    )
    return dataclasses.replace(made, **changes)


def test_positives_take_turns_from_epoch_to_epoch():
    assert [LAYOUT.texts(question(epoch))[0] for epoch in range(4)] == [3, 4, 3, 4]


def test_every_negative_is_taken_once_before_any_is_taken_again():
    taken = [row for epoch in range(5) for row in LAYOUT.texts(question(epoch))[1:]]
    assert sorted(taken) == sorted([10, 11, 12, 13, 14] * 2)
    assert sorted(taken[:4]) != [10, 11, 12, 13]  # in an order of the question's own
    assert len(set(taken[:5])) == 5


def test_a_question_with_too_few_negatives_takes_none_twice():
    assert sorted(LAYOUT.texts(question(negatives=candidates(10)))) == [3, 10]
    assert LAYOUT.texts(question(negatives=candidates())) == [3]


def test_an_example_holds_the_positive_first_and_marks_what_is_absent():
    made = LAYOUT.example(question(negatives=candidates(10)), VOCABULARY)
    assert made["texts"].tolist() == [3, 10, -1]
    assert made["known"].tolist() == [3, 4, -1]
    assert made["query"].ids.tolist() == [VOCABULARY.cls, 11, 12, 13, VOCABULARY.sep, VOCABULARY.pad]
    assert made["passages"].ids.shape == (3, 8)
    words = STORE[3].tokens[:6].tolist()
    assert made["passages"].ids[0].tolist()[: len(words) + 2] == [VOCABULARY.cls, *words, VOCABULARY.sep]
    assert not made["passages"].mask[2].any()


def test_a_teachers_scores_stay_with_their_passages():
    made = LAYOUT.example(
        question(positives=candidates(3, scores=(9.0,)), negatives=candidates(10, 11, scores=(1.0, 2.0))), VOCABULARY
    )
    scores = dict(zip(made["texts"].tolist(), made["scores"].tolist(), strict=True))
    assert scores == {3: 9.0, 10: 1.0, 11: 2.0}


@pytest.mark.parametrize("layout", [Layout.BODY, Layout.JOINED])
def test_prompts_go_before_what_comes_first(layout):
    vocabulary = dataclasses.replace(VOCABULARY, prompts={"q: ": np.array([40]), "p: ": np.array([41, 42])})
    prompted = dataclasses.replace(LAYOUT, layout=layout, query_prompt="q: ", passage_prompt="p: ")
    made = prompted.example(question(), vocabulary)
    assert made["query"].ids.tolist() == [VOCABULARY.cls, 40, 11, 12, 13, VOCABULARY.sep]
    assert made["passages"].ids[0].tolist()[:3] == [VOCABULARY.cls, 41, 42]


def test_a_guides_vectors_go_with_the_texts():
    documents = np.arange(40, dtype=np.float32).reshape(20, 2)
    guide = Guide(np.array([1.0, 2.0], np.float32), documents)
    made = LAYOUT.example(question(guide=guide, negatives=candidates(10)), VOCABULARY)
    assert made["guide_query"].tolist() == [1.0, 2.0]
    assert made["guide_passages"].tolist() == [[6.0, 7.0], [20.0, 21.0], [0.0, 0.0]]
