"""The training loop. It knows the contract, never a method."""

import functools
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from dense_jax.agreement import is_first
from dense_jax.arrays import Int, Metrics
from dense_jax.config import Config
from dense_jax.contracts import Passages, Vocabulary
from dense_jax.data.pipeline import Examples
from dense_jax.errors import DataError, NonFiniteError, Stopped
from dense_jax.locks import only_one
from dense_jax.mesh import batch_sharding, check_batch, make_mesh, own_mesh
from dense_jax.train.checkpoint import Checkpoints
from dense_jax.train.diagnosis import Diagnosis
from dense_jax.train.feed import Feed, LookedUp
from dense_jax.train.metrics import MetricsLog
from dense_jax.train.neighbours import Neighbours
from dense_jax.train.optimizer import make_optimizer
from dense_jax.train.probe import Probe, Sample
from dense_jax.train.same_run import check_same_run
from dense_jax.train.selection import Selection
from dense_jax.train.sharding import check_models, state_sharding
from dense_jax.train.state import TrainState, first_state
from dense_jax.train.step import train_step
from dense_jax.train.versions import VERSIONS, Library, Versions
from dense_jax.train.warm_start import started_from


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
    """Everything about a run that can be known before its first batch, on all devices or on `chips`.

    Raises:
        ConfigError: mesh, batch or model do not fit the devices, or a parameter has no rule.
    """
    mesh = make_mesh(config.mesh, chips)
    check_batch(config.batch, mesh)
    check_batch(config.chunk, mesh, "chunk")
    check_models(config.objective, mesh)
    optimizer = make_optimizer(config.optimizer, config.steps, config.objective.frozen)
    init = functools.partial(config.objective.init, jax.random.key(config.seed))
    first = functools.partial(
        first_state, objective=config.objective, optimizer=optimizer, batch=config.batch, seed=config.seed
    )
    shapes = jax.eval_shape(lambda: first(init()))
    sharding = state_sharding(shapes, mesh)
    like = jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, sharding)
    step = jax.jit(
        functools.partial(
            train_step,
            objective=config.objective,
            optimizer=optimizer,
            seed=config.seed,
            chunks=config.batch // (config.chunk or config.batch),
        ),
        in_shardings=(sharding, batch_sharding(mesh)),
        out_shardings=(sharding, None),
        donate_argnums=0,
    )
    init, first = jax.jit(init, out_shardings=sharding.params), jax.jit(first, out_shardings=sharding)
    return Program(config, mesh, init, first, like, step)


def initial_state(program: Program) -> TrainState:
    """The state of step 0 on the mesh: fresh, or with what `init_from` and `init_reader_from` hold."""
    params, reports = started_from(program.init(), program.config)
    for report in reports if is_first() else ():
        print(report, file=sys.stderr)
    return program.first(jax.device_put(params, jax.tree.map(lambda x: x.sharding, program.like.params)))


def train(
    config: Config,
    store: Passages,
    vocabulary: Vocabulary,
    workdir: Path,
    *,
    sample: Sample | None = None,
    library: Library | None = None,
) -> None:
    """Trains to `config.steps`, from the newest checkpoint of `workdir` if there is one.

    On `sample` the run is probed every `probe.every` steps; with `probe.patience` it may end before the last step. In
    `library` an objective that retrieves looks passages up.

    Raises:
        ConfigError: another trainer is at work there, or the workdir was made with other settings.
        NonFiniteError: a loss or gradient that is not a number; no such state is saved.
        Stopped: SIGTERM came; the state is saved.
    """
    program = make_program(config)
    with only_one(workdir / "train.lock", f"--workdir={workdir} is being trained"):
        check_same_run(config, workdir)
        checkpoints = Checkpoints(workdir / "checkpoints", config.checkpoint)
        state, meta = _resumed(program, checkpoints)
        examples = Examples(
            store,
            config.objective,
            vocabulary,
            config.loader,
            config.seed,
            length=config.steps * config.batch,
            batch=config.batch,
            searched=library.passages if library else None,
        )
        first = int(state.step)
        log = MetricsLog(
            workdir,
            first=first,
            last=config.steps,
            every=config.log_every,
            batch=config.batch,
            names=lambda row: store.document(row).id,
            silent=not is_first(),
        )
        feed = _feed(program, examples, library, workdir, checkpoints, log, meta)
        try:
            with jax.set_mesh(program.mesh):  # the splash kernel finds the mesh here
                diagnosis = Diagnosis(examples, config.chunk or config.batch, program.mesh, config.diagnose_every)
                probe = Probe(sample, config.objective, config.embed.batch) if sample else None
                selection = Selection(config, probe, workdir, checkpoints, log, first)
                _run(program, state, feed, diagnosis, selection, checkpoints, log)
        except NonFiniteError as error:
            raise _with_advice(error, checkpoints) from None
        finally:
            feed.close()
            log.close()
            checkpoints.close()


