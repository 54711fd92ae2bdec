"""ORQA as a user runs it: a toy world of who lives where, questions about half of it to learn from, the rest asked."""

import json
import random
from pathlib import Path

import pytest

from dense_jax.__main__ import run
from dense_jax.io import read_json
from tests.buckets import bucket_in
from tests.test_end_to_end import ROOT, process

NAMES = [a + b for a in ("ka", "lo", "mi", "nu", "pe", "ro") for b in ("dan", "fel", "gor", "hin", "jas", "kel")]
CITIES = ["Rome", "Oslo", "Lima", "Cairo", "Delhi", "Perth", "Quito", "Sofia"]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    folder, rng = tmp_path_factory.mktemp("world"), random.Random(0)
    homes = {name: rng.choice(CITIES) for name in NAMES}
    documents = [
        {"_id": name, "title": name, "text": f"{who} was seen last year. {who} now lives in {city}. The house is old."}
        for name, city in homes.items()
        for who in (name.capitalize(),)
    ]
    questions = [{"question": f"where does {name} live", "answer": [city]} for name, city in homes.items()]
    rng.shuffle(questions)
    for file, rows in {"documents": documents, "train": questions[:24], "test": questions[24:]}.items():
        (folder / f"{file}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def arguments(world: Path, workdir: Path, *more: str) -> list[str]:
    small = {
        "corpus.source": world / "documents.jsonl",
        "corpus.questions": world / "train.jsonl",
        "tokenizer.vocab_size": 200,
        "objective.encoder.bert.width": 32,
        "objective.encoder.bert.feed_forward": 64,
        "objective.query_length": 16,
        "objective.reader_length": 48,
        "objective.retrieved": 20,
        "objective.span_width": 4,
        "optimizer.learning_rate": 0.003,
        "steps": 80,
        "checkpoint.every": 80,
        "log_every": 10,
    }
    flags = [f"--{key}={value}" for key, value in small.items()]
    return [f"--config={ROOT / 'configs' / 'orqa.py'}:tiny", f"--workdir={workdir}", *flags, *more]


def train(world: Path, workdir: Path, *more: str) -> tuple[int, str]:
    running = process("train", *arguments(world, workdir, *more))
    _, said = running.communicate(timeout=250)
    return running.returncode, said


@pytest.fixture(scope="module")
def trained(world, tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("run")
    assert run(["prepare", *arguments(world, workdir)]) == 0
    status, said = train(world, workdir)
    assert status == 0, said
    assert run(["index", *arguments(world, workdir)]) == 0
    return workdir


def figures(world, workdir, step: int) -> dict:
    asked = (f"--answer.questions={world / 'test.jsonl'}", f"--embed.step={step}")
    assert run(["answer", *arguments(world, workdir, *asked)]) == 0
    return read_json(workdir / "results" / "test-answers" / "figures.json")


@pytest.mark.slow
def test_training_answers_questions_that_it_did_not_learn_from(world, trained, capsys):
    before, after = (figures(world, trained, step) for step in (0, 80))
    assert (before["step"], after["step"], after["count"]) == (0, 80, 12)
    assert before["figures"]["exact_match"] <= 0.25
    assert after["figures"]["exact_match"] >= 0.75
    said = capsys.readouterr().out
    assert "test.jsonl, answered from 36 passages of documents.jsonl\nanswers compared as NQ-open" in said
    assert (trained / "results" / "test-answers" / "table.md").read_text() in said


@pytest.mark.slow
def test_the_retriever_alone_is_measured_where_nothing_is_to_be_read(world, trained, tmp_path):
    test = tmp_path / "unread.jsonl"
    test.write_bytes((world / "test.jsonl").read_bytes())
    alone = (f"--answer.questions={test}", "--embed.step=80", "--answer.read=false")
    assert run(["answer", *arguments(world, trained, *alone)]) == 0
    found = read_json(trained / "results" / "unread-answers" / "figures.json")["figures"]
    both = figures(world, trained, 80)["figures"]
    assert found == {name: value for name, value in both.items() if name.startswith("AnswerRecall")}


@pytest.mark.slow
def test_questions_in_a_bucket_are_answered(world, trained, tmp_path, monkeypatch, capsys):
    questions = bucket_in(tmp_path, monkeypatch) / "asked.jsonl"
    questions.parent.mkdir()
    questions.write_bytes((world / "test.jsonl").read_bytes())
    assert run(["answer", *arguments(world, trained, "--answer.questions=s3://bucket/asked.jsonl")]) == 0
    assert "asked.jsonl, answered from 36 passages" in capsys.readouterr().out
    assert read_json(trained / "results" / "asked-answers" / "figures.json")["count"] == 12


@pytest.mark.slow
def test_passages_keep_their_vectors_so_all_checkpoints_share_an_index(trained):
    (made,) = (trained / "index").glob("*/")
    assert made.name.startswith("passages-00000000-")


@pytest.mark.slow
def test_a_question_is_answered_as_in_the_file_with_its_passage_in_the_spelling_of_the_passage(world, trained, capsys):
    figures(world, trained, 80)
    lines = (trained / "results" / "test-answers" / "predictions.jsonl").read_text().splitlines()
    known = next(line for line in map(json.loads, lines) if line["correct"])
    capsys.readouterr()
    assert run(["answer", *arguments(world, trained), known["question"]]) == 0
    question, answer, title, *passage = capsys.readouterr().out.rstrip().splitlines()
    assert question == known["question"]
    share, word = answer.split()
    assert (float(share), word) == (pytest.approx(known["share"], abs=1e-3), known["prediction"])
    assert word in CITIES
    assert title.strip() == known["passage"]["title"]
    assert f"now lives in [[{word}]]. The house is old." in " ".join(line.strip() for line in passage)


@pytest.mark.slow
def test_words_and_a_file_of_questions_are_not_both_answered(world, trained, capsys):
    more = (f"--answer.questions={world / 'test.jsonl'}", "where")
    assert run(["answer", *arguments(world, trained, *more)]) == 2
    assert "answer got where and answer.questions=" in capsys.readouterr().err


@pytest.mark.slow
def test_the_towers_are_exported_and_shown(world, trained, capsys):
    assert run(["export", *arguments(world, trained)]) == 0
    assert (trained / "export" / "query" / "modules.json").is_file()
    assert run(["show", *arguments(world, trained), "--full"]) == 0
    assert 'answers: \'{"texts":["' in capsys.readouterr().out


@pytest.mark.slow
def test_a_run_refuses_other_questions_than_it_began_with(world, trained, tmp_path):
    path = tmp_path / "train.jsonl"
    path.write_text((world / "test.jsonl").read_text())
    asked = arguments(world, trained, f"--corpus.questions={path}", "--steps=81")
    running = process("train", *asked)
    _, said = running.communicate(timeout=100)
    assert running.returncode == 2
    assert f"corpus.questions={path}: its content is not what this run began with" in said


@pytest.mark.slow
def test_training_without_questions_names_the_setting(world, tmp_path, capsys):
    assert run(["prepare", *arguments(world, tmp_path)]) == 0
    capsys.readouterr()
    assert run(["show", *arguments(world, tmp_path, "--corpus.questions=")]) == 2
    assert "Orqa learns from questions with answers; name their file by --corpus.questions=FILE" in (
        capsys.readouterr().err
    )
