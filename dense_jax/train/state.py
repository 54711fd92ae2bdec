"""State of training: step, parameters, optimizer state, and the objective's carry."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dense_jax.arrays import Carry, Params
from dense_jax.objective import Objective

_CARRY = 1  # folded into the seed for the carry's noise


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """Tree of arrays, or of their shapes or shardings."""

    step: Any  # int32 scalar: steps finished
    params: Params
    optimizer: optax.OptState
    carry: Carry


def first_state(
    params: Params, objective: Objective, optimizer: optax.GradientTransformation, *, batch: int, seed: int
) -> TrainState:
    """Return the state at step 0 with parameters `params`. Pure: runs under `jit` and `eval_shape`."""
    rng = jax.random.fold_in(jax.random.key(seed), _CARRY)
    carry = objective.init_carry(params, batch, rng)
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), carry)
