"""A set of questions with answers -> how many a run answers, and how often it finds a passage that does.

    FOLDER/predictions.jsonl   a line for each question: its answers, the rank of the first passage with one, and what
                               the reader said, with its passage
           figures.json        all figures, of each question too, and what they are of
           table.md            the same for people

Exact match and reader oracle need a reader; a run without one is measured as a retriever alone, by answer recall.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from dense_jax.arrays import Int
from dense_jax.augmented.qa_metrics import DEPTHS, answered_in, is_correct, top_k_accuracy
from dense_jax.augmented.question_answering import ReaderOnMesh, Reading, ReadPassage
from dense_jax.data.answers import Normalise, nq_open_normalised, pattern_match, squad_normalised
from dense_jax.data.reading import answer_places
from dense_jax.data.sources.open_questions import OpenQuestion, is_squad_file, sound_questions
from dense_jax.data.stores.question_set import tokenised_answers
from dense_jax.data.tokenizer import Tokenizer
from dense_jax.io import AnyPath, whole_file, write_json
from dense_jax.locks import in_turn, lock_of
from dense_jax.progress import progress
from dense_jax.retrieval.evaluate import markdown
from dense_jax.retrieval.metrics import Metrics
from dense_jax.retrieval.search import TextSearch
from dense_jax.types import PassageCollection

FIGURES = "figures.json"
Ids = Int[np.ndarray, " _"]


@dataclass(frozen=True)
class JudgedQuestions:
    """Questions, and by what convention their answers are compared."""

    questions: Sequence[OpenQuestion]
    answers: Sequence[Sequence[Ids]]  # of each question
    normalise: Normalise

    @property
    def convention(self) -> str:
        """In words."""
        if all(question.patterns for question in self.questions):
            return "regular expressions"
        return "SQuAD" if self.normalise is squad_normalised else "NQ-open"


@dataclass(frozen=True)
class Provenance:
    """What the figures are of."""

    questions: str  # the file
    collection: str
    passages: int
    step: int  # of the checkpoint


@dataclass(frozen=True)
class Report:
    """Figures, and the questions behind them."""

    about: Provenance
    convention: str
    figures: dict[str, float]
    per_query: dict[str, dict[str, float]]  # question id -> figure -> value
    lines: list[dict[str, Any]]  # one for each question

    def table(self) -> str:
        """The figures as a Markdown table of one line, and what they are."""
        names = ["", "questions", *self.figures]
        row = [f"step {self.about.step:,}", f"{len(self.lines):,}", *(f"{x:.3f}" for x in self.figures.values())]
        reads = "exact_match" in self.figures
        notes = [
            f"{self.about.questions}, answered from {self.about.passages:,} passages of {self.about.collection}",
            f"answers compared as {self.convention}" if reads else "the retriever alone: nothing is read",
        ]
        return "\n".join([markdown([names, row]), "", *notes])

    def write(self, folder: Path) -> None:
        """The three files of `folder`."""
        about = {**asdict(self.about), "count": len(self.lines), "convention": self.convention}
        with in_turn(lock_of(folder)):
            with whole_file(folder / "predictions.jsonl") as partial:
                partial.write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in self.lines))
            write_json(folder / FIGURES, {**about, "figures": self.figures, "per_query": self.per_query})
            with whole_file(folder / "table.md") as partial:
                partial.write_text(self.table() + "\n", encoding="utf-8")


def read_judged_questions(path: AnyPath, tokenizer: Tokenizer, patterns: bool) -> JudgedQuestions:
    """The questions of `path`, each id once; with `patterns`, all answers are regular expressions.

    Raises:
        DataError: naming file and line of a bad row, or there is no question.
    """
    questions = list({question.id: question for question in sound_questions(path, patterns)}.values())
    normalise = squad_normalised if is_squad_file(path) else nq_open_normalised
    return JudgedQuestions(questions, tokenised_answers(questions, tokenizer), normalise)


def report(
    asked: JudgedQuestions, find: TextSearch, store: PassageCollection, reader: ReaderOnMesh | None, about: Provenance
) -> Report:
    """What becomes of each question over the passages of `store`, which `find` searches, and the shares of all."""
    texts = [question.text for question in asked.questions]
    ranking = find(texts, min(max(DEPTHS), len(store)))
    lines = [
        _retrieved(question, rows[rows >= 0].tolist(), store)
        for question, rows in zip(asked.questions, ranking.rows, strict=True)
    ]
    recall, matched = top_k_accuracy({line["id"]: _hits(line["rank"]) for line in lines}), Metrics({}, {})
    if reader:
        readings = progress(reader.read(texts, ranking, store), "read", len(texts), "questions")
        read = zip(lines, asked.questions, asked.answers, readings, strict=True)
        lines = [line | _read(of, reading, ids, asked, reader.reader.width) for line, of, ids, reading in read]
        matched = _matched(lines)
    per_query = {question: matched.per_query.get(question, {}) | of for question, of in recall.per_query.items()}
    return Report(about, asked.convention, matched.mean | recall.mean, per_query, lines)


def _retrieved(question: OpenQuestion, rows: list[int], store: PassageCollection) -> dict[str, Any]:
    """The question, and the rank of the first passage with an answer."""
    texts = (passage.text for passage in store.texts(rows))
    rank = next((rank for rank, text in enumerate(texts, 1) if answered_in(question, text)), None)
    return {"id": question.id, "question": question.text, "answers": question.answers, "rank": rank}


def _hits(rank: int | None) -> list[bool]:
    return [] if rank is None else [False] * (rank - 1) + [True]


def _read(
    question: OpenQuestion, reading: Reading, answers: Sequence[Ids], asked: JudgedQuestions, width: int
) -> dict[str, Any]:
    """What the reader said, and whether it is right, and could have been."""
    answer, oracle = reading.answer, any(_answerable(one, question, answers, width) for one in reading.seen)
    if answer is None:
        return {"prediction": None, "correct": False, "oracle": oracle}
    return {
        "prediction": answer.text,
        "share": round(answer.share, 4),
        "correct": is_correct(answer.text, question, asked.normalise),
        "oracle": oracle,
        "passage": asdict(answer.document),
    }


def _answerable(seen: ReadPassage, question: OpenQuestion, answers: Sequence[Ids], width: int) -> bool:
    """Whether a span to choose from is an answer: by its ids, as in training, or matching a regular expression."""
    if question.patterns:
        spans = (seen.characters(i, min(i + width, seen.tokens) - 1) for i in range(seen.tokens))
        return any(pattern_match(seen.document.text[slice(*span)], question.answers) for span in spans)
    places = answer_places(seen.read, answers)
    return bool((places[:, 1] - places[:, 0] < width).any())


def _matched(lines: Sequence[dict[str, Any]]) -> Metrics:
    """What the reader got right, and what it could have."""
    per_query = {
        line["id"]: {"exact_match": float(line["correct"]), "reader_oracle": float(line["oracle"])} for line in lines
    }
    names = ("exact_match", "reader_oracle")
    return Metrics({name: sum(of[name] for of in per_query.values()) / len(lines) for name in names}, per_query)
