"""The same batch looked at every so often: what shows a collapse before the loss does."""

import functools

import jax
from jax.sharding import Mesh

from dense_jax.arrays import Batch, Metrics
from dense_jax.data.pipeline import Examples, batches
from dense_jax.train.state import TrainState

PREFIX = "diagnosis/"  # of the names in metrics.jsonl and TensorBoard


class Diagnosis:
    """An objective's diagnosis of the run's first batch, or of as much of it as is encoded at a time."""

    def __init__(self, examples: Examples, size: int, mesh: Mesh, every: int) -> None:
        self.examples, self.size, self.mesh, self.every = examples, size, mesh, every
        self._diagnose = jax.jit(examples.objective.diagnose)

    def __call__(self, step: int, state: TrainState) -> Metrics:
        """What to log of the state after `step`; nothing between the steps that are looked at."""
        if not self.every or step % self.every:
            return {}
        found = self._diagnose(state.params, state.carry, self._batch)
        return {PREFIX + name: value for name, value in found.items()}

    @functools.cached_property
    def _batch(self) -> Batch:
        """Made when it is needed: a run may end before."""
        return next(batches(self.examples, self.size, self.mesh, start=0)).batch
