"""Trained towers and readers, loaded from a workdir."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import xxhash

from dense_jax.config import Config
from dense_jax.mesh import replicated_on_all_devices
from dense_jax.objective import PASSAGE
from dense_jax.processes.multihost import gather_to_host, on_process_0
from dense_jax.train.checkpoint import Checkpoints
from dense_jax.train.optimizer import path_name
from dense_jax.train.same_run import NO_DATA, Data, check_same_parameters
from dense_jax.train.validation import selected_step
from dense_jax.train.warm_start import initial_weights
from dense_jax.types import Reader, Towers


@dataclass(frozen=True)
class Trained:
    """The towers of a checkpoint or of a model that is used as it is, and the reader if the objective has one."""

    towers: Towers
    reader: Reader | None
    step: int
    fingerprint: str  # of the parameters; runs differ even at the same step
    passage_step: int  # of the checkpoint that passages are encoded by: 0 where training leaves their tower as it is
    passage_fingerprint: str
    described: str  # for people


def load_trained(config: Config, workdir: Path, step: int, data: Data = NO_DATA) -> Trained:
    """The towers of checkpoint `step` (-1: the one that validation.select names), their parameters on every device.

    Each process gets all parameters, as numpy arrays. A run of no steps needs no checkpoint: without one, its
    parameters are those of `init_from`. `data` are the data that the towers are used with.

    Raises:
        ConfigError: the workdir was trained with other settings.
        DataError: it was trained on other data.
        StorageError: there is no such checkpoint, or it is damaged.
    """
    check_same_parameters(config, workdir, data)
    checkpoints = Checkpoints(workdir / "checkpoints", config.checkpoint, read_only=True, data=data.digests)
    if not config.steps and step in (-1, 0) and not on_process_0(checkpoints.steps):
        return _untrained(config)
    if step == -1:
        step = selected_step(workdir, config.validation.select, config.validation.measure, checkpoints.steps())
    step = on_process_0(lambda: checkpoints.existing(step))
    params = gather_to_host(checkpoints.restore_params(step, _like(config)))
    # A frozen tower is the same in every checkpoint; the first one may be damaged.
    passage_step = 0 if PASSAGE in config.objective.frozen and on_process_0(lambda: 0 in checkpoints.steps()) else step
    return Trained(
        config.objective.towers(params),
        config.objective.reader(params),
        step,
        checkpoints.fingerprint(step),
        passage_step,
        checkpoints.fingerprint(passage_step),
        f"checkpoint of step {step:,} in {workdir}",
    )


def _untrained(config: Config) -> Trained:
    """The initial parameters of training."""
    params = initial_weights(config, jax.jit(config.objective.init)(jax.random.key(config.seed)))
    fingerprint, objective = _fingerprint(params), config.objective
    described = f"parameters of {config.init_from}" if config.init_from else f"random parameters, seed {config.seed}"
    return Trained(objective.towers(params), objective.reader(params), 0, fingerprint, 0, fingerprint, described)


def _fingerprint(params: Any) -> str:
    """A digest of the names and values of all parameters."""
    hasher = xxhash.xxh3_128()
    for path, array in jax.tree_util.tree_leaves_with_path(params):
        hasher.update(path_name(path).encode())
        hasher.update(np.asarray(array).tobytes())
    return hasher.hexdigest()


def _like(config: Config) -> Any:
    params = jax.eval_shape(functools.partial(config.objective.init, jax.random.key(0)))
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=replicated_on_all_devices()), params)
