"""Inputs of a reader, a question and a passage, and the positions of answers in them: pure functions of ids."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dense_jax.arrays import Bool, Int
from dense_jax.data.answers import occurrences
from dense_jax.data.inputs import build_inputs
from dense_jax.types import Layout, Tokens, Vocabulary

_BETWEEN = np.array([-1], np.int32)  # no token of any answer


class Read(NamedTuple):
    """[CLS] question [SEP] passage [SEP], without the passage's title; what does not fit is cut from its end."""

    tokens: Tokens
    body: Bool[np.ndarray, " l"]  # True on the passage's tokens

    @property
    def start(self) -> int:
        """Position of the first token of the passage; the length of the input where the passage was cut off."""
        return int(self.body.argmax()) if self.body.any() else len(self.body)


def read_input(
    question: Int[np.ndarray, " q"], passage: Int[np.ndarray, " p"], length: int, vocabulary: Vocabulary
) -> Read:
    """ORQA's reader input, of `length` tokens."""
    tokens = build_inputs(question, passage, length, Layout.PAIR, vocabulary)
    last = np.arange(length) == tokens.mask.sum() - 1
    return Read(tokens, (tokens.types == 1) & ~last)


def answer_places(read: Read, answers: Sequence[Int[np.ndarray, " _"]]) -> Int[np.ndarray, "n 2"]:
    """First and last place (inclusive), in the input, of every occurrence of an answer in what is seen of the passage.

    >>> vocabulary = Vocabulary(9, 0, 1, 2, 3, 4, special=np.arange(9) < 5, continues=np.zeros(9, bool))
    >>> answer_places(read_input(np.array([7]), np.array([5, 7, 8]), 7, vocabulary), [np.array([7, 8])]).tolist()
    [[4, 5]]
    """
    return occurrences(np.asarray(read.tokens.ids)[read.body], answers) + np.int32(read.start)


def hold_ids(
    passages: Sequence[Int[np.ndarray, " _"]], answers: Sequence[Int[np.ndarray, " _"]]
) -> Bool[np.ndarray, " p"]:
    """True for each of `passages` that holds the ids of an answer in a row.

    >>> hold_ids([np.array([5, 6]), np.array([7, 5])], [np.array([6, 7]), np.array([7])]).tolist()
    [False, True]
    """
    apart = [part for passage in passages for part in (passage.astype(np.int32), _BETWEEN)]
    joined = np.concatenate([_BETWEEN, *apart])
    ends = np.cumsum([1, *(len(passage) + 1 for passage in passages)])[1:]
    holds = np.zeros(len(passages), bool)
    holds[np.searchsorted(ends, occurrences(joined, answers)[:, 0], side="right")] = True
    return holds
