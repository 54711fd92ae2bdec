"""Questions to learn from: what is kept of a file, and that a run keeps to it."""

import json

import numpy as np
import pytest

from dense_jax.data.stores.question_set import QuestionSet
from dense_jax.data.tokenizer import Tokenizer
from dense_jax.errors import DataError
from dense_jax.types import QAExample

TOKENIZER = Tokenizer.train(["who lives in paris and in old rome"] * 3, vocab_size=80, lowercase=True)


def write(path, *rows):
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), "utf-8")
    return path


def ids(text):
    return TOKENIZER.encode([text])[0].tolist()


def test_a_visit_is_a_question_with_its_answers_and_the_ids_of_both(tmp_path):
    path = write(tmp_path / "nq.jsonl", {"question": "who", "answer": ["Paris", "old Rome"]})
    questions = QuestionSet(path, TOKENIZER)
    visit = questions.sample(0, 3, np.random.default_rng(0))
    assert isinstance(visit, QAExample)
    assert (visit.row, visit.tokens.tolist(), visit.answers) == (0, ids("who"), ("Paris", "old Rome"))
    assert [one.tolist() for one in visit.answer_tokens] == [ids("paris"), ids("old rome")]
    assert (questions.document(0).text, questions.ids()) == ("who", [questions.document(0).id])
    (part,) = questions.parts()
    assert (part.rows, part.tokens) == (range(1), len(ids("who")))


def test_answers_that_are_regular_expressions_are_left_out_and_counted(tmp_path):
    path = write(
        tmp_path / "trec.jsonl",
        {"question": "who", "answers": ["Par.s"], "answers_are": "regex"},
        {"question": "where", "answers": ["Rome"]},
    )
    questions = QuestionSet(path, TOKENIZER)
    assert [questions.document(row).text for row in range(len(questions))] == ["where"]
    assert str(questions) == f"{path}: 1 questions, 1 left out, whose answers are regular expressions"


def test_a_file_of_regular_expressions_alone_is_refused(tmp_path):
    path = write(tmp_path / "trec.jsonl", {"question": "who", "answers": ["Par.s"], "answers_are": "regex"})
    with pytest.raises(DataError, match=r"holds no question to learn from; 1 have regular expressions for answers"):
        QuestionSet(path, TOKENIZER)


def test_bad_rows_are_refused_up_to_the_share_that_is_allowed(tmp_path):
    path = write(tmp_path / "nq.jsonl", {"question": "who", "answer": ["Rome"]}, {"question": "who", "answer": []})
    with pytest.raises(DataError) as error:
        QuestionSet(path, TOKENIZER)
    assert "1 of 2 questions cannot be used, which is more than corpus.max_rejects=0 allows" in str(error.value)
    assert f"{path}:2: no answer" in str(error.value)
    assert QuestionSet(path, TOKENIZER, max_rejects=0.5).notes["rejected"] == 1


def test_a_fingerprint_tells_other_questions_apart(tmp_path):
    path = write(tmp_path / "nq.jsonl", {"question": "who", "answer": ["Rome"]})
    before = QuestionSet(path, TOKENIZER).fingerprint
    assert QuestionSet(path, TOKENIZER).fingerprint == before
    write(path, {"question": "who", "answer": ["Paris"]})
    assert QuestionSet(path, TOKENIZER).fingerprint != before
