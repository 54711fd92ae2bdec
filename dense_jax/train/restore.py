"""Trained towers, and a reader, out of a workdir."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax

from dense_jax.agreement import of_first, whole
from dense_jax.config import Config
from dense_jax.contracts import PASSAGE, Reader, Towers
from dense_jax.mesh import everywhere
from dense_jax.train.checkpoint import Checkpoints
from dense_jax.train.history import selected
from dense_jax.train.same_run import NO_DATA, Data, check_same_parameters


@dataclass(frozen=True)
class Trained:
    """The towers of a checkpoint, and its reader if the objective has one."""

    towers: Towers
    reader: Reader | None
    step: int
    fingerprint: str  # of the checkpoint: another run's differs, even at the same step
    passage_step: int  # of the checkpoint that passages are encoded by: 0 where training leaves their tower as it is
    passage_fingerprint: str


def load_trained(config: Config, workdir: Path, step: int, data: Data = NO_DATA) -> Trained:
    """The towers of checkpoint `step` (-1: the one that probe.select says), their parameters on every device.

    Where those are of several processes, each gets all of them, as numpy arrays. `data` is what they are used with.

    Raises:
        ConfigError: the workdir was trained with other settings.
        StorageError: there is no such checkpoint, or it is damaged.
    """
    check_same_parameters(config, workdir, data)
    checkpoints = Checkpoints(workdir / "checkpoints", config.checkpoint, read_only=True)
    if step == -1:
        step = selected(workdir, config.probe.select, config.probe.measure, checkpoints.steps())
    step = of_first(lambda: checkpoints.existing(step))
    params = whole(checkpoints.restore_params(step, _like(config)))
    # A tower that training leaves as it is can be had of any checkpoint; the first one may have been damaged.
    passage_step = 0 if PASSAGE in config.objective.frozen and of_first(lambda: 0 in checkpoints.steps()) else step
    return Trained(
        config.objective.towers(params),
        config.objective.reader(params),
        step,
        checkpoints.fingerprint(step),
        passage_step,
        checkpoints.fingerprint(passage_step),
    )


def _like(config: Config) -> Any:
    params = jax.eval_shape(functools.partial(config.objective.init, jax.random.key(0)))
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=everywhere()), params)
