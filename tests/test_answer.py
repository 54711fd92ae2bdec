"""Answers by a reader that is right by construction: a span scores what its first and its last token weigh."""

import json
import math
from dataclasses import dataclass, field

import jax.numpy as jnp
import numpy as np
import pytest

from dense_jax.augmented.qa_report import JudgedQuestions, Provenance, read_judged_questions, report
from dense_jax.augmented.question_answering import ReaderOnMesh, Reading, render_answer
from dense_jax.config import MeshConfig
from dense_jax.data.answers import nq_open_normalised, squad_normalised
from dense_jax.data.sources.open_questions import OpenQuestion
from dense_jax.data.stores.question_set import tokenised_answers
from dense_jax.data.tokenizer import Tokenizer
from dense_jax.errors import ConfigError, DataError
from dense_jax.losses.spans import candidate_spans
from dense_jax.mesh import make_mesh
from dense_jax.types import Document, Passage, PassageCollection, Ranking, Reader, SourceRows

TEXTS = [
    'Yesterday  the CAFÉ "Chez Zoë" was closed.',
    "In 1912 the ship sank.",
    "the ship of 1915",
    "The café was open.",
]
TOKENIZER = Tokenizer.train([*TEXTS, "which one was open when"] * 3, vocab_size=300, lowercase=True)
LENGTH, WIDTH = 24, 3


@dataclass
class Texts(PassageCollection):
    texts_: list[str] = field(default_factory=lambda: list(TEXTS))

    def __len__(self):
        return len(self.texts_)

    def __getitem__(self, row):
        return self.passages([row])[0]

    def ids(self):
        return [f"d{row}" for row in range(len(self))]

    def parts(self):
        return [SourceRows("texts", range(len(self)), 0)]

    def document(self, row):
        return Document(f"d{row}", f"Title {row}", self.texts_[row])

    def passages(self, rows) -> list[Passage]:
        raise AssertionError("the reader tokenises the text itself")


def reader(batch=8, temperature=1.0, compiled=None, **weights):
    """Of two passages a question; `weights` are those of words, which are pieces of the vocabulary; others weigh 0."""
    table = np.zeros(TOKENIZER.size, np.float32)
    for word, weight in weights.items():
        (piece,) = TOKENIZER.encode([word.strip("_")])[0].tolist()
        table[piece] = weight
    starts, ends = candidate_spans(LENGTH, WIDTH)

    def score(params, tokens):
        if compiled is not None:
            compiled.append(tokens.ids.shape)
        weight = params["weights"][tokens.ids]
        return weight[:, starts] + weight[:, ends]

    model = Reader(score, {"weights": jnp.asarray(table)}, LENGTH, WIDTH, passages=2, temperature=temperature)
    return ReaderOnMesh(model, TOKENIZER, 8, make_mesh(MeshConfig()), batch)


def ranked(*rows, scores=None):
    rows = np.array(rows)
    return Ranking(np.zeros(rows.shape, np.float32) if scores is None else np.array([scores], np.float32), rows)


def read(said: ReaderOnMesh, ranking, *questions) -> list[Reading]:
    return list(said.read(list(questions) or ["which one"] * len(ranking.rows), ranking, Texts()))


def test_an_answer_is_spelled_as_in_its_passage():
    (reading,) = read(reader(chez=1.0, zoe=2.0), ranked([0, 1]))
    assert reading.answer.text == "Zoë"
    (reading,) = read(reader(the=3.0, cafe=3.5), ranked([0, 1]))
    assert reading.answer.text == "CAFÉ"  # once more than "the CAFÉ"
    assert (reading.answer.document.id, reading.answer.document.title) == ("d0", "Title 0")
    assert TEXTS[0][reading.answer.start : reading.answer.end] == "CAFÉ"


def test_the_scores_of_the_passages_count_divided_by_the_temperature():
    def best(temperature):
        said = reader(temperature=temperature, _1912=1.0, _1915=2.0)
        return read(said, ranked([1, 2], scores=[1.5, 0.0]))[0].answer.text

    assert best(temperature=1.0) == "1915"  # 4 against 2 + 1.5
    assert best(temperature=0.5) == "1912"  # 4 against 2 + 3


