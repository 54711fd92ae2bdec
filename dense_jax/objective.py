"""The contract of a training method: `Objective`, the page to read first.

    Corpus -> Document -> Passage -> Example -> batch -> Objective.loss -> Params -> Towers -> vectors -> ranking

A method is a subclass of `Objective` (`objectives/`), named by a config file (`configs/`); nothing else knows it. A
subclass that lacks an abstract method fails at construction with a TypeError that names the method.
"""

import abc
from collections.abc import Sequence
from typing import ClassVar

import numpy as np

from dense_jax.arrays import Array, Batch, Carry, Encoded, Example, Float, Int, Metrics, Params, PRNGKeyArray
from dense_jax.types import ExampleSource, Passage, Passages, Reader, SearchResult, Tokens, Towers, Vocabulary

PASSAGE = "passage"  # the part of the parameters that encodes passages, where another encodes queries


class Objective(abc.ABC):
    """A training method: what an example is, what is trained, and the loss.

    Subclasses are dataclasses: their fields are the method's settings, set by `--objective.NAME=value`. A method
    is its five abstract methods; all others have a default.
    """

    learns_from: ClassVar[type] = Passage  # or Question, or Answered: what `example` is given
    masks_spans: ClassVar[bool] = False  # `example` needs passages with salient spans
    frozen: ClassVar[tuple[str, ...]] = ()  # parts of the parameters that training leaves as they are, such as PASSAGE

    @abc.abstractmethod
    def example(self, visit: ExampleSource, vocabulary: Vocabulary, rng: np.random.Generator) -> Example | None:
        """One training example: numpy arrays of fixed shapes. None if this draw yields none; another is then drawn."""

    @abc.abstractmethod
    def init(self, rng: PRNGKeyArray) -> Params:
        """Fresh parameters. Pure: runs under `jit` and `eval_shape`."""

    @abc.abstractmethod
    def encode(self, params: Params, carry: Carry, batch: Batch, *, rng: PRNGKeyArray | None) -> Encoded:
        """What each example gives by itself: arrays whose row i depends on example i and on noise only. Pure.

        All that is costly belongs here: with `--chunk` it is done on a few examples at a time. Without `rng`,
        dropout is off.
        """

    @abc.abstractmethod
    def combine(
        self, carry: Carry, encoded: Encoded, batch: Batch, *, step: Int[Array, ""]
    ) -> tuple[Float[Array, ""], tuple[Metrics, Carry]]:
        """The loss of the global batch out of all that `encode` gave, what to log, and the next carry. Pure."""

    @abc.abstractmethod
    def towers(self, params: Params) -> Towers:
        """What encodes queries and what encodes passages."""

    def prompts(self) -> Sequence[str]:
        """Texts whose ids `example` needs; it finds them in `vocabulary.prompts`."""
        return ()

    def texts(self, visit: ExampleSource) -> Sequence[int]:
        """Numbers of the texts that the example of `visit` is made of: with `loader.order=distinct` no two examples of
        a batch share one."""
        return (visit.row,)

    def collate(self, examples: Batch, numbers: Int[np.ndarray, " b"]) -> Batch:
        """This process's examples, stacked and numbered as in the global batch, in the form that is trained on.

        All arrays of the result have one first axis, which divides as that of `examples` does: on the host, numpy.
        """
        return examples

    def init_carry(self, params: Params, batch: int, rng: PRNGKeyArray) -> Carry:
        """What a run over global batches of `batch` examples carries at its start, from `params`. Pure."""
        return {}

    def update_carry(self, params: Params, carry: Carry) -> Carry:
        """The carry that a step with `params` works on. Pure."""
        return carry

    def loss(
        self, params: Params, carry: Carry, batch: Batch, *, rng: PRNGKeyArray, step: Int[Array, ""]
    ) -> tuple[Float[Array, ""], tuple[Metrics, Carry]]:
        """The loss of the global batch, what to log, and the next carry. Pure."""
        carry = self.update_carry(params, carry)
        return self.combine(carry, self.encode(params, carry, batch, rng=rng), batch, step=step)

    def diagnose(self, params: Params, carry: Carry, batch: Batch) -> Metrics:
        """Collapse metrics of the same examples every `diagnose_every` steps; `batch` is as for `encode`. Pure."""
        return {}

    def reader(self, params: Params) -> Reader | None:
        """The reader of answers out of passages; None for a method without one."""
        return None


class Retrieves(Objective):
    """An objective that looks passages up for its examples while it trains (augmented/neighbours.py).

    Before a step, the passages whose vectors have the largest inner products with those of the batch's questions are
    found, and `join`, instead of `collate`, makes the batch that `encode` is given. `diagnose` is given such a batch
    too, of the same examples and of the passages that are found for them at its step.
    """

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
    def join(self, batch: Batch, found: SearchResult, passages: Passages, vocabulary: Vocabulary) -> Batch:
        """`batch` (stacked examples, each with its "row" of what was visited) with what was found: numpy, fixed shapes.

        `passages` are those that were searched. All arrays of the result have the first axis b.
        """
