"""Batches of the corpus alone, and the parts of a run that a loader of another kind may use."""

from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from dense_jax.arrays import Batch, Params
from dense_jax.config import Config
from dense_jax.data.pipeline import Examples, collate, local_batches, to_global_array
from dense_jax.objective import HostBatch, LoadedBatch, Loader
from dense_jax.train.checkpoint import Checkpoints
from dense_jax.train.metrics import MetricsLog


@dataclass(frozen=True)
class LoaderContext:
    """The parts of a run that a loader may use."""

    config: Config
    examples: Examples
    mesh: Mesh
    step: int  # of the state that training goes on from
    state: Mapping[str, Any]  # `Loader.state` in the checkpoint of that step; {} in a new run
    params: Params  # shapes, dtypes and shardings
    workdir: Path
    checkpoints: Checkpoints
    log: MetricsLog


def open_corpus_loader(context: LoaderContext) -> Loader:
    """The loader of an objective that retrieves nothing while it trains."""
    return CorpusLoader(context.examples, context.config.batch, context.mesh, context.step)


class CorpusLoader(Loader):
    """Batches of the corpus alone, made ahead of the devices by `loader.prefetch` batches."""

    def __init__(self, examples: Examples, batch: int, mesh: Mesh, step: int = 0) -> None:
        self.examples, self.size, self.mesh = examples, batch, mesh
        self._batches = self._prefetched(step)

    def batch(self, step: int, params: Params) -> LoadedBatch:
        return next(self._batches)

    def assemble(self, examples: HostBatch, size: int, params: Params) -> Batch:
        return to_global_array(collate(self.examples.objective, examples, size, self.mesh), self.mesh)

    def _prefetched(self, step: int) -> Iterator[LoadedBatch]:
        """
        Raises:
            ConfigError: the rows that the objective makes of the examples do not split over the devices.
        """
        ahead: deque[LoadedBatch] = deque()
        for made in local_batches(self.examples, self.size, self.mesh, step=step):
            ahead.append(LoadedBatch(self.assemble(made, self.size, {}), made.rows))
            if len(ahead) > self.examples.config.prefetch:
                yield ahead.popleft()
        yield from ahead
