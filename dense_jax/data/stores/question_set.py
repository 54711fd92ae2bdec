"""Training questions with answers, read and tokenised at each start: about 10,000 a second."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dense_jax.arrays import Int
from dense_jax.data.sources.open_questions import OpenQuestion, open_questions
from dense_jax.data.sources.rejects import advice, causes_of
from dense_jax.data.tokenizer import Tokenizer
from dense_jax.errors import DataError
from dense_jax.io import AnyPath, digest
from dense_jax.types import Document, QAExample, Reject, SourceRows, TrainingSet

_EXAMPLES = 5  # bad rows shown in an error


class _StoredQuestion(NamedTuple):
    question: OpenQuestion
    tokens: Int[np.ndarray, " l"]
    answer_tokens: list[Int[np.ndarray, " _"]]


class QuestionSet(TrainingSet):
    """Questions of a file by row, in memory, without those whose answers are regular expressions.

    Token ids do not show where a regular expression matches; ORQA's authors did not train on them either.
    """

    def __init__(self, path: AnyPath, tokenizer: Tokenizer, max_rejects: float = 0.0) -> None:
        """
        Raises:
            DataError: the format of the file is unknown, more than the share `max_rejects` of its rows cannot be used,
                or no question is left to learn from.
        """
        rows = list(open_questions(path))
        rejects = [row for row in rows if isinstance(row, Reject)]
        found = [row for row in rows if isinstance(row, OpenQuestion)]
        if len(rejects) > max_rejects * len(rows):
            shown = "\n".join(f"  {one.where}: {one.reason}" for one in rejects[:_EXAMPLES])
            raise DataError(
                f"{path}: {len(rejects):,} of {len(rows):,} questions cannot be used, which is more than "
                f"corpus.max_rejects={max_rejects:g} allows:\n{shown}\n{advice(causes_of(rejects), len(found))}"
            )
        usable = [question for question in found if not question.patterns]
        if not usable:
            raise DataError(
                f"{path}: holds no question to learn from; {len(found):,} have regular expressions for answers"
            )
        self.path, self._stored = path, _tokenised(usable, tokenizer)
        self.notes = {
            "questions": len(usable),
            "left out, whose answers are regular expressions": len(found) - len(usable),
            "rejected": len(rejects),
        }

    def __str__(self) -> str:
        return f"{self.path}: {', '.join(f'{count:,} {name}' for name, count in self.notes.items() if count)}"

    def __len__(self) -> int:
        return len(self._stored)

    def sample(self, row: int, epoch: int, rng: np.random.Generator) -> QAExample:
        """The question of `row`, every time the same."""
        question, tokens, answer_tokens = self._stored[row]
        return QAExample(row, tokens, question.answers, answer_tokens)

    def document(self, row: int) -> Document:
        """Return the question's id and text."""
        question = self._stored[row].question
        return Document(question.id, "", question.text)

    def ids(self) -> list[str]:
        """Return the id of each question."""
        return [stored.question.id for stored in self._stored]

    @property
    def fingerprint(self) -> str:
        """Digest of the file."""
        return digest(self.path)

    def parts(self) -> Sequence[SourceRows]:
        """All rows, of one source."""
        return [SourceRows(self.path.name, range(len(self)), sum(len(stored.tokens) for stored in self._stored))]


def tokenised_answers(questions: Sequence[OpenQuestion], tokenizer: Tokenizer) -> list[list[Int[np.ndarray, " _"]]]:
    """Return the token ids of each question's answers, as they stand within a sentence."""
    # after a space: byte-level tokenizers see the start of a word by it
    ids = iter(tokenizer.encode([f" {answer}" for question in questions for answer in question.answers]))
    return [[next(ids) for _ in question.answers] for question in questions]


def _tokenised(questions: Sequence[OpenQuestion], tokenizer: Tokenizer) -> list[_StoredQuestion]:
    tokens = tokenizer.encode([question.text for question in questions])
    return [_StoredQuestion(*of) for of in zip(questions, tokens, tokenised_answers(questions, tokenizer), strict=True)]
