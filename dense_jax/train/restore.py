"""Trained towers out of a workdir."""

import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from dense_jax.config import Config
from dense_jax.contracts import Towers
from dense_jax.train.checkpoint import Checkpoints
from dense_jax.train.history import selected
from dense_jax.train.same_run import check_same_run
from dense_jax.train.sharding import state_sharding


@dataclass(frozen=True)
class Trained:
    """The towers of a checkpoint."""

    towers: Towers
    step: int
    fingerprint: str  # of the checkpoint: another run's differs, even at the same step


def load_trained(config: Config, workdir: Path, step: int, mesh: Mesh) -> Trained:
    """The towers of checkpoint `step` (-1: the one that probe.select says), their parameters on `mesh`.

    Raises:
        ConfigError: the workdir was trained with other settings.
        StorageError: there is no such checkpoint, or it is damaged.
    """
    check_same_run(config, workdir)
    checkpoints = Checkpoints(workdir / "checkpoints", config.checkpoint, read_only=True)
    if step == -1:
        step = selected(workdir, config.probe.select, config.probe.measure, checkpoints.steps())
    step = checkpoints.existing(step)
    towers = config.objective.towers(checkpoints.restore_params(step, _like(config, mesh)))
    return Trained(towers, step, checkpoints.fingerprint(step))


def _like(config: Config, mesh: Mesh) -> Any:
    params = jax.eval_shape(functools.partial(config.objective.init, jax.random.key(0)))
    return jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), params, state_sharding(params, mesh)
    )
