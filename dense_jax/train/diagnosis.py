"""Collapse metrics of the same examples every few steps: they show a collapse before the loss does."""

import functools

import jax
from jax.sharding import Mesh

from dense_jax.arrays import Metrics
from dense_jax.data.pipeline import Examples, first_examples
from dense_jax.objective import HostBatch, Loader
from dense_jax.train.metrics import DIAGNOSIS
from dense_jax.train.state import TrainState


class Diagnosis:
    """The collapse metrics of the run's first `size` examples, which `loader` assembles to a batch."""

    def __init__(self, examples: Examples, loader: Loader, mesh: Mesh, size: int, every: int) -> None:
        self.examples, self.loader, self.mesh, self.size, self.every = examples, loader, mesh, size, every
        self._metrics = jax.jit(examples.objective.collapse_metrics)

    def __call__(self, step: int, state: TrainState) -> Metrics:
        """The metrics of the state after `step`; {} except every `every` steps.

        Raises:
            DataError: passages are looked up, and a query became a vector with NaN or infinity.
        """
        if not self.every or step % self.every:
            return {}
        batch = self.loader.assemble(self._first, self.size, state.params)
        metrics = self._metrics(state.params, state.carry, batch)
        return {DIAGNOSIS + name: value for name, value in metrics.items()}

    @functools.cached_property
    def _first(self) -> HostBatch:
        """Made at the first use: a run may end before."""
        return first_examples(self.examples, self.size, self.mesh)
