"""Model FLOPs of a training step, and the FLOP/s that devices can do: the two numbers behind MFU."""

import dataclasses
import math
import time
from typing import Any

import jax
import jax.numpy as jnp

from dense_jax.arrays import Batch, Carry, Params, np
from dense_jax.config.tree import is_node
from dense_jax.models.attention import Attention
from dense_jax.objective import Objective

_TERA = 1e12
# Settings that repeat work, or hide it from `matmul_flops` (fused attention) -> value for a program without that.
_AS_COUNTED = {"remat": False, "score_chunk": 0, "attention": Attention.XLA}

# Datasheet peaks of dense bfloat16 products in FLOP/s, by a part of the name that JAX or PyTorch gives the device.
# The first that fits counts, so "TPU v5 lite" stands before "TPU v5".
PEAKS = {
    "A100": 312 * _TERA,
    "H100": 989 * _TERA,
    "H200": 989 * _TERA,
    "TPU v4": 275 * _TERA,
    "TPU v5 lite": 197 * _TERA,
    "TPU v5e": 197 * _TERA,
    "TPU v5": 459 * _TERA,  # v5p
    "TPU v6 lite": 918 * _TERA,
    "TPU v6e": 918 * _TERA,
}
_SIDE, _TRIES = 1_024, 8  # of the product that a CPU is measured by: a fraction of a second


def peak_flops(device: str) -> float | None:
    """FLOP/s of a device by its name; None for CPUs and unknown devices.

    >>> peak_flops("NVIDIA H200") / 1e12, peak_flops("TPU v5 lite") / 1e12, peak_flops("cpu")
    (989.0, 197.0, None)
    """
    return next((flops for name, flops in PEAKS.items() if name in device), None)


def peak_of_run() -> float | None:
    """FLOP/s of all devices of all processes: datasheet peaks, of CPUs a measured product; None for unknown devices."""
    if jax.default_backend() == "cpu":  # simulated devices share the cores
        return jax.process_count() * _measured()
    peak = peak_flops(jax.devices()[0].device_kind)
    return None if peak is None else jax.device_count() * peak


def _measured() -> float:
    """FLOP/s of a float32 product of square matrices on this machine, the best of a few."""
    x = np.linspace(-1.0, 1.0, _SIDE * _SIDE, dtype=np.float32).reshape(_SIDE, _SIDE)
    seconds = []
    for _ in range(_TRIES):
        began = time.perf_counter()
        np.matmul(x, x)
        seconds.append(time.perf_counter() - began)
    return 2 * _SIDE**3 / min(seconds)


def model_flops(objective: Objective, params: Params, carry: Carry, batch: Batch) -> int:
    """FLOPs of the loss on `batch` and of its gradient, counted by one rule for all methods; shapes suffice.

    A multiply-add counts 2, only matrix products count, and recomputation does not, as in benchmarks/flops.py. The
    compiler's own count takes the body of a loop for one run.
    """
    once = _as_counted(objective)

    def loss(params: Params, carry: Carry, batch: Batch) -> Any:
        return once.loss(params, carry, batch, rng=jax.random.key(0), step=jnp.zeros((), jnp.int32))

    return matmul_flops(jax.make_jaxpr(jax.grad(loss, has_aux=True))(params, carry, batch).jaxpr)


def matmul_flops(jaxpr: Any) -> int:
    """FLOPs of all matrix products in `jaxpr`; a product in a loop counts as often as the loop runs.

    >>> import jax.numpy as jnp
    >>> a, b = jnp.zeros((2, 3)), jnp.zeros((3, 5))
    >>> matmul_flops(jax.make_jaxpr(jnp.dot)(a, b).jaxpr)  # 2 x 2 x 3 x 5
    60
    """
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            contracted = equation.params["dimension_numbers"][0][0]
            depth = math.prod(equation.invars[0].aval.shape[axis] for axis in contracted)
            total += 2 * depth * math.prod(equation.outvars[0].aval.shape)
        inner = [matmul_flops(one) for value in equation.params.values() for one in _jaxprs(value)]
        runs = equation.params["length"] if equation.primitive.name == "scan" else 1
        total += runs * (max(inner, default=0) if equation.primitive.name == "cond" else sum(inner))
    return total


def _jaxprs(value: Any) -> list[Any]:
    values = value if isinstance(value, (tuple, list)) else [value]
    closed = [getattr(one, "jaxpr", one) for one in values]
    return [one for one in closed if hasattr(one, "eqns")]


def _as_counted(node: Any) -> Any:
    """Return `node` with the settings of `_AS_COUNTED` in its whole tree."""
    changes: dict[str, Any] = {}
    for setting in dataclasses.fields(node):
        value = getattr(node, setting.name)
        if is_node(value):
            changes[setting.name] = _as_counted(value)
        elif setting.name in _AS_COUNTED:
            changes[setting.name] = _AS_COUNTED[setting.name]
    return dataclasses.replace(node, **changes)
