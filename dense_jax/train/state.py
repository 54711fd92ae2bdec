"""What training carries from step to step."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import optax

from dense_jax.arrays import Array, Carry, Int, Params
from dense_jax.contracts import Objective


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TrainState:
    step: Int[Array, ""]  # steps done
    params: Params
    optimizer: optax.OptState
    carry: Carry


def init_state(objective: Objective, optimizer: optax.GradientTransformation, seed: int) -> TrainState:
    """The state before the first step. Pure: runs under `jit`, which places it, and under `eval_shape`."""
    params, carry = objective.init(jax.random.key(seed))
    return TrainState(jnp.zeros((), jnp.int32), params, optimizer.init(params), carry)