def _feed(
    program: Program,
    examples: Examples,
    library: Library | None,
    workdir: Path,
    checkpoints: Checkpoints,
    log: MetricsLog,
    meta: dict[str, Any],
) -> Feed:
    config, start = program.config, meta["next_index"]
    if library is None:
        return Feed(examples, config.batch, program.mesh, start)
    versions = Versions(workdir / VERSIONS, library, config, own_mesh())
    neighbours = Neighbours(config, versions, checkpoints, program.like.params, log, meta.get("index", 0))
    return LookedUp(examples, config.batch, program.mesh, start, neighbours)


def _resumed(program: Program, checkpoints: Checkpoints) -> tuple[TrainState, dict[str, Any]]:
    """The state to go on from and what its checkpoint says of the feed; a new run saves its initial state first."""
    newest = checkpoints.newest_sound()
    if newest is None:
        state, meta = initial_state(program), {"next_index": 0}
        checkpoints.save(0, state, meta)
        return state, meta
    state, meta = checkpoints.restore(newest, program.like)
    if is_first():
        print(f"continuing from step {newest:,} of {program.config.steps:,}", file=sys.stderr)
    return state, meta


class _Late:
    """Metrics that are logged when the next step is under way, so that the device waits for nobody to read them."""

    def __init__(self, log: MetricsLog) -> None:
        self._log = log
        self._waiting: tuple[int, Metrics, Int[np.ndarray, " b"]] | None = None

    def add(self, step: int, metrics: Metrics, rows: Int[np.ndarray, " b"]) -> None:
        self.flush()
        self._waiting = step, metrics, rows

    def flush(self) -> None:
        """
        Raises:
            NonFiniteError: what was waiting holds what is no number.
        """
        waiting, self._waiting = self._waiting, None
        if waiting is not None:
            self._log.record(*waiting)


def _run(
    program: Program,
    state: TrainState,
    feed: Feed,
    diagnosis: Diagnosis,
    selection: Selection,
    checkpoints: Checkpoints,
    log: MetricsLog,
) -> None:
    config, step = program.config, int(state.step)
    first = saved = step
    late, meta = _Late(log), {}
    if selection.due(step):
        selection.look(step, state.params)
    over = selection.over(step)
    while step < config.steps and not over:
        try:
            batch = feed.next(step, state.params)
        except DataError:
            late.flush()  # if the state is broken, this says it better
            raise
        except Stopped:  # while it waited for an index or made one: what was learned before is not lost
            late.flush()
            if step != saved:
                checkpoints.save(step, state, meta)
            checkpoints.finish()
            raise
        state, metrics = program.step(state, batch.batch)
        step += 1
        meta = {"next_index": batch.next_index, **feed.state}
        late.add(step, metrics | {**batch.notes, **diagnosis(step, state)}, batch.rows)
        if step == first + 1:
            jax.block_until_ready(metrics)
            log.restart_clock()
        stop, due = checkpoints.preempted(), selection.due(step)
        save = stop or step == config.steps or step % config.checkpoint.every == 0 or feed.snapshot(step)
        if save or due:
            late.flush()  # raises before a broken state could be saved
        if due:
            selection.look(step, state.params)
        over = due and selection.over(step)
        if save or over or (due and selection.is_best(step)):
            checkpoints.save(step, state, meta)
            saved = step
        checkpoints.poll()
        if stop and not over:
            checkpoints.finish()
            raise Stopped(f"stopped at step {step:,} of {config.steps:,}, saved; start the same command to continue")


def _with_advice(error: NonFiniteError, checkpoints: Checkpoints) -> NonFiniteError:
    checkpoints.finish()
    steps = checkpoints.steps()
    last = f"the last good checkpoint is of step {steps[-1]:,}" if steps else "no checkpoint was saved yet"
    return NonFiniteError(
        f"{error}\n{last}; try a lower --optimizer.learning_rate, a longer --optimizer.warmup, "
        "or --objective.encoder.bert.dtype=float32"
    )
