"""What training carries from step to step."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dense_jax.arrays import Carry, Params
from dense_jax.objective import Objective

_CARRY = 1  # the key of the carry's own noise


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """A tree of arrays; of their shapes or shardings too, where those are asked for."""

    step: Any  # int32 scalar: steps done
    params: Params
    optimizer: optax.OptState
    carry: Carry


def first_state(
    params: Params, objective: Objective, optimizer: optax.GradientTransformation, *, batch: int, seed: int
) -> TrainState:
    """The state before the first step of a run that starts from `params`. Pure: runs under `jit` and `eval_shape`."""
    rng = jax.random.fold_in(jax.random.key(seed), _CARRY)
    carry = objective.init_carry(params, batch, rng)
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), carry)
