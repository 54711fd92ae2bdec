"""Synthetic passages, queries and vocabulary, for uses where only the shapes of examples matter."""

from collections.abc import Sequence

import numpy as np

from dense_jax.config import Config
from dense_jax.types import (
    Candidates,
    Document,
    ExampleSource,
    Guide,
    Passage,
    PassageCollection,
    QAExample,
    SourceRows,
    TrainingQuery,
    TrainingSet,
    Vocabulary,
)

_SENTENCE = 16  # tokens
_FIRST_WORD = 5  # ids below it are special


class SyntheticPassages(PassageCollection, TrainingSet):
    """Passages of exactly `passages.length` tokens, each sentence with a salient span."""

    def __init__(self, config: Config, count: int = 8_192) -> None:
        self.count, self.length, self.learns_from = count, config.passages.length, config.objective.learns_from

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, row: int) -> Passage:
        # all passages differ, since an objective may skip a text that it has seen
        tokens = _FIRST_WORD + (row + np.arange(self.length, dtype=np.int32)) % 64
        starts = np.arange(0, self.length, _SENTENCE, dtype=np.int32)
        spans = np.stack([starts, np.minimum(starts + 2, self.length)], axis=1).astype(np.int32)
        return Passage(row, np.zeros(0, np.int32), tokens, starts, spans)

    def passages(self, rows: Sequence[int]) -> list[Passage]:
        return [self[row] for row in rows]

    def sample(self, row: int, epoch: int, rng: np.random.Generator) -> ExampleSource:
        passage = self[row]
        if self.learns_from is TrainingQuery:
            rows = np.arange(self.count // 2, dtype=np.int32)
            positives, negatives = (Candidates(side, np.zeros(len(side), np.float32)) for side in (rows[:1], rows[1:]))
            guide = Guide(np.zeros(1, np.float32), np.zeros((self.count, 1), np.float32))
            return TrainingQuery(row, epoch, passage.tokens, positives, negatives, self, guide)
        if self.learns_from is QAExample:
            return QAExample(row, passage.tokens, ("word",), [passage.tokens[:1]])
        return passage

    def document(self, row: int) -> Document:
        return Document(str(row), "", "word")

    def ids(self) -> list[str]:
        return [str(row) for row in range(self.count)]

    def parts(self) -> Sequence[SourceRows]:
        return [SourceRows("synthetic", range(self.count), self.count * self.length)]


def synthetic_vocabulary(size: int, prompts: Sequence[str]) -> Vocabulary:
    """Vocabulary of `size` words, of which the first 5 are special.

    >>> synthetic_vocabulary(30_522, ["query: "]).prompts["query: "].tolist()
    [5]
    """
    words = np.arange(size)
    return Vocabulary(
        size,
        pad=0,
        unk=1,
        cls=2,
        sep=3,
        mask=4,
        special=words < _FIRST_WORD,
        continues=np.zeros(size, bool),
        prompts={prompt: np.array([_FIRST_WORD], np.int32) for prompt in prompts},
    )
