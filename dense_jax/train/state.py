"""What training carries from step to step."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dense_jax.arrays import Carry, Params
from dense_jax.contracts import Objective


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    """A tree of arrays; of their shapes or shardings too, where those are asked for."""

    step: Any  # int32 scalar: steps done
    params: Params
    optimizer: optax.OptState
    carry: Carry


def init_state(objective: Objective, optimizer: optax.GradientTransformation, seed: int) -> TrainState:
    """The state before the first step. Pure: runs under `jit`, which places it, and under `eval_shape`."""
    params, carry = objective.init(jax.random.key(seed))
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), carry)
