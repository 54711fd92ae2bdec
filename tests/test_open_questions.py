import gzip
import json

import pytest

from dense_jax.data.sources.open_questions import OpenQuestion, open_questions, sound_questions
from dense_jax.data.sources.queries import text_id
from dense_jax.errors import DataError
from dense_jax.types import Reject


def write(path, *rows):
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), "utf-8")
    return path


def contents(path, **options):
    return [(row.text, row.answers) for row in sound_questions(path, **options)]


def test_nq_open_and_dpr_rows_with_ids_made_of_their_texts(tmp_path):
    path = write(
        tmp_path / "nq.jsonl",
        {"question": "who", "answer": ["Ann", "Bo", "Ann"]},
        {"question": "when", "answers": ["1912"], "positive_ctxs": []},
        {"question": "where", "answer": "Oslo"},
    )
    assert contents(path) == [("who", ("Ann", "Bo")), ("when", ("1912",)), ("where", ("Oslo",))]
    assert sound_questions(path)[0].id == text_id("who")


def test_packed_rows_say_that_their_answers_are_patterns(tmp_path):
    path = tmp_path / "trec.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"question": "when", "answers": ["19\\\\d\\\\d"], "answers_are": "regex"}\n'))
    assert sound_questions(path) == [OpenQuestion(text_id("when"), "when", (r"19\d\d",), patterns=True)]


def test_a_file_can_be_said_to_hold_patterns(tmp_path):
    path = write(tmp_path / "trec.jsonl", {"question": "when", "answers": [r"19\d\d"]})
    assert [sound_questions(path, patterns=said)[0].patterns for said in (False, True)] == [False, True]


def test_lists_in_cells_as_json_and_as_python_spells_them(tmp_path):
    path = write(
        tmp_path / "nq.csv",
        "who\t['Ann', \"Bo's\"]",
        'when\t"[""1912"", ""d\'Or""]"',
        'where\t["S\\u00e3o"]',
        "what\t['a\\\\d', '\\d']",
    )
    assert contents(path) == [
        ("who", ("Ann", "Bo's")),
        ("when", ("1912", "d'Or")),
        ("where", ("São",)),
        ("what", (r"a\d", r"\d")),
    ]


def test_a_cell_is_never_executed(tmp_path):
    path = write(tmp_path / "nq.tsv", "who\t[print('x')]", "who\tAnn", "who\t['Ann'", f"who\t{'[' * 10_000}")
    rows = list(open_questions(path))
    assert [row.where for row in rows if isinstance(row, Reject)] == [f"{path}:{line}" for line in (1, 2, 3, 4)]
    assert "not a list such as" in rows[0].reason


def test_squad_with_its_impossible_questions_rejected(tmp_path):
    qas = [
        {"id": "q1", "question": "who", "answers": [{"text": "Ann", "answer_start": 0}, {"text": "Ann"}]},
        {"id": "q2", "question": "when", "answers": [], "is_impossible": True},
        {"id": "q3", "question": "why", "answers": []},
        "no object",
    ]
    squad = {"data": [{"title": "T", "paragraphs": [{"context": "Ann is here.", "qas": qas}]}]}
    path = write(tmp_path / "squad.json", squad)
    first, *others = open_questions(path)
    assert first == OpenQuestion("q1", "who", ("Ann",))
    assert [row.where for row in others] == [f"{path}:{number}" for number in (2, 3, 4)]
    assert "impossible" in others[0].reason and "no answer" in others[1].reason


def test_an_array_and_beir_queries_with_answers_in_their_metadata(tmp_path):
    row = {"_id": 7, "text": "who", "metadata": {"answers": ["Ann"]}}
    for path in (write(tmp_path / "queries.jsonl", row), write(tmp_path / "queries.json", [row])):
        assert sound_questions(path) == [OpenQuestion("7", "who", ("Ann",))]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("{", "is not JSON"),
        ({"answers": ["x"]}, "the query is None, not a string"),
        ({"question": " ", "answers": ["x"]}, "the query is empty"),
        ({"question": "who"}, "no answer: the answers are None"),
        ({"question": "who", "answers": []}, "no answer"),
        ({"question": "who", "answers": ["x", ""]}, "one of the answers is ''"),
        ({"question": "who", "answers": [3]}, "one of the answers is 3"),
        ({"question": "who", "answers": {"a": 1}}, "not a text or a list"),
        ({"_id": "q", "question": "when", "answers": ["x"]}, "question id 'q' has another text"),
        ({"_id": True, "question": "when", "answers": ["x"]}, "question id is True"),
    ],
)
def test_a_bad_row_is_told_with_its_line(tmp_path, row, reason):
    path = write(tmp_path / "nq.jsonl", {"_id": "q", "question": "who", "answers": ["x"]}, row)
    (bad,) = [row for row in open_questions(path) if isinstance(row, Reject)]
    assert bad.where == f"{path}:2" and reason in bad.reason
    with pytest.raises(DataError, match=r"nq\.jsonl:2: "):
        sound_questions(path)


def test_a_question_may_stand_twice_and_a_set_may_not_be_empty(tmp_path):
    row = {"question": "who", "answers": ["x"]}
    assert len(sound_questions(write(tmp_path / "twice.jsonl", row, row))) == 2
    with pytest.raises(DataError, match="holds no question"):
        sound_questions(write(tmp_path / "empty.jsonl"))
