"""The contract of a training method: `Objective`, the page to read first.

    Corpus -> Document -> Passage -> Example -> batch -> Objective.loss -> Params -> Towers -> vectors -> ranking

A method is a subclass of `Objective` (`objectives/`), named by a config file (`configs/`); nothing else knows it. A
subclass that lacks an abstract method fails at construction with a TypeError that names the method.
"""

import abc
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import jax
import numpy as np

from dense_jax.arrays import Array, Batch, Carry, Encoded, Example, Float, Int, Metrics, Params, PRNGKeyArray
from dense_jax.types import PackedVectors, Passage, Reader, Towers, TrainingSet, Vocabulary

PASSAGE = "passage"  # the subtree of the parameters that encodes passages, where another one encodes queries


class Objective(abc.ABC):
    """A training method: the examples, the parameters and the loss.

    Subclasses are dataclasses: their fields are the method's settings, set by `--objective.NAME=value`. A method
    is its five abstract methods; all others have a default.
    """

    learns_from: ClassVar[type] = Passage  # or TrainingQuery, or QAExample: the type of the source of an example
    masks_spans: ClassVar[bool] = False  # `example` needs passages with salient spans
    retrieves: ClassVar[bool] = False  # looks passages up while it trains: an `augmented.objective.RetrievalAugmented`
    frozen: ClassVar[tuple[str, ...]] = ()  # subtrees of the parameters that training does not change, such as PASSAGE

    @abc.abstractmethod
    def example(self, source: Any, /, vocabulary: Vocabulary, rng: np.random.Generator) -> Example | None:
        """One training example from a source of the type `learns_from`: numpy arrays of fixed shapes.

        None rejects the draw; another source is then drawn.
        """

    @abc.abstractmethod
    def init(self, rng: PRNGKeyArray) -> Params:
        """Fresh parameters. Pure: runs under `jit` and `eval_shape`."""

    @abc.abstractmethod
    def encode(self, params: Params, carry: Carry, batch: Batch, *, rng: PRNGKeyArray | None) -> Encoded:
        """Arrays whose row i depends on row i of `batch` and on noise only. Pure.

        The vectors of packed texts are `PackedVectors`; `combine` gets them as vectors of padded texts.

        All expensive computation belongs here: with `--chunk` it runs on a few examples at a time. Without `rng`,
        dropout is off.
        """

    @abc.abstractmethod
    def combine(
        self, carry: Carry, encoded: Encoded, batch: Batch, *, step: Int[Array, ""]
    ) -> tuple[Float[Array, ""], tuple[Metrics, Carry]]:
        """The loss of the global batch from all outputs of `encode`, further metrics, and the next carry. Pure.

        The loss itself is logged.
        """

    @abc.abstractmethod
    def towers(self, params: Params) -> Towers:
        """The encoders of queries and of passages."""

    def prompts(self) -> Sequence[str]:
        """Texts whose ids `example` needs; it finds them in `vocabulary.prompts`."""
        return ()

    def texts(self, source: Any) -> Sequence[int]:
        """Numbers of the texts in the example of `source`: with `loader.order=distinct` no two examples of a batch
        share one."""
        return (source.row,)

    def notes(self, data: TrainingSet) -> Sequence[str]:
        """Notes on the training data, which `train` prints when a run begins."""
        return ()

    def collate(self, examples: Batch, numbers: Int[np.ndarray, " b"]) -> Batch:
        """This process's examples, stacked and numbered as in the global batch, in the form that `encode` takes.

        On the host, numpy. The first axis of each array of the result is split over devices, and over chunks.
        """
        return examples

    def init_carry(self, params: Params, batch: int, rng: PRNGKeyArray) -> Carry:
        """The carry at the start of a run over global batches of `batch` examples, from `params`. Pure."""
        return {}

    def update_carry(self, params: Params, carry: Carry) -> Carry:
        """The carry that a step with `params` works on. Pure."""
        return carry

    def loss(
        self, params: Params, carry: Carry, batch: Batch, *, rng: PRNGKeyArray, step: Int[Array, ""]
    ) -> tuple[Float[Array, ""], tuple[Metrics, Carry]]:
        """The loss of the global batch, the metrics, and the next carry. Pure."""
        carry = self.update_carry(params, carry)
        return self.combine(carry, unpack(self.encode(params, carry, batch, rng=rng)), batch, step=step)

    def collapse_metrics(self, params: Params, carry: Carry, batch: Batch) -> Metrics:
        """Metrics of the same examples every `diagnose_every` steps; `batch` is as for `encode`. Pure."""
        return {}

    def reader(self, params: Params) -> Reader | None:
        """The model that extracts answers from passages; None for a method without one."""
        return None


def unpack(encoded: Encoded) -> Encoded:
    """Outputs of `encode` for a whole batch, with the vectors of packed texts in the order of the batch."""
    is_packed = lambda node: isinstance(node, PackedVectors)  # noqa: E731
    return jax.tree.map(lambda node: node.unpack() if is_packed(node) else node, encoded, is_leaf=is_packed)


class SampledExample(NamedTuple):
    """An example and the row of the store that it was made from."""

    inputs: Example
    row: np.int32


class HostBatch(NamedTuple):
    """This process's examples of a batch, stacked, as numpy arrays."""

    inputs: Batch
    rows: Int[np.ndarray, " b"]  # of the store


class LoadedBatch(NamedTuple):
    """A batch on the mesh."""

    inputs: Batch
    rows: Int[np.ndarray, " b"]  # of the store, for this process's examples
    notes: Mapping[str, float] = {}  # logged with the metrics of the step


class Loader(abc.ABC):
    """The batches of a run, in the order of steps."""

    @abc.abstractmethod
    def batch(self, step: int, params: Params) -> LoadedBatch:
        """The batch that is trained on after `step`; `params` are those of the state. Called once for each step."""

    @abc.abstractmethod
    def assemble(self, examples: HostBatch, size: int, params: Params) -> Batch:
        """The global batch of `size` examples of which `examples` are this process's, in the form `encode` takes."""

    def needs_checkpoint(self, step: int) -> bool:
        """Return whether the loader reads a checkpoint of the state after `step`."""
        return False

    @property
    def state(self) -> Mapping[str, Any]:
        """JSON values for the checkpoint: all that the loader needs to go on, beyond the number of the step."""
        return {}

    def close(self) -> None:  # noqa: B027 - most have nothing to end
        """End threads and pending work."""
