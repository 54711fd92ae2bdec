"""Training step: loss, gradient, optimizer update and metrics."""

import functools
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import optax

from dense_jax.arrays import Array, Batch, Float, Int, Metrics, PRNGKeyArray
from dense_jax.config import GradientDtype
from dense_jax.objective import Objective
from dense_jax.train.gradient_cache import loss_in_chunks
from dense_jax.train.sharding import cast_layer_kernels
from dense_jax.train.state import TrainState
from dense_jax.types import PackedTokens, Tokens


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    objective: Objective,
    optimizer: optax.GradientTransformation,
    seed: int,
    chunks: int,
    skip_nonfinite: bool,
    sharding: Any,
    gradient_dtype: GradientDtype,
) -> tuple[TrainState, Metrics]:
    """Return the state after `batch`, and the metrics. Pure; its randomness is a function of (seed, step).

    With `chunks` > 1, the batch is encoded in that many chunks (train/gradient_cache.py). With `skip_nonfinite`, a step
    whose loss or gradient is not finite changes nothing but the step count. `sharding` is that of the parameters: their
    gradients are scattered to it before the update, so that each chip updates its share. Those of the layers' kernels
    are sent as `gradient_dtype`.
    """
    loss_function = functools.partial(loss_in_chunks, objective, chunks=chunks) if chunks > 1 else objective.loss
    rng = step_rng(seed, state.step)

    def loss_of(params):
        return loss_function(params, state.carry, batch, rng=rng, step=state.step)

    sent = cast_layer_kernels(state.params, gradient_dtype.value)
    (loss, (metrics, carry)), gradients = jax.value_and_grad(loss_of, has_aux=True)(sent)
    gradients = jax.lax.with_sharding_constraint(gradients, sharding)
    gradients = jax.tree.map(lambda x, like: x.astype(like.dtype), gradients, state.params)
    updates, optimizer_state = optimizer.update(gradients, state.optimizer, state.params)
    params: Any = optax.apply_updates(state.params, updates)
    metrics = {
        "loss": loss,
        "gradient_norm": optax.tree.norm(gradients),
        "tokens": count_real_tokens(batch),
        **count_cut_tokens(batch),
        **metrics,
    }
    after = TrainState(state.step + 1, params, optimizer_state, carry)
    if skip_nonfinite:
        is_finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(metrics["gradient_norm"])
        before = replace(state, step=after.step)
        after = jax.tree.map(lambda new, old: jnp.where(is_finite, new, old), after, before)
    return after, metrics


def step_rng(seed: int, step: int | Int[Array, ""]) -> PRNGKeyArray:
    """Key for the noise of the step after `step`."""
    return jax.random.fold_in(jax.random.key(seed), step)


def count_real_tokens(batch: Batch) -> Float[Array, ""]:
    """Count the tokens of a batch that are not padding."""
    sequences = [x for x in jax.tree.leaves(batch, is_leaf=_is_tokens) if _is_tokens(x)]
    return sum((jnp.sum(x.mask, dtype=jnp.float32) for x in sequences), start=jnp.zeros(()))


def count_cut_tokens(batch: Batch) -> Metrics:
    """Count, as the metric "cut", the tokens that did not fit into the rows of packed texts; {} without such texts."""
    texts = [x for x in jax.tree.leaves(batch, is_leaf=_is_packed) if _is_packed(x)]
    return {"cut": jnp.sum(jnp.concatenate([x.cut for x in texts]), dtype=jnp.float32)} if texts else {}


def _is_packed(node: object) -> bool:
    return isinstance(node, PackedTokens)


def _is_tokens(node: object) -> bool:
    return isinstance(node, Tokens)
