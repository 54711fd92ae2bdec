"""The training loop. It knows the contract, never a method."""

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from dense_jax.arrays import Batch, Int, Metrics, Params
from dense_jax.config import Config, profiled_steps
from dense_jax.data.pipeline import Examples, collate, first_examples
from dense_jax.errors import DataError, NonFiniteError, Stopped, StorageError
from dense_jax.mesh import UPDATE, batch_sharding, batch_shards, check_batch, make_mesh
from dense_jax.objective import Loader
from dense_jax.processes.multihost import is_process_0, on_process_0
from dense_jax.train.checkpoint import Checkpoints
from dense_jax.train.flops import model_flops, peak_of_run
from dense_jax.train.loader import LoaderContext, open_corpus_loader
from dense_jax.train.metrics import MetricsLog, SkippedSteps
from dense_jax.train.metrics_files import METRICS, has_trained
from dense_jax.train.optimizer import make_optimizer
from dense_jax.train.sharding import check_gradient_dtype, check_models, split_weight_update, state_sharding
from dense_jax.train.state import TrainState, first_state
from dense_jax.train.step import train_step
from dense_jax.train.step_times import CHECKPOINTS, DATA, Profiler
from dense_jax.train.trackers import Tracker
from dense_jax.train.validation import CollapseMonitor, Validates, Validation
from dense_jax.types import TrainingSet, Vocabulary

_CURES = "a lower --optimizer.learning_rate, a longer --optimizer.warmup, or --objective.encoder.bert.dtype=float32"


@dataclass(frozen=True)
class Program:
    """A config's training, compiled for a mesh."""

    config: Config
    mesh: Mesh
    init: Any  # () -> parameters
    first: Any  # parameters -> state of step 0
    like: TrainState  # shapes, dtypes and shardings of the state
    step: Any  # (state, batch) -> (state, metrics); gives the old state's memory to the new one


def make_program(config: Config, chips: Sequence[Any] = ()) -> Program:
    """The compiled functions and shapes of a run, on all devices or on `chips`.

    Raises:
        ConfigError: mesh, batch or model do not fit the devices, or a parameter has no rule.
    """
    mesh = make_mesh(config.mesh, chips)
    check_batch(config.batch, mesh)
    check_batch(config.chunk, mesh, "chunk")
    check_models(config.objective, mesh)
    check_gradient_dtype(config, mesh)
    optimizer = make_optimizer(config.optimizer, config.steps, config.objective.frozen)
    init = functools.partial(config.objective.init, jax.random.key(config.seed))
    first = functools.partial(
        first_state, objective=config.objective, optimizer=optimizer, batch=config.batch, seed=config.seed
    )
    shapes = jax.eval_shape(lambda: first(init()))
    if config.mesh.shard_update:
        mesh = split_weight_update(shapes, mesh)
    sharding = state_sharding(shapes, mesh)
    like = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, sharding)
    step = jax.jit(
        functools.partial(
            train_step,
            objective=config.objective,
            optimizer=optimizer,
            seed=config.seed,
            chunks=config.batch // (config.chunk or config.batch),
            skip_nonfinite=config.optimizer.skip_nonfinite > 0,
            sharding=sharding.params,
            gradient_dtype=config.mesh.gradient_dtype,
        ),
        in_shardings=(sharding, batch_sharding(mesh)),
        out_shardings=(sharding, None),
        donate_argnums=0,
    )
    init, first = jax.jit(init, out_shardings=sharding.params), jax.jit(first, out_shardings=sharding)
    return Program(config, mesh, init, first, like, step)


def initial_state(program: Program, warm_start: Callable[[Params], Params] = lambda fresh: fresh) -> TrainState:
    """The state of step 0 on the mesh, with the parameters that `warm_start` makes of fresh ones."""
    params = warm_start(program.init())
    return program.first(jax.device_put(params, jax.tree.map(lambda x: x.sharding, program.like.params)))


