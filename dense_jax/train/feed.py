"""The batches of a run, in order, with what is looked up for them."""

import functools
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import jax
from jax.sharding import Mesh

from dense_jax.arrays import Batch, Params
from dense_jax.augmented.neighbours import PREFIX, Neighbours, Version
from dense_jax.data.pipeline import Examples, Loaded, Stacked, batches, collated, stacked_batches, to_global_array
from dense_jax.objective import Retrieves
from dense_jax.train.step import step_rng
from dense_jax.types import SearchResult


class Feed:
    """Batches that need nothing but the corpus."""

    def __init__(self, examples: Examples, batch: int, mesh: Mesh, start: int) -> None:
        self.examples, self.mesh = examples, mesh
        self._loaded = batches(examples, batch, mesh, start=start)

    def next(self, step: int, params: Params) -> Loaded:
        """The batch that is trained on after `step`, with the state's `params`."""
        return next(self._loaded)

    def complete(self, stacked: Stacked, size: int, params: Params) -> Batch:
        """The global batch of `size` examples of which `stacked` are this process's, as `encode` is given it."""
        return collated(self.examples.objective, stacked, size, self.mesh).batch

    def snapshot(self, step: int) -> bool:
        """Whether the feed needs a checkpoint of the state after `step`."""
        return False

    @property
    def state(self) -> dict[str, Any]:
        """What a checkpoint must say of it, as JSON values."""
        return {}

    def close(self) -> None:
        """Ends what is still under way."""


class LookedUp(Feed):
    """Batches with passages: up to `neighbours.ahead` of them are looked up, on a thread, while the devices work.

    Where the objective searches with the parameters of the step nothing can be looked up ahead. Several processes
    search together, and must do so in the same order as they take steps: that is done between the steps, and the rest
    on the thread.
    """

    def __init__(self, examples: Examples, batch: int, mesh: Mesh, start: int, neighbours: Neighbours) -> None:
        assert isinstance(examples.objective, Retrieves)
        self.objective, self.examples, self.mesh, self.neighbours = examples.objective, examples, mesh, neighbours
        self._searched = neighbours.versions.library.passages
        self._stacked = stacked_batches(examples, batch, mesh, start=start)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="neighbours")
        self._ahead: deque[tuple[Version, Future[Loaded]]] = deque()

    def next(self, step: int, params: Params) -> Loaded:
        """As of `Feed`; says of which step the index is, and how many steps ago that was.

        Raises:
            DataError: a question became a vector with NaN or infinity.
        """
        self.neighbours.update(step)
        version = self.neighbours.version
        if self.objective.fresh:
            rng = self.objective.question_noise(step_rng(self.examples.seed, step))
            find = functools.partial(self.neighbours.find_anew, params=params, rng=rng, mesh=self.mesh)
            return _dated(self._joined(*self._found(find)), step, version)
        ahead = min(self.neighbours.settings.ahead, self.neighbours.last(step) - step)
        while len(self._ahead) <= ahead:
            self._ahead.append((version, self._submitted(version.find)))
        made, loaded = self._ahead.popleft()
        return _dated(loaded.result(), step, made)

    def complete(self, stacked: Stacked, size: int, params: Params) -> Batch:
        """As of `Feed`, with the passages that are found now, without dropout, in the index in use.

        Raises:
            DataError: a question became a vector with NaN or infinity.
        """
        find = self.neighbours.version.find
        if self.objective.fresh:
            find = functools.partial(self.neighbours.find_anew, params=params, rng=None, mesh=self.mesh)
        elif jax.process_count() == 1:  # two searches at once could wait for each other's devices
            return self._joined(stacked, self._thread.submit(find, stacked.examples).result()).batch
        return self._joined(stacked, find(stacked.examples)).batch

    def snapshot(self, step: int) -> bool:
        return self.neighbours.snapshot(step)

    @property
    def state(self) -> dict[str, Any]:
        return {"index": self.neighbours.step}

    def close(self) -> None:
        self._thread.shutdown(cancel_futures=True)

    def _submitted(self, find: Callable[[Batch], SearchResult]) -> Future[Loaded]:
        """A batch that will have been looked up; after the last one of all, one that nobody may ask for."""
        if jax.process_count() == 1:
            return self._thread.submit(lambda: self._joined(*self._found(find)))
        try:
            found = self._found(find)
        except StopIteration as none:
            nothing: Future[Loaded] = Future()
            nothing.set_exception(none)
            return nothing
        return self._thread.submit(self._joined, *found)

    def _found(self, find: Callable[[Batch], SearchResult]) -> tuple[Stacked, SearchResult]:
        stacked = next(self._stacked)
        return stacked, find(stacked.examples)

    def _joined(self, stacked: Stacked, found: SearchResult) -> Loaded:
        joined = self.objective.join(stacked.examples, found, self._searched, self.examples.vocabulary)
        return Loaded(to_global_array(joined, self.mesh), stacked.examples["row"], stacked.next_index)


def _dated(loaded: Loaded, step: int, version: Version) -> Loaded:
    age = {"step": version.step, "staleness": step - version.step, "staleness_seconds": time.time() - version.begun}
    return replace(loaded, notes={PREFIX + name: float(value) for name, value in age.items()})
