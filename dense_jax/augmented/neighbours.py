"""Search for the examples of an objective that retrieves, in the version of the index that belongs to the step.

A version is made by the passage tower of a checkpoint and searched with its query tower, so what is found for a batch
depends on nothing else and can be looked up ahead. Synchronous: the trainer makes one every `every` steps, and a run
that was interrupted goes on with the same one. Asynchronous: another process makes them (augmented/refresher.py), and
the trainer changes to the newest between two steps. REALM (Guu et al. 2020), section 3.3.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import jax
from jax.sharding import Mesh

from dense_jax.arrays import Array, Batch, Float, Int, Params, PRNGKeyArray, np
from dense_jax.augmented.objective import RetrievalAugmented
from dense_jax.augmented.versions import Versions
from dense_jax.config import CheckpointConfig, Config, Refresh, Stale
from dense_jax.data.pipeline import local_rows, to_global_array
from dense_jax.errors import Stopped, StorageError, require
from dense_jax.mesh import batch_sharding, replicated
from dense_jax.processes.multihost import all_gather, barrier, broadcast, gather_to_host, is_process_0, on_process_0
from dense_jax.retrieval.index import Index
from dense_jax.terminal.progress import format_duration
from dense_jax.train.checkpoint import Checkpoints
from dense_jax.train.metrics import MetricsLog
from dense_jax.types import SearchResult, Tokens, Tower

PREFIX = "index/"  # of the names in metrics.jsonl and TensorBoard
_LOOK = 10  # steps from one look for a newer version to the next
_PAUSE = 1.0  # seconds between looks while waiting for one

Encode = Callable[[Params, Tokens], Array]


@dataclass(frozen=True)
class Version:
    """An index in use, with the query tower of its checkpoint."""

    step: int
    begun: float  # when its making began, in seconds since 1970
    index: Index
    query: Params  # on every device of `mesh`
    encode: Encode
    objective: RetrievalAugmented
    mesh: Mesh  # of this process's devices

    def find(self, batch: Batch) -> SearchResult:
        """The passages nearest to the questions of this process's `batch`.

        Raises:
            DataError: a question became a vector with NaN or infinity.
        """
        with jax.set_mesh(self.mesh):  # another one may be in force, that of all processes
            tokens = jax.device_put(self.objective.question(batch), batch_sharding(self.mesh))
            vectors = np.asarray(self.encode(self.query, tokens), np.float32)
        return self.nearest(vectors)

    def nearest(self, vectors: Float[np.ndarray, "q d"]) -> SearchResult:
        """The passages nearest to each vector of this process; all processes search together.

        Raises:
            DataError: one is NaN or infinite.
        """
        depth, count = self.objective.depth, self.index.vectors.passages
        with jax.set_mesh(self.mesh):
            rows = _searched(self.index, vectors, min(depth, count))
        rows = np.pad(rows, ((0, 0), (0, depth - rows.shape[1])), constant_values=-1)
        return SearchResult(rows, self.index.vectors.take(rows))


def _searched(index: Index, vectors: Float[np.ndarray, "q d"], k: int) -> Int[np.ndarray, "q k"]:
    """The k best rows for each of this process's vectors: all processes search their parts for those of all."""
    rows = index.search(all_gather(vectors).reshape(-1, vectors.shape[1]), k).rows
    return rows.reshape(-1, len(vectors), k)[jax.process_index()]


