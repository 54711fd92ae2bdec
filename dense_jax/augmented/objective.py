"""The contract of a method that looks passages up while it trains: `RetrievalAugmented`."""

import abc
from typing import ClassVar

from dense_jax.arrays import Batch, PRNGKeyArray
from dense_jax.objective import HostBatch, Objective
from dense_jax.types import PassageCollection, SearchResult, Tokens, Vocabulary


class RetrievalAugmented(Objective):
    """An objective whose batches hold passages that were found for the examples (augmented/loader.py).

    Before a step, the passages whose vectors have the largest inner products with those of the batch's questions are
    found, and `join`, instead of `collate`, makes the batch that `encode` takes. `collapse_metrics` takes such a batch
    too, of the same examples and of the passages that are found for them at its step.
    """

    retrieves = True
    fresh: ClassVar[bool] = False  # search by the step's query tower, dropout on; else by that of the index, off

    @property
    @abc.abstractmethod
    def depth(self) -> int:
        """Number of passages to look up for each example."""

    @abc.abstractmethod
    def question(self, batch: Batch) -> Tokens:
        """The part of `batch` that the query tower encodes."""

    def question_noise(self, rng: PRNGKeyArray) -> PRNGKeyArray:
        """The key that `encode`, given `rng` and the whole batch, encodes the questions with; it matters if `fresh`."""
        return rng

    @abc.abstractmethod
    def join(
        self, examples: HostBatch, found: SearchResult, passages: PassageCollection, vocabulary: Vocabulary
    ) -> Batch:
        """`examples` with the passages that were found for them: numpy, fixed shapes, first axis b everywhere.

        `passages` are those that were searched.
        """