def test_the_share_is_of_all_spans_of_all_passages_that_were_read():
    store = Texts(["open", "closed"])
    (reading,) = reader(open=0.5).read(["which"], ranked([0, 1], scores=[0.0, 0.0]), store)
    assert reading.answer.text == "open"
    assert reading.answer.share == pytest.approx(math.e / (math.e + 1), rel=1e-5)  # 0.5 twice, against 0


def test_the_question_is_no_answer_and_is_read_as_far_as_its_tower_sees_it():
    (reading,) = read(reader(which=9.0, _1912=1.0), ranked([1, 2]), "which which which which which which which one")
    assert reading.answer.text == "1912"
    assert [one.read.start for one in reading.passages] == [8, 8]  # six tokens of the question and two special ones


def test_what_was_not_found_is_not_read():
    readings = read(reader(_1912=1.0), ranked([1, -1], [-1, -1]))
    assert (readings[0].answer.text, len(readings[0].passages)) == ("1912", 1)
    assert readings[1] == Reading(None, [])


def test_answers_do_not_depend_on_the_batch_and_one_program_is_compiled():
    ranking, compiled = ranked(*[[i % 4, (i + 1) % 4] for i in range(19)]), []
    small = read(reader(8, compiled=compiled, _1912=1.0, closed=3.0, open=2.0), ranking)
    large = read(reader(24, _1912=1.0, closed=3.0, open=2.0), ranking)
    assert [one.answer.text for one in small] == [one.answer.text for one in large]
    assert [one.answer.text for one in small][:4] == ["closed", "1912", "open", "closed"]
    assert compiled == [(16, LENGTH)]


def test_a_batch_that_does_not_split_is_refused():
    with pytest.raises(ConfigError, match=r"answer.batch=3 is not divisible by 8 data devices"):
        reader(batch=3)


def test_an_answer_is_shown_with_its_share_and_in_its_passage():
    (reading,) = read(reader(_1912=1.0), ranked([1, -1]))
    lines = render_answer("when\x1b[0m", reading.answer, 60).splitlines()
    assert lines[0] == "when [0m"
    assert lines[1].split() == [f"{reading.answer.share:.3f}", "1912"]
    assert [line.strip() for line in lines[2:]] == ["Title 1", "In [[1912]] the ship sank."]
    assert "no passage was found" in render_answer("when", None, 60)


# Figures

ABOUT = Provenance("nq.jsonl", "passages", passages=4, step=7)
QUESTIONS = [
    OpenQuestion("a", "when", ("1912", "in 1912")),
    OpenQuestion("b", "when", ("1915",)),
    OpenQuestion("c", "which", ("The Café", "ship of 1915")),
    OpenQuestion("d", "who", ("Nobody",)),
]


def asked(*questions, normalise=nq_open_normalised):
    return JudgedQuestions(questions, tokenised_answers(questions, TOKENIZER), normalise)


def reported(said, *questions, ranking=None, **settings):
    ranking = ranking or ranked([1, 2], [1, 2], [1, 0], [1, 0])
    return report(asked(*questions, **settings), lambda texts, k: ranking, Texts(), said, ABOUT)


def test_exact_match_oracle_and_answer_recall_of_questions_worked_out_by_hand():
    found = reported(reader(_1912=1.0), *QUESTIONS)
    assert [line["prediction"] for line in found.lines] == ["1912"] * 4
    assert [line["rank"] for line in found.lines] == [1, 2, 2, None]
    assert [line["oracle"] for line in found.lines] == [True, True, True, False]
    assert found.figures == {
        "exact_match": 0.25,
        "reader_oracle": 0.75,
        "AnswerRecall@1": 0.25,
        "AnswerRecall@5": 0.75,
        "AnswerRecall@20": 0.75,
        "AnswerRecall@100": 0.75,
    }