def train(
    config: Config,
    store: TrainingSet,
    vocabulary: Vocabulary,
    workdir: Path,
    *,
    warm_start: Callable[[Params], Params],
    record_start: Callable[[], None],
    open_loader: Callable[[LoaderContext], Loader] = open_corpus_loader,
    validator: Validates | None = None,
    digests: Mapping[str, Any] | None = None,
    stop_requested: Callable[[], bool] = lambda: False,
) -> None:
    """Train to `config.steps`, from the newest checkpoint of `workdir` if it has any.

    A new run starts from the parameters that `warm_start` makes of fresh ones. `record_start` is called once, after all
    checks of the start and before the first checkpoint of a new run. `validator` validates every `validation.every`
    steps; with `validation.patience` the run may stop early. `digests` of the data are saved with each checkpoint, and
    compared where one is restored. `stop_requested` is called after each step; several processes have JAX watch for
    SIGTERM too.

    The caller holds the lock of the workdir, and has checked that the run continues (train/same_run.py).

    Raises:
        ConfigError: mesh, batch or model do not fit the devices.
        NonFiniteError: a loss, a gradient or a parameter that is not finite; no such state is saved.
        StorageError: the disk refuses, or all checkpoints of trained steps are lost.
        Stopped: SIGTERM came; the state is saved.
    """
    program = make_program(config)
    _print_update(program.mesh)
    checkpoints = Checkpoints(workdir / "checkpoints", config.checkpoint, data=digests, stop_requested=stop_requested)
    state, meta = _resumed(program, checkpoints, workdir, warm_start)
    first = int(state.step)
    examples = _examples_of_run(config, store, vocabulary)
    log = _open_log(config, workdir, first, meta, store)
    context = LoaderContext(config, examples, program.mesh, first, meta, program.like.params, workdir, checkpoints, log)
    loader = open_loader(context)
    profiler = Profiler(profiled_steps(config.profile) if is_process_0() else range(0), workdir)
    with _closing(loader, log, checkpoints, profiler), _advising(checkpoints), jax.set_mesh(program.mesh):
        monitor = CollapseMonitor(examples, loader, program.mesh, config.chunk or config.batch, config.diagnose_every)
        validation = Validation(config, validator, workdir, checkpoints, log, first)
        is_new = not checkpoints.steps()
        if is_new:
            _check_first_batch(examples, program)
        record_start()
        if is_new:
            checkpoints.save(first, state, meta)
            checkpoints.finish()  # before the first step is compiled: a kill meanwhile loses nothing
        _run_steps(program, state, loader, monitor, validation, checkpoints, log, profiler)


def _print_update(mesh: Mesh) -> None:
    """Print the number of chips that the weight update is split over, if it is."""
    if is_process_0() and (ways := mesh.shape[UPDATE]) > 1:
        print(f"weight update split over {ways} of {batch_shards(mesh)} data chips", file=sys.stderr)


def _examples_of_run(config: Config, store: TrainingSet, vocabulary: Vocabulary) -> Examples:
    count = config.steps * config.batch
    return Examples(store, config.objective, vocabulary, config.loader, config.seed, count, config.batch)


def _open_log(config: Config, workdir: Path, first: int, meta: dict[str, Any], store: TrainingSet) -> MetricsLog:
    """The log of a run that goes on from step `first`, whose checkpoint has `meta`."""
    return MetricsLog(
        workdir,
        first=first,
        last=config.steps,
        every=config.log_every,
        batch=config.batch,
        names=lambda row: store.document(row).id,
        silent=not is_process_0(),
        skipped=SkippedSteps(config.optimizer.skip_nonfinite, **meta.get("skipped", {})),
        tracker=Tracker(config, workdir) if is_process_0() else None,
    )


@contextlib.contextmanager
def _closing(*parts: Loader | MetricsLog | Checkpoints | Profiler) -> Iterator[None]:
    """Close all `parts` after the block; its own error is raised rather than a later one of closing them."""
    try:
        yield
    except BaseException as error:
        for part in parts:
            try:
                part.close()
            except Exception as other:
                if not isinstance(error, StorageError):  # else it is most likely the same one again
                    print(f"warning: {other}", file=sys.stderr)
        raise
    with contextlib.ExitStack() as stack:
        for part in reversed(parts):
            stack.callback(part.close)


def _resumed(
    program: Program, checkpoints: Checkpoints, workdir: Path, warm_start: Callable[[Params], Params]
) -> tuple[TrainState, dict[str, Any]]:
    """The state to go on from, or a new one, and the JSON values of its checkpoint."""
    newest = checkpoints.newest_sound()
    if newest is None:
        on_process_0(lambda: _check_untrained(workdir))
        checkpoints.check_space(program.like, copies=2 if program.config.steps else 1)
        return initial_state(program, warm_start), {}
    state, meta = checkpoints.restore(newest, program.like)
    if broken := checkpoints.non_finite(state):
        reason = f"the checkpoint of step {newest:,} holds NaN or infinity in {', '.join(broken)}"
        checkpoints.put_aside(newest, reason)
        return _resumed(program, checkpoints, workdir, warm_start)
    if newest < program.config.steps:
        checkpoints.check_space(program.like, copies=1)  # said before the first step is compiled
    if is_process_0():
        over = "; no step is left" if newest >= program.config.steps else ""
        print(f"continuing from step {newest:,} of {program.config.steps:,}{over}", file=sys.stderr)
    return state, meta


def _check_untrained(workdir: Path) -> None:
    """
    Raises:
        StorageError: a run was trained there, and its checkpoints are gone.
    """
    if has_trained(workdir):
        raise StorageError(
            f"{workdir / METRICS} has lines of trained steps, but {workdir / 'checkpoints'} has no checkpoint of them; "
            "copy the checkpoints there, or start over by --restart, given once: it moves the old state aside"
        )


