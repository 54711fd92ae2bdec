"""Collapse metrics of the same examples every few steps: they show a collapse before the loss does."""

import functools

import jax

from dense_jax.arrays import Metrics
from dense_jax.data.pipeline import Stacked, one_batch
from dense_jax.train.feed import Feed
from dense_jax.train.metrics import DIAGNOSIS
from dense_jax.train.state import TrainState


class Diagnosis:
    """An objective's diagnosis of the run's first `size` examples, which `feed` completes to a batch."""

    def __init__(self, feed: Feed, size: int, every: int) -> None:
        self.feed, self.size, self.every = feed, size, every
        self._diagnose = jax.jit(feed.examples.objective.diagnose)

    def __call__(self, step: int, state: TrainState) -> Metrics:
        """The metrics of the state after `step`; none between the steps of a diagnosis.

        Raises:
            DataError: passages are looked up, and a query became a vector with NaN or infinity.
        """
        if not self.every or step % self.every:
            return {}
        batch = self.feed.complete(self._examples, self.size, state.params)
        found = self._diagnose(state.params, state.carry, batch)
        return {DIAGNOSIS + name: value for name, value in found.items()}

    @functools.cached_property
    def _examples(self) -> Stacked:
        """The same for all steps, made when they are needed: a run may end before."""
        return one_batch(self.feed.examples, self.size, self.feed.mesh, start=0)
