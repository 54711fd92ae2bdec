"""The model FLOPs of a training step, counted in what is differentiated: the same rule for every method.

As benchmarks/flops.py writes them out for two: a multiply-add counts 2, only products of matrices count, nothing that
is computed twice. The compiler's own count takes the body of a loop for one run of it.
"""

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp

from dense_jax.arrays import Batch, Carry, Params
from dense_jax.config.tree import is_node
from dense_jax.objective import Objective

_TWICE = {"remat": False, "score_chunk": 0}  # settings that trade memory for work done again -> the value without


def model_flops(objective: Objective, params: Params, carry: Carry, batch: Batch) -> int:
    """FLOPs of the loss on `batch` and of its gradient; all may be shapes alone."""
    once = _computed_once(objective)

    def loss(params: Params, carry: Carry, batch: Batch) -> Any:
        return once.loss(params, carry, batch, rng=jax.random.key(0), step=jnp.zeros((), jnp.int32))

    return product_flops(jax.make_jaxpr(jax.grad(loss, has_aux=True))(params, carry, batch).jaxpr)


def product_flops(jaxpr: Any) -> int:
    """FLOPs of all products of matrices in `jaxpr`; those in a loop as often as it runs.

    >>> import jax.numpy as jnp
    >>> a, b = jnp.zeros((2, 3)), jnp.zeros((3, 5))
    >>> product_flops(jax.make_jaxpr(jnp.dot)(a, b).jaxpr)  # 2 x 2 x 3 x 5
    60
    """
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            contracted = equation.params["dimension_numbers"][0][0]
            depth = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
            total += 2 * depth * math.prod(equation.outvars[0].aval.shape)
        inner = [product_flops(one) for value in equation.params.values() for one in _jaxprs(value)]
        runs = equation.params["length"] if equation.primitive.name == "scan" else 1
        total += runs * (max(inner, default=0) if equation.primitive.name == "cond" else sum(inner))
    return total


def _jaxprs(value: Any) -> list[Any]:
    values = value if isinstance(value, (tuple, list)) else [value]
    closed = [getattr(one, "jaxpr", one) for one in values]
    return [one for one in closed if hasattr(one, "eqns")]


def _computed_once(node: Any) -> Any:
    """`node` with every setting of `_TWICE` in its tree at the value without."""
    changes: dict[str, Any] = {}
    for setting in dataclasses.fields(node):
        value = getattr(node, setting.name)
        if is_node(value):
            changes[setting.name] = _computed_once(value)
        elif setting.name in _TWICE:
            changes[setting.name] = _TWICE[setting.name]
    return dataclasses.replace(node, **changes)