def test_an_answer_wider_than_all_spans_is_in_no_oracle():
    found = reported(reader(), OpenQuestion("a", "which", ("ship of 1915 or",)), ranking=ranked([2, -1]))
    assert not found.lines[0]["oracle"]
    four = OpenQuestion("a", "which", ("the ship of 1915",))
    found = reported(reader(), four, ranking=ranked([2, -1]))
    assert (found.lines[0]["oracle"], found.lines[0]["rank"]) == (False, 1)


def test_regular_expressions_match_an_answer_from_its_start():
    years = OpenQuestion("a", "when", (r"19\d2",), patterns=True)
    found = reported(reader(_1912=1.0), years, ranking=ranked([1, -1]))
    assert (found.convention, found.figures["exact_match"]) == ("regular expressions", 1.0)
    found = reported(reader(ship=1.0), years, ranking=ranked([1, -1]))
    assert (found.lines[0]["correct"], found.lines[0]["oracle"]) == (False, True)
    inside = OpenQuestion("a", "when", (r"912",), patterns=True)
    assert not reported(reader(), inside, ranking=ranked([1, -1])).lines[0]["oracle"]


def test_squads_convention_keeps_accents_apart_and_nq_opens_does_not():
    cafe = OpenQuestion("a", "which", ("cafe\u0301",))
    for normalise, correct in ((nq_open_normalised, True), (squad_normalised, False)):
        found = reported(reader(cafe=1.0), cafe, ranking=ranked([0, -1]), normalise=normalise)
        assert (found.lines[0]["prediction"], found.lines[0]["correct"]) == ("CAFÉ", correct)


def test_without_a_reader_the_retriever_alone_is_measured_and_the_table_says_so():
    found = reported(None, *QUESTIONS)
    assert list(found.figures) == [f"AnswerRecall@{k}" for k in (1, 5, 20, 100)]
    assert "prediction" not in found.lines[0]
    assert "answer recall of the retriever; no reader" in found.table()
    assert "exact_match" not in found.table()


def test_the_files_hold_every_question_all_figures_and_the_table(tmp_path):
    found = reported(reader(_1912=1.0), *QUESTIONS)
    found.write(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert [line["id"] for line in lines] == ["a", "b", "c", "d"]
    assert lines[0]["passage"] == {"id": "d1", "title": "Title 1", "text": TEXTS[1]}
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert (figures["step"], figures["count"], figures["convention"]) == (7, 4, "NQ-open")
    assert figures["figures"] == found.figures
    assert {q: of["exact_match"] for q, of in figures["per_query"].items()} == {"a": 1.0, "b": 0.0, "c": 0.0, "d": 0.0}
    for name, value in found.figures.items():
        assert sum(of[name] for of in figures["per_query"].values()) / 4 == value
    assert "| step 7 |         4 |       0.250 |" in (tmp_path / "table.md").read_text()


def test_a_file_of_questions_says_by_its_form_how_answers_are_compared(tmp_path):
    rows = [{"question": "when", "answer": ["1912"]}, {"question": "when", "answer": ["1915"]}]
    path = tmp_path / "nq.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_judged_questions(path, TOKENIZER, patterns=False)
    assert [question.answers for question in found.questions] == [("1915",)]  # of one id the last counts
    assert found.convention == "NQ-open"
    assert read_judged_questions(path, TOKENIZER, patterns=True).convention == "regular expressions"
    squad = {"data": [{"paragraphs": [{"context": "In 1912.", "qas": [
        {"id": "q", "question": "when", "answers": [{"text": "1912"}]}]}]}]}  # fmt: skip
    (tmp_path / "squad.json").write_text(json.dumps(squad))
    assert read_judged_questions(tmp_path / "squad.json", TOKENIZER, patterns=False).convention == "SQuAD"
    with pytest.raises(DataError, match=r"nq\.jsonl:1: no answer"):
        path.write_text('{"question": "when"}\n')
        read_judged_questions(path, TOKENIZER, patterns=False)
