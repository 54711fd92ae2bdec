"""Passages -> examples -> batches on the mesh: the only file of `data/` that imports jax.

Everything is a function of (seed, index): the i-th example of a run is the same whatever the number of workers, hosts,
restarts or steps. So the pipeline needs no state: the examples of step s are those from s * batch on.
"""

import functools
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import grain
import jax
import numpy as np
from absl import flags

from dense_jax.arrays import Batch, Example, Int
from dense_jax.config.data import LoaderConfig
from dense_jax.data.sampler import Sampler
from dense_jax.errors import DataError, MachineError, require
from dense_jax.mesh import batch_sharding
from dense_jax.objective import HostBatch, Objective, SampledExample
from dense_jax.types import PassageCollection, Tokens, TrainingSet, Vocabulary

_MOST_DRAWS = 1_000  # for one example, before the corpus is declared unfit for the objective
_THREADS = 2  # that make examples in the trainer's own process; more only wait for Python's lock


@dataclass
class Examples:
    """The examples of a run, by index: random access, so that Grain may read them in any order and anywhere."""

    store: TrainingSet
    objective: Objective
    vocabulary: Vocabulary
    config: LoaderConfig
    seed: int
    length: int  # number of examples in a run
    batch: int  # examples of a step
    searched: PassageCollection | None = None  # by an objective that retrieves

    def __post_init__(self) -> None:
        self.sampler = Sampler(self.store.parts(), self.config, self.seed, self.batch, self._texts)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> SampledExample:
        """The example of `index`, with the row it was made from.

        A draw that the objective rejects is replaced by one from a passage of the same source, drawn at random.

        Raises:
            DataError: no passage in a thousand yields an example.
        """
        rng = np.random.default_rng((self.seed, index))
        row, epoch = self.sampler[index], self.sampler.epoch(index)
        for _ in range(_MOST_DRAWS):
            example = self.objective.example(self.store.sample(row, epoch, rng), self.vocabulary, rng)
            if example is not None:
                return SampledExample(example, np.int32(row))
            row = self.sampler.another(index, rng)
        raise DataError(
            f"{_MOST_DRAWS} passages in a row gave no example for {type(self.objective).__name__}; "
            "it needs passages of several sentences, or with salient spans: look at them with `dense-jax show`"
        )

    def _texts(self, rows: Sequence[int], epoch: int) -> list[Sequence[int]]:
        return [self.objective.texts(source) for source in self.store.samples(rows, epoch)]


def real_tokens(example: Example | Batch) -> int:
    """Tokens of an example or a batch that are not padding.

    >>> real_tokens({"query": Tokens(np.zeros(3), np.zeros(3), np.array([True, True, False])), "row": 7})
    2
    """
    return sum(int(part.mask.sum()) for part in example.values() if isinstance(part, Tokens))


def steps_for(examples: Examples, tokens: int, batch: int) -> int:
    """Number of steps of `batch` examples that see about `tokens` tokens, estimated from these examples."""
    mean = np.mean([real_tokens(examples[i].inputs) for i in range(len(examples))])
    return max(1, round(tokens / (batch * mean)))


def first_examples(examples: Examples, size: int, mesh: jax.sharding.Mesh) -> HostBatch:
    """This process's part of the run's first `size` examples, made at once and without worker processes."""
    return _stacked([examples[row] for row in local_row_numbers(batch_sharding(mesh), size).tolist()])


def _stacked(made: Sequence[SampledExample]) -> HostBatch:
    return HostBatch(*jax.tree.map(lambda *of_each: np.stack(of_each), *made))


def collate(objective: Objective, examples: HostBatch, batch: int, mesh: jax.sharding.Mesh) -> Batch:
    """This process's part of a global batch of `batch` examples as `encode` takes it: numpy.

    Raises:
        ConfigError: the rows that the objective makes of the examples do not split over the devices.
    """
    sharding = batch_sharding(mesh)
    collated = objective.collate(examples.inputs, local_row_numbers(sharding, batch))
    check_rows(collated, batch, len(_local_slices(sharding, batch)))
    return collated