def _check_first_batch(examples: Examples, program: Program) -> None:
    """Make the first batch, without what a loader adds to it, which may take a checkpoint.

    Raises:
        ConfigError: the examples of a batch do not share the devices evenly.
        DataError: the corpus gives no example.
    """
    if len(examples):
        batch, mesh = program.config.batch, program.mesh
        collate(examples.objective, first_examples(examples, batch, mesh), batch, mesh)


class _Late:
    """Metrics that are logged while the next step runs, so that the devices need not wait for their being read."""

    def __init__(self, log: MetricsLog) -> None:
        self._log = log
        self._waiting: tuple[int, Metrics, Int[np.ndarray, " b"]] | None = None

    def add(self, step: int, metrics: Metrics, rows: Int[np.ndarray, " b"]) -> None:
        self.flush()
        self._waiting = step, metrics, rows

    def extend(self, metrics: Metrics) -> None:
        """Add to the metrics of the step that was added last."""
        assert self._waiting is not None
        step, before, rows = self._waiting
        self._waiting = step, before | metrics, rows

    @contextlib.contextmanager
    def first_flushed(self) -> Iterator[None]:
        """Flush before a DataError of the block leaves it: the metrics of a broken state give the better error."""
        try:
            yield
        except DataError:
            self.flush()
            raise

    def flush(self) -> None:
        """
        Raises:
            NonFiniteError: the metrics that were waiting hold NaN or infinity.
        """
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            self._log.record(*waiting)


def _run_steps(
    program: Program,
    state: TrainState,
    loader: Loader,
    monitor: CollapseMonitor,
    validation: Validation,
    checkpoints: Checkpoints,
    log: MetricsLog,
    profiler: Profiler,
) -> None:
    config, step = program.config, int(state.step)
    first = saved = step
    late, meta = _Late(log), {}
    if validation.is_due(step):
        validation.run(step, state.params)
    over = validation.stops(step)
    while step < config.steps and not over:
        try:
            with late.first_flushed(), log.times.spent(DATA):
                batch = loader.batch(step, state.params)
        except Stopped:  # while it waited for an index or made one: what was learned before is not lost
            late.flush()
            if step != saved:
                _save(checkpoints, log, step, state, meta)
            checkpoints.finish()
            raise
        profiler.begin_or_end(step, state)
        state, metrics = program.step(state, batch.inputs)
        step += 1
        meta = {**loader.state}
        late.add(step, metrics | {**batch.notes}, batch.rows)
        with late.first_flushed():
            late.extend(monitor(step, state))
        if step == first + 1:
            _start_clock(program, batch.inputs, step, metrics, log)
        stop, due = checkpoints.preempted(), validation.is_due(step)
        save = stop or step == config.steps or step % config.checkpoint.every == 0 or loader.needs_checkpoint(step)
        if save or due:
            late.flush()  # raises before a broken state could be saved
        if due:
            validation.run(step, state.params)
        over = due and validation.stops(step)
        if save or over or (due and validation.is_best(step)):
            _save(checkpoints, log, step, state, meta)
            saved = step
        with log.times.spent(CHECKPOINTS):
            checkpoints.poll()
        if stop and not over:
            checkpoints.finish()
            raise Stopped(f"stopped at step {step:,} of {config.steps:,}, saved; start the same command to continue")


def _save(checkpoints: Checkpoints, log: MetricsLog, step: int, state: TrainState, meta: dict[str, Any]) -> None:
    with log.times.spent(CHECKPOINTS):
        log.sync()
        checkpoints.save(step, state, meta | log.state)


def _start_clock(program: Program, batch: Batch, step: int, metrics: Metrics, log: MetricsLog) -> None:
    """Measure speed and MFU from the end of `step`, the first one, which compiles; its `metrics` are awaited."""
    jax.block_until_ready(metrics)
    peak = None if log.silent else peak_of_run()
    if peak is not None:
        flops = model_flops(program.config.objective, program.like.params, program.like.carry, batch)
        log.times.seconds_at_peak = flops / peak
    log.restart_clock(step)


@contextlib.contextmanager
def _advising(checkpoints: Checkpoints) -> Iterator[None]:
    """Add the last good checkpoint and the settings to change to a NonFiniteError of the block."""
    try:
        yield
    except NonFiniteError as error:
        checkpoints.finish()
        raise NonFiniteError(f"{error}\n{_advice_on_divergence(checkpoints)}") from None


def _advice_on_divergence(checkpoints: Checkpoints) -> str:
    steps = checkpoints.steps()
    if not steps:
        return f"no checkpoint was saved yet; try {_CURES}"
    return (
        f"the last good checkpoint is of step {steps[-1]:,}; in another --workdir, go on from it by "
        f"--init_from={checkpoints.folder / str(steps[-1])} with {_CURES}"
    )
