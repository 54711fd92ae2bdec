"""Evaluation of open-domain question answering: answer recall of the retriever, exact match of the reader.

    FOLDER/predictions.jsonl   a line for each question: answers, rank of the first passage with one, prediction
           figures.json        all figures, also of each question, and their provenance
           table.md            the means as a table

A run without a reader has answer recall alone. The reader oracle counts questions with an answer among the spans that
the reader chose from.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from typing_extensions import TypedDict

from dense_jax.arrays import Int
from dense_jax.augmented.qa_metrics import DEPTHS, answered_in, is_correct, top_k_accuracy
from dense_jax.augmented.question_answering import ReaderOnMesh, Reading, ReadPassage
from dense_jax.data.answers import Normalise, nq_open_normalised, pattern_match, squad_normalised
from dense_jax.data.reading import answer_places
from dense_jax.data.sources.open_questions import OpenQuestion, is_squad_file, sound_questions
from dense_jax.data.stores.question_set import tokenised_answers
from dense_jax.data.tokenizer import Tokenizer
from dense_jax.io import AnyPath, Count, whole_file, write_json
from dense_jax.processes.locks import in_turn, lock_of
from dense_jax.retrieval.evaluate import markdown
from dense_jax.retrieval.metrics import Metrics, PerQuery, Share
from dense_jax.retrieval.search import TextSearch
from dense_jax.terminal.progress import progress
from dense_jax.types import PassageCollection

FIGURES = "figures.json"
Ids = Int[np.ndarray, " _"]


class AnsweredMeans(TypedDict):
    """Content of figures.json that describes the checkpoint."""

    questions: str
    step: Count
    figures: dict[str, Share]


class Answered(TypedDict):
    """Content of figures.json that compares questions."""

    step: Count
    figures: dict[str, Share]
    per_query: PerQuery


@dataclass(frozen=True)
class JudgedQuestions:
    """Questions with their answers, and the convention of comparing answers."""

    questions: Sequence[OpenQuestion]
    answers: Sequence[Sequence[Ids]]  # token ids of each question's answers
    normalise: Normalise

    @property
    def convention(self) -> str:
        """Name of the convention."""
        if all(question.patterns for question in self.questions):
            return "regular expressions"
        return "SQuAD" if self.normalise is squad_normalised else "NQ-open"


@dataclass(frozen=True)
class Provenance:
    """Checkpoint, questions and passages behind the figures."""

    questions: str  # the file
    collection: str
    passages: int
    step: int  # of the checkpoint


@dataclass(frozen=True)
class Report:
    """Figures of all questions and of each."""

    about: Provenance
    convention: str
    figures: dict[str, float]
    per_query: dict[str, dict[str, float]]  # question id -> figure -> value
    lines: list[dict[str, Any]]  # one for each question

    def table(self) -> str:
        """Return the figures as a Markdown table of one line, with notes."""
        names = ["", "questions", *self.figures]
        row = [f"step {self.about.step:,}", f"{len(self.lines):,}", *(f"{x:.3f}" for x in self.figures.values())]
        has_reader = "exact_match" in self.figures
        notes = [
            f"{self.about.questions}, answered from {self.about.passages:,} passages of {self.about.collection}",
            f"answers compared as {self.convention}" if has_reader else "answer recall of the retriever; no reader",
        ]
        return "\n".join([markdown([names, row]), "", *notes])

    def write(self, folder: Path) -> None:
        """Write the three files of `folder`."""
        about = {**asdict(self.about), "count": len(self.lines), "convention": self.convention}
        with in_turn(lock_of(folder)):
            with whole_file(folder / "predictions.jsonl") as partial:
                partial.write_bytes(b"".join(orjson.dumps(line) + b"\n" for line in self.lines))
            write_json(folder / FIGURES, {**about, "figures": self.figures, "per_query": self.per_query})
            with whole_file(folder / "table.md") as partial:
                partial.write_text(self.table() + "\n", encoding="utf-8")


def read_judged_questions(path: AnyPath, tokenizer: Tokenizer, patterns: bool) -> JudgedQuestions:
    """Return the questions of `path`, each id once; with `patterns`, all answers are regular expressions.

    Raises:
        DataError: names file and line of a bad row, or the file holds no question.
    """
    questions = list({question.id: question for question in sound_questions(path, patterns)}.values())
    normalise = squad_normalised if is_squad_file(path) else nq_open_normalised
    return JudgedQuestions(questions, tokenised_answers(questions, tokenizer), normalise)


def report(
    judged: JudgedQuestions, find: TextSearch, store: PassageCollection, reader: ReaderOnMesh | None, about: Provenance
) -> Report:
    """Answer and score the questions by the passages of `store`, which `find` searches and `reader` reads."""
    texts = [question.text for question in judged.questions]
    ranking = find(texts, min(max(DEPTHS), len(store)))
    lines = [
        _retrieved(question, rows[rows >= 0].tolist(), store)
        for question, rows in zip(judged.questions, ranking.rows, strict=True)
    ]
    recall, matched = top_k_accuracy({line["id"]: _hits(line["rank"]) for line in lines}), Metrics({}, {})
    if reader:
        readings = progress(reader.read(texts, ranking, store), "read", len(texts), "questions")
        read = zip(lines, judged.questions, judged.answers, readings, strict=True)
        lines = [
            line | _score_reading(of, reading, ids, judged, reader.reader.width) for line, of, ids, reading in read
        ]
        matched = _reader_metrics(lines)
    per_query = {question: matched.per_query.get(question, {}) | of for question, of in recall.per_query.items()}
    return Report(about, judged.convention, matched.mean | recall.mean, per_query, lines)


def _retrieved(question: OpenQuestion, rows: list[int], store: PassageCollection) -> dict[str, Any]:
    """Return the question and the rank of its first passage with an answer."""
    texts = (passage.text for passage in store.texts(rows))
    rank = next((rank for rank, text in enumerate(texts, 1) if answered_in(question, text)), None)
    return {"id": question.id, "question": question.text, "answers": question.answers, "rank": rank}


def _hits(rank: int | None) -> list[bool]:
    return [] if rank is None else [False] * (rank - 1) + [True]


def _score_reading(
    question: OpenQuestion, reading: Reading, answers: Sequence[Ids], judged: JudgedQuestions, width: int
) -> dict[str, Any]:
    """Return the prediction, whether it is correct, and whether an answer was among the spans."""
    answer, oracle = reading.answer, any(_answerable(one, question, answers, width) for one in reading.passages)
    if answer is None:
        return {"prediction": None, "correct": False, "oracle": oracle}
    return {
        "prediction": answer.text,
        "share": round(answer.share, 4),
        "correct": is_correct(answer.text, question, judged.normalise),
        "oracle": oracle,
        "passage": asdict(answer.document),
    }


def _answerable(seen: ReadPassage, question: OpenQuestion, answers: Sequence[Ids], width: int) -> bool:
    """Return whether one of the spans is an answer: by its ids, as in training, or by a regular expression."""
    if question.patterns:
        spans = (seen.characters(i, min(i + width, seen.tokens) - 1) for i in range(seen.tokens))
        return any(pattern_match(seen.document.text[slice(*span)], question.answers) for span in spans)
    places = answer_places(seen.read, answers)
    return bool((places[:, 1] - places[:, 0] < width).any())


def _reader_metrics(lines: Sequence[dict[str, Any]]) -> Metrics:
    """Return exact match and reader oracle."""
    per_query = {
        line["id"]: {"exact_match": float(line["correct"]), "reader_oracle": float(line["oracle"])} for line in lines
    }
    names = ("exact_match", "reader_oracle")
    return Metrics({name: sum(of[name] for of in per_query.values()) / len(lines) for name in names}, per_query)