class Neighbours:
    """The version in use, and its changes. All processes change it at the same step."""

    def __init__(
        self, config: Config, versions: Versions, checkpoints: Checkpoints, like: Params, log: MetricsLog, version: int
    ) -> None:
        """`like`: shapes and shardings of the parameters. `version`: the step of the one that was last in use."""
        assert isinstance(config.objective, RetrievalAugmented)
        self.settings, self.objective, self.versions = config.neighbours, config.objective, versions
        self.checkpoints, self.like, self.log = checkpoints, like, log
        self.step = version  # of the version in use
        self._version: Version | None = None
        self._refused: set[int] = set()  # damaged ones
        self._began, self._spent = time.monotonic(), 0.0
        encoder = self.objective.towers(like).query.encoder
        require(encoder.views == 1, f"{encoder.views} views of a text cannot be looked up in training; use one")
        self._encode: Encode = jax.jit(lambda params, tokens: encoder.apply(params, tokens))
        self._encode_with_dropout = jax.jit(
            lambda params, tokens, rng, rows: jax.lax.with_sharding_constraint(
                encoder.apply(params, tokens, rng=rng), rows
            ),
            static_argnums=3,
        )
        checkpoints.hold(lambda: {self.step, *versions.begun()})

    @property
    def version(self) -> Version:
        """The one in use; `update` comes first."""
        assert self._version is not None
        return self._version

    def snapshot(self, step: int) -> bool:
        """Return whether an index is made of the state after `step`, which must then be saved."""
        return self.settings.every > 0 and step % self.settings.every == 0

    def last(self, step: int) -> int:
        """The last step whose batch may be looked up in the version that is in use at `step`."""
        every = self.settings.every
        if self.settings.refresh is Refresh.ASYNCHRONOUS or not every:
            return step + self.settings.ahead
        return (step // every + 1) * every - 1

    def update(self, step: int) -> None:
        """Change to the version that the batch after `step` is looked up in.

        Raises:
            StorageError: no checkpoint to make it of is sound.
            Stopped: SIGTERM came while it waited for a version or made one.
        """
        if self.settings.refresh is Refresh.ASYNCHRONOUS:
            if self._version is None:
                self._make(self._known(step), step)
            if step % _LOOK == 0 or self._is_stale(step):
                self._catch_up(step)
        elif self.snapshot(step):
            if self._version is None or self.step != step:
                self._make(step, step)
        elif self._version is None:
            self._make(self._known(step), step)

    def find_with(self, batch: Batch, *, params: Params, rng: PRNGKeyArray | None, mesh: Mesh) -> SearchResult:
        """The passages nearest to the questions of this process's `batch` by the query tower of `params`.

        With `rng`, dropout is on. All processes encode the global batch together, on their `mesh`: so the dropout of a
        question does not depend on the number of processes, and no two questions share theirs.
        """
        query = self.objective.towers(params).query.params
        questions = to_global_array({"question": self.objective.question(batch)}, mesh)["question"]
        vectors = self._encode_with_dropout(query, questions, rng, batch_sharding(mesh))
        return self.version.nearest(local_rows(vectors).astype(np.float32))

    def _known(self, step: int) -> int:
        """The version that a run goes on with at `step`: its own, or else the newest that exists or can be made."""
        steps = [saved for saved in self._on_disk().steps() if saved <= step]
        first = [self.step, *reversed(on_process_0(self.versions.committed))]
        wanted = [one for one in (*first, *reversed(steps)) if one in steps]
        chosen = self.checkpoints.first_sound(list(dict.fromkeys(wanted)))
        if chosen != self.step:
            self.log.say(f"the checkpoint of the index in use, of step {self.step:,}, is gone; goes on with {chosen:,}")
        return chosen

    def _on_disk(self) -> Checkpoints:
        """All checkpoints, the last one too: of a save just over, the first process's own manager alone knows all."""
        self.checkpoints.finish()
        barrier("checkpoints are complete")
        return self._reading()

    def _reading(self) -> Checkpoints:
        return Checkpoints(self.checkpoints.folder, CheckpointConfig(), read_only=True)

    def _make(self, version: int, step: int) -> None:
        """Make the version of a checkpoint, unless it is complete, and use it."""
        began = time.monotonic()
        saved = self._on_disk()
        towers = self.objective.towers(saved.restore_params(version, self.like))
        passage = replace(towers.passage, params=gather_to_host(towers.passage.params))
        with self.log.paused():
            fingerprint, patience = saved.fingerprint(version), self.settings.patience
            self.versions.make(version, passage, fingerprint, between=self._stop_if_preempted, patience=patience)
            self._use(version, self.versions.open(version), towers.query)
            if is_process_0():
                self.versions.prune(saved.fingerprints(self.versions.begun()), in_use=version)
        now = time.monotonic()
        seconds, self._spent = now - began, self._spent + now - began
        share = self._spent / (now - self._began)
        event = f"index of step {version:,} ready in {format_duration(seconds)}; indexes took {share:.0%} of the time"
        self.log.add(step, {PREFIX + "seconds": seconds, PREFIX + "share": share}, event)

    def _use(self, version: int, opened: Index, query: Tower) -> None:
        mesh = self.versions.mesh
        everywhere = jax.device_put(gather_to_host(query.params), replicated(mesh))
        begun = self.versions.begun_at(version)
        self._version = Version(version, begun, opened, everywhere, self._encode, self.objective, mesh)
        self.step = version

    def _is_stale(self, step: int) -> bool:
        """Return whether the last batch that is looked up now would be trained on with too old an index."""
        return 0 < self.settings.max_staleness < step + self.settings.ahead - self.step

    def _catch_up(self, step: int) -> None:
        """Change to the newest version; where that is too old, follow `neighbours.stale`."""
        self._change(step)
        began = time.monotonic()
        while self._is_stale(step):
            most = f"neighbours.max_staleness={self.settings.max_staleness}"
            age = f"the index is {step - self.step:,} steps old ({most})"
            if self.settings.stale is Stale.WARN:
                if step % self.settings.every == 0:
                    self.log.say(f"warning: {age}; is `dense-jax refresh` running?")
                return
            patience = self.settings.patience if self.settings.stale is Stale.WAIT else 0
            if broadcast(int(time.monotonic() - began >= patience)):
                self.log.say(f"{age}; the trainer makes one itself")
                self._make(broadcast(self._on_disk().steps()[-1]), step)
                return
            self._stop_if_preempted()
            time.sleep(_PAUSE)
            self._change(step)

    def _stop_if_preempted(self) -> None:
        if self.checkpoints.preempted():
            raise Stopped("stopped while an index was waited for or made, saved; start the same command to continue")

    def _change(self, step: int) -> None:
        """Use the newest version that is complete and of one of this run's checkpoints up to `step`."""
        found = broadcast(self._newest(step))
        if found <= self.step:
            return
        with self.log.paused():
            try:
                opened = self.versions.open(found)
                params = self._reading().restore_params(found, self.like)
            except StorageError as error:
                self._refused.add(found)
                self.log.say(f"warning: the index of step {found:,} is refused, {self.step:,} stays in use: {error}")
                return
            self._use(found, opened, self.objective.towers(params).query)
        self.log.add(step, {PREFIX + "step": float(found)}, f"changed to the index of step {found:,}")

    def _newest(self, step: int) -> int:
        self.checkpoints.poll()
        ours = [saved for saved in self.checkpoints.steps() if self.step < saved <= step]
        made = set(self.versions.committed()) - self._refused
        fit = [one for one in ours if one in made and self.versions.belongs(one, self.checkpoints.fingerprint(one))]
        return max(fit, default=self.step)