def local_batches(examples: Examples, batch: int, mesh: jax.sharding.Mesh, *, step: int) -> Iterator[HostBatch]:
    """This process's examples of the batches after `step`, not collated.

    Raises:
        MachineError: a worker process of the loader is gone.
    """
    local_rows, start = local_row_numbers(batch_sharding(mesh), batch), step * batch
    try:
        for made in host_batches(examples, batch, start=start, local_rows=local_rows):
            start += batch
            yield made
    except RuntimeError as error:  # Grain's
        if "terminated unexpectedly" not in str(error):
            raise
        raise MachineError(
            f"one of loader.workers={examples.config.workers} processes that make examples is gone, before the batch "
            f"from example {start:,} on: {error} Where the system killed it, memory was short: use fewer"
        ) from None


def to_global_array(batch: Batch, mesh: jax.sharding.Mesh) -> Batch:
    """This process's part of a batch, numpy arrays, as its part of global arrays on the mesh."""
    return jax.tree.map(functools.partial(jax.make_array_from_process_local_data, batch_sharding(mesh)), batch)


def local_rows(array: jax.Array) -> np.ndarray:
    """This process's rows of an array that is split over the mesh as batches are; the reverse of `to_global_array`."""
    parts = {shard.index[0].start or 0: shard.data for shard in array.addressable_shards}
    return np.concatenate([parts[start] for start in sorted(parts)])


def local_row_numbers(sharding: jax.sharding.Sharding, batch: int) -> Int[np.ndarray, " b"]:
    """Numbers of the rows of a global batch that this process holds, in order."""
    return np.concatenate([np.arange(*bounds) for bounds in _local_slices(sharding, batch)])


def _local_slices(sharding: jax.sharding.Sharding, batch: int) -> list[tuple[int, int]]:
    """The same as slices [start, stop) of the batch, one for each of its devices or tensor groups."""
    local_rows = sharding.addressable_devices_indices_map((batch,)).values()
    return sorted({index[0].indices(batch)[:2] for index in local_rows if index is not None})


def check_rows(collated: Batch, batch: int, devices: int) -> None:
    """
    Raises:
        ConfigError: the rows of a batch, each of which may be of several examples, do not split over `devices`.
    """
    for rows in sorted({len(x) for x in jax.tree.leaves(collated)}):
        require(
            rows % devices == 0,
            f"batch={batch} makes {rows} rows of several texts here, which {devices} devices do not share evenly; "
            "use a larger --batch, or --objective.packing=1",
        )


def host_batches(
    examples: Examples, batch: int, *, start: int = 0, local_rows: Int[np.ndarray, " b"] | None = None
) -> Iterator[HostBatch]:
    """The rows `local_rows` of each batch from example `start` on, or all of them, as numpy arrays."""
    rows, workers = np.arange(batch) if local_rows is None else local_rows, examples.config.workers
    made = grain.MapDataset.source(_BatchOrder(examples, batch, start, rows)).batch(len(rows), drop_remainder=True)
    read = made.to_iter_dataset(grain.ReadOptions(num_threads=_THREADS, prefetch_buffer_size=4))
    if workers and not flags.FLAGS.is_parsed():
        flags.FLAGS(["dense-jax"])  # Grain's worker processes read absl flags, which nobody parsed
    if workers:
        start_resource_tracker()
        read = read.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    return (HostBatch(*stacked) for stacked in read)


def start_resource_tracker() -> None:
    """Start multiprocessing's resource tracker before any worker.

    Starting it unblocks SIGINT in the calling thread, so that Ctrl-C would reach workers started later.
    """
    from multiprocessing import resource_tracker  # slow to import

    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    resource_tracker.ensure_running()
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)


@dataclass(frozen=True)
class _BatchOrder:
    """The examples of some rows of each batch, one batch after the other.

    Row r of a batch always has its r-th example, however many processes share it: so the noise of a row is that of the
    same example everywhere. Grain's own sharding deals examples out in turn, which puts them into other rows.
    """

    examples: Examples
    batch: int
    start: int  # example that the first batch begins with
    rows: Int[np.ndarray, " b"]

    def __len__(self) -> int:
        return (len(self.examples) - self.start) // self.batch * len(self.rows)

    def __getitem__(self, index: int) -> SampledExample:
        number, place = divmod(index, len(self.rows))
        return self.examples[self.start + number * self.batch + int(self.rows[place])]
