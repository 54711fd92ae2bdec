"""Validation while a run trains: its results, the best checkpoint, early stopping, and collapse metrics.

The results lie in the workdir's validation.json, which is replaced as a whole. A result is written before the
checkpoint of its step: so a run that goes on from a checkpoint knows all results up to it.
"""

import functools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import jax
from jax.sharding import Mesh
from typing_extensions import TypedDict

from dense_jax.arrays import Metrics, Params
from dense_jax.config import Config, Select, ValidationConfig
from dense_jax.data.pipeline import Examples, first_examples
from dense_jax.errors import StorageError
from dense_jax.io import Count, read_json, write_json
from dense_jax.objective import HostBatch, Loader
from dense_jax.processes.multihost import is_process_0
from dense_jax.train.checkpoint import Checkpoints
from dense_jax.train.metrics import COLLAPSE, MetricsLog
from dense_jax.train.state import TrainState

FILE = "validation.json"
PREFIX = "validation/"  # of the names in metrics.jsonl and TensorBoard


class _Result(TypedDict):
    step: Count


class ValidationResults(TypedDict):
    """Content of validation.json."""

    sample: str
    measure: str
    select: Literal["newest", "best"]
    patience: Count
    results: list[_Result]


@runtime_checkable
class Validates(Protocol):
    """A function from parameters to retrieval metrics, such as `train.validator.Validator`."""

    @property
    def fingerprint(self) -> str:
        """Digest of the judged queries and documents: metrics of different samples do not compare."""
        ...

    def __call__(self, params: Params) -> dict[str, float]: ...


@dataclass(frozen=True)
class History:
    """The validation results of one run on one sample, with the rules that choose and stop by them."""

    sample: str  # its fingerprint
    measure: str
    select: Select
    patience: int
    results: tuple[dict[str, Any], ...] = ()  # {"step": 100, "nDCG@10": 0.3, ...}, in the order of steps

    @property
    def steps(self) -> list[int]:
        return [result["step"] for result in self.results]

    @property
    def best(self) -> int | None:
        """The step of the best result, of equal ones the first; None without results."""
        return max(self.results, key=lambda result: result[self.measure])["step"] if self.results else None

    @property
    def ended(self) -> str:
        """The rule that ends training, with its numbers; empty while training goes on."""
        since = len(self.results) - 1 - self.steps.index(self.best) if self.best is not None else 0
        if not self.patience or since < self.patience:
            return ""
        return (
            f"{since} validations in a row were no better in {self.measure} than that of step {self.best:,} "
            f"(validation.patience={self.patience})"
        )

    @property
    def loss(self) -> str:
        """A sentence on a measure that is lower now than before the first step; else empty."""
        if self.steps[:1] != [0]:
            return ""
        before, after = (self.results[i][self.measure] for i in (0, -1))
        if after >= before:
            return ""
        return f"training lowered {self.measure} on the validation sample from {before:.3f} to {after:.3f}"

    def added(self, step: int, metrics: dict[str, float]) -> "History":
        return replace(self, results=(*self.results, {"step": step, **metrics}))

    def write(self, workdir: Path) -> None:
        """Replace the results of `workdir`."""
        write_json(workdir / FILE, vars(self) | {"select": self.select.value})


def read_history(workdir: Path) -> History | None:
    """The validation results of `workdir`; None for a run that was never validated.

    Raises:
        StorageError: the file is damaged.
    """
    if not (workdir / FILE).is_file():
        return None
    found = read_json(workdir / FILE, ValidationResults)
    if not all(isinstance(result.get(found["measure"]), float | int) for result in found["results"]):
        raise StorageError(f"{workdir / FILE}: damaged (a result lacks {found['measure']}); restore it from a copy")
    return History(**found | {"select": Select(found["select"]), "results": tuple(found["results"])})


def selected_step(workdir: Path, select: Select, measure: str, steps: Sequence[int]) -> int:
    """The one of `steps`, those of the checkpoints of `workdir`, that `select` chooses; -1: the newest.

    Raises:
        StorageError: `select` is BEST, and the best is not among `steps` or nothing was validated.
    """
    if select is Select.NEWEST:
        return -1
    history = read_history(workdir)
    best = replace(history, measure=measure).best if history is not None else None
    if best is None:
        raise StorageError(
            f"{workdir}: nothing was validated, so there is no best checkpoint; train with --validation.every=STEPS, "
            "or use --validation.select=newest"
        )
    if best not in steps:
        raise StorageError(
            f"{workdir}: the best validation is of step {best:,}, whose checkpoint was not kept (validation.select=best"
            f" keeps it while training); there are {[*steps]}: name one by --embed.step"
        )
    return best


class Validation:
    """The validation of a run that goes on from step `first`; without a `validator` nothing is ever due."""

    def __init__(
        self,
        config: Config,
        validator: Validates | None,
        workdir: Path,
        checkpoints: Checkpoints,
        log: MetricsLog,
        first: int,
    ) -> None:
        self.config, self.validator, self.workdir = config, validator, workdir
        self.checkpoints, self.log = checkpoints, log
        self.history = _continued(workdir, config.validation, validator.fingerprint if validator else "", first)
        if validator is not None:
            self._store()

    def is_due(self, step: int) -> bool:
        """True for the first step, the last and every k-th, unless the history has its result."""
        if self.validator is None or step in self.history.steps:
            return False
        every = self.config.validation.every
        return step in (0, self.config.steps) or (every > 0 and step % every == 0)

    def run(self, step: int, params: Params) -> None:
        """Validate the state after `step`, which is due."""
        assert self.validator is not None
        with self.log.paused():
            metrics = self.validator(params)
        self.history = self.history.added(step, metrics)
        best = self.history.best
        rank = "the best so far" if best == step else f"the best is of step {best:,}"
        shown = "  ".join(f"{name} {value:.3f}" for name, value in metrics.items())
        self.log.add(step, {PREFIX + name: value for name, value in metrics.items()}, f"{shown}  ({rank})")
        self._store()
        ends = step == self.config.steps or bool(self.history.ended)
        if ends and (loss := self.history.loss):
            self.log.say(f"warning: {loss}; try a lower --optimizer.learning_rate in another --workdir")

    def is_best(self, step: int) -> bool:
        """True if the state after `step` is to be kept as the best."""
        return self.config.validation.select is Select.BEST and self.history.best == step

    def stops(self, step: int) -> bool:
        """Early stopping: True if training ends with `step`, before its last; then print the rule."""
        reason = self.history.ended
        if not reason or step == self.config.steps:
            return False
        self.log.say(
            f"training ended at step {step:,} of {self.config.steps:,}: {reason}; to go on, use a larger one, or 0"
        )
        return True

    def _store(self) -> None:
        if is_process_0():
            self.history.write(self.workdir)
        if self.config.validation.select is Select.BEST and self.history.best is not None:
            self.checkpoints.protect(self.history.best)


def _continued(workdir: Path, config: ValidationConfig, sample: str, step: int) -> History:
    """The results on `sample` up to `step`, where a run goes on, with the rules of `config`."""
    before = read_history(workdir)
    known = before.results if before is not None and before.sample == sample else ()
    past = tuple(result for result in known if result["step"] <= step)
    return History(sample, config.measure, config.select, config.patience, past)


class CollapseMonitor:
    """Collapse metrics of the run's first `size` examples, which `loader` assembles to a batch.

    They show a collapse before the loss does.
    """

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
        return {COLLAPSE + name: value for name, value in metrics.items()}

    @functools.cached_property
    def _first(self) -> HostBatch:
        """Made at the first use: a run may end before."""
        return first_examples(self.examples, self.size, self.mesh)
