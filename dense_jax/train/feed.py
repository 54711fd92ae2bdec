"""The batches of a run, in order, with what is looked up for them."""

import functools
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import jax
from jax.sharding import Mesh

from dense_jax.arrays import Batch, Params
from dense_jax.contracts import Found, Retrieves
from dense_jax.data.pipeline import Examples, Loaded, batches, placed, stacked_batches
from dense_jax.train.neighbours import PREFIX, Neighbours

_NOISE = 2  # of a step's key: for the query tower that searches


class Feed:
    """Batches that need nothing but the corpus."""

    def __init__(self, examples: Examples, batch: int, mesh: Mesh, start: int) -> None:
        self._loaded = batches(examples, batch, mesh, start=start)

    def next(self, step: int, params: Params) -> Loaded:
        """The batch that is trained on after `step`, with the state's `params`."""
        return next(self._loaded)

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
    search together, and must do so in the same order as they take steps: there it is done between the steps.
    """

    def __init__(self, examples: Examples, batch: int, mesh: Mesh, start: int, neighbours: Neighbours) -> None:
        assert isinstance(examples.objective, Retrieves)
        self.objective, self.examples, self.mesh, self.neighbours = examples.objective, examples, mesh, neighbours
        self._searched = neighbours.versions.library.passages
        self._stacked = stacked_batches(examples, batch, mesh, start=start)
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="neighbours")
        self._ahead: deque[tuple[int, Future[Loaded]]] = deque()  # with the step of the version

    def next(self, step: int, params: Params) -> Loaded:
        """As of `Feed`; says of which step the index is, and how many steps ago that was.

        Raises:
            DataError: a question became a vector with NaN or infinity.
        """
        self.neighbours.update(step)
        version = self.neighbours.version
        if self.objective.fresh:
            rng = jax.random.fold_in(jax.random.fold_in(jax.random.key(self.examples.seed), step), _NOISE)
            find = functools.partial(self.neighbours.find_anew, params=params, rng=rng, mesh=self.mesh)
            return self._dated(self._look_up(find), step, version.step)
        ahead = min(self.neighbours.settings.ahead, self.neighbours.last(step) - step)
        while len(self._ahead) <= ahead:
            self._ahead.append((version.step, self._submitted(version.find)))
        made, loaded = self._ahead.popleft()
        return self._dated(loaded.result(), step, made)

    def snapshot(self, step: int) -> bool:
        return self.neighbours.snapshot(step)

    @property
    def state(self) -> dict[str, Any]:
        return {"index": self.neighbours.step}

    def close(self) -> None:
        self._thread.shutdown(cancel_futures=True)

    def _submitted(self, find: Callable[[Batch], Found]) -> Future[Loaded]:
        if jax.process_count() == 1:
            return self._thread.submit(self._look_up, find)
        done: Future[Loaded] = Future()
        try:
            done.set_result(self._look_up(find))
        except Exception as error:  # raised when the batch is asked for, if ever: after the last one there are none
            done.set_exception(error)
        return done

    def _look_up(self, find: Callable[[Batch], Found]) -> Loaded:
        stacked = next(self._stacked)
        found = find(stacked.examples)
        joined = self.objective.join(stacked.examples, found, self._searched, self.examples.vocabulary)
        return Loaded(placed(joined, self.mesh), stacked.examples["row"], stacked.next_index)

    def _dated(self, loaded: Loaded, step: int, made: int) -> Loaded:
        return replace(loaded, notes={PREFIX + "step": float(made), PREFIX + "staleness": float(step - made)})
