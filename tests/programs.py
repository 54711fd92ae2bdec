"""Training programs that tests share: most of a small run is the trace of its program."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import optax

from dense_jax.arrays import Batch, Metrics, Params
from dense_jax.augmented.loader import open_retrieval_loader
from dense_jax.augmented.versions import Library
from dense_jax.config import Config, GradientDtype
from dense_jax.objective import Objective
from dense_jax.train.loader import open_corpus_loader
from dense_jax.train.loop import Program, make_program, train
from dense_jax.train.same_run import NO_DATA, Data, check_continues, record, recorded
from dense_jax.train.state import TrainState
from dense_jax.train.step import train_step
from dense_jax.train.validation import Validates
from dense_jax.train.warm_start import initial_weights
from dense_jax.types import TrainingSet, Vocabulary

READ = ("objective", "steps", "batch", "chunk", "seed", "optimizer", "mesh")  # the settings that make_program reads
_made: list[tuple[list[Any], Program]] = []


def shared_program(config: Config, chips: Sequence[Any] = ()) -> Program:
    """The program of an earlier config with the same settings, or a new one."""
    settings = [*(getattr(config, name) for name in READ), list(chips)]
    for others, program in _made:
        if others == settings:
            return replace(program, config=config)
    _made.append((settings, make_program(config, chips)))
    return _made[-1][1]


def plain_step(
    objective: Objective, optimizer: optax.GradientTransformation, params: Params
) -> Callable[[TrainState, Batch], tuple[TrainState, Metrics]]:
    """The training step of seed 0 as most runs have it, for parameters that are sharded like `params`."""
    sharding = jax.tree.map(lambda x: x.sharding, params)
    settings = {"chunks": 1, "skip_nonfinite": False, "sharding": sharding, "gradient_dtype": GradientDtype.FLOAT32}
    return jax.jit(functools.partial(train_step, objective=objective, optimizer=optimizer, seed=0, **settings))


def train_workdir(
    config: Config,
    store: TrainingSet,
    vocabulary: Vocabulary,
    workdir: Path,
    *,
    validator: Validates | None = None,
    library: Library | None = None,
    data: Data = NO_DATA,
    stop_requested: Callable[[], bool] = lambda: False,
) -> None:
    """Train as `Run.train` does, on prepared data of a test and without the lock."""
    check_continues(config, workdir, data)
    is_new = recorded(workdir) is None
    train(
        config,
        store,
        vocabulary,
        workdir,
        warm_start=functools.partial(initial_weights, config),
        record_start=functools.partial(record, config, workdir, data) if is_new else lambda: None,
        open_loader=functools.partial(open_retrieval_loader, library=library) if library else open_corpus_loader,
        validator=validator,
        digests=data.digests,
        stop_requested=stop_requested,
    )
