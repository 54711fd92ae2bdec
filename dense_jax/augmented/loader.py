"""Batches of an objective that retrieves: the examples of the corpus with the passages that are found for them."""

import functools
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import jax
from jax.sharding import Mesh

from dense_jax.arrays import Batch, Params
from dense_jax.augmented.neighbours import PREFIX, Neighbours, Version
from dense_jax.augmented.objective import RetrievalAugmented
from dense_jax.augmented.versions import VERSIONS, Library, Versions
from dense_jax.data.pipeline import Examples, local_batches, to_global_array
from dense_jax.mesh import process_mesh
from dense_jax.objective import HostBatch, LoadedBatch, Loader
from dense_jax.train.loader import LoaderContext
from dense_jax.train.step import step_rng
from dense_jax.types import SearchResult


def open_retrieval_loader(context: LoaderContext, *, library: Library) -> Loader:
    """The loader of a run that searches `library`; it goes on with the index version that the checkpoint names."""
    config, checkpoints, objective = context.config, context.checkpoints, context.config.objective
    assert isinstance(objective, RetrievalAugmented)
    versions = Versions(context.workdir / VERSIONS, library, config, process_mesh())
    neighbours = Neighbours(config, versions, checkpoints, context.params, context.log, context.state.get("index", 0))
    return RetrievalLoader(objective, context.examples, config.batch, context.mesh, context.step, neighbours)


class RetrievalLoader(Loader):
    """Batches with passages: a thread looks up to `neighbours.ahead` of them up while the devices work.

    An objective that searches with the parameters of the step looks nothing up ahead. Several processes search
    together, and must do so in the order of their steps: they search between the steps, and the thread does the rest.
    """

    def __init__(
        self,
        objective: RetrievalAugmented,
        examples: Examples,
        batch: int,
        mesh: Mesh,
        step: int,
        neighbours: Neighbours,
    ) -> None:
        self.objective, self.examples, self.mesh, self.neighbours = objective, examples, mesh, neighbours
        self._searched = neighbours.versions.library.passages
        self._batches = local_batches(examples, batch, mesh, step=step)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="neighbours")
        self._ahead: deque[tuple[Version, Future[LoadedBatch]]] = deque()

    def batch(self, step: int, params: Params) -> LoadedBatch:
        """The batch with its passages; the notes name the step of the index and its age.

        Raises:
            DataError: a question became a vector with NaN or infinity.
        """
        self.neighbours.update(step)
        version = self.neighbours.version
        if self.objective.fresh:
            rng = self.objective.question_noise(step_rng(self.examples.seed, step))
            find = functools.partial(self.neighbours.find_with, params=params, rng=rng, mesh=self.mesh)
            return _dated(self._joined(*self._found(find)), step, version)
        ahead = min(self.neighbours.settings.ahead, self.neighbours.last(step) - step)
        while len(self._ahead) <= ahead:
            self._ahead.append((version, self._submitted(version.find)))
        made, loaded = self._ahead.popleft()
        return _dated(loaded.result(), step, made)

    def assemble(self, examples: HostBatch, size: int, params: Params) -> Batch:
        """The global batch with the passages that are found now, without dropout, in the index in use.

        Raises:
            DataError: a question became a vector with NaN or infinity.
        """
        find = self.neighbours.version.find
        if self.objective.fresh:
            find = functools.partial(self.neighbours.find_with, params=params, rng=None, mesh=self.mesh)
        elif jax.process_count() == 1:  # two searches at once could wait for each other's devices
            return self._joined(examples, self._thread.submit(find, examples.inputs).result()).inputs
        return self._joined(examples, find(examples.inputs)).inputs

    def needs_checkpoint(self, step: int) -> bool:
        return self.neighbours.snapshot(step)

    @property
    def state(self) -> Mapping[str, Any]:
        return {"index": self.neighbours.step}

    def close(self) -> None:
        self._thread.shutdown(cancel_futures=True)

    def _submitted(self, find: Callable[[Batch], SearchResult]) -> Future[LoadedBatch]:
        """The next batch, under way; after the last one, a future that raises StopIteration."""
        if jax.process_count() == 1:
            return self._thread.submit(lambda: self._joined(*self._found(find)))
        try:
            found = self._found(find)
        except StopIteration as end:
            nothing: Future[LoadedBatch] = Future()
            nothing.set_exception(end)
            return nothing
        return self._thread.submit(self._joined, *found)

    def _found(self, find: Callable[[Batch], SearchResult]) -> tuple[HostBatch, SearchResult]:
        examples = next(self._batches)
        return examples, find(examples.inputs)

    def _joined(self, examples: HostBatch, found: SearchResult) -> LoadedBatch:
        joined = self.objective.join(examples, found, self._searched, self.examples.vocabulary)
        return LoadedBatch(to_global_array(joined, self.mesh), examples.rows)


def _dated(loaded: LoadedBatch, step: int, version: Version) -> LoadedBatch:
    age = {"step": version.step, "staleness": step - version.step, "staleness_seconds": time.time() - version.begun}
    return loaded._replace(notes={PREFIX + name: float(value) for name, value in age.items()})
