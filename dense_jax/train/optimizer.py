"""AdamW with the schedules and the decay rules of BERT-style training."""

import re
from collections.abc import Collection
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.typing import ArrayLike

from dense_jax.arrays import Array, Params
from dense_jax.config.training import OptimizerConfig, Schedule
from dense_jax.errors import ConfigError

# Weight decay applies to a parameter as the first pattern that matches its path decides.
DECAY_RULES = (
    (r"(^|/)(bias|scale)$", False),  # biases and LayerNorm
    (r"(^|/)(kernel|embedding)$", True),
)


def make_optimizer(config: OptimizerConfig, steps: int, frozen: Collection[str] = ()) -> optax.GradientTransformation:
    """AdamW: clipping by the global norm, Adam, decoupled weight decay, scheduled learning rate.

    The gradient is averaged over all devices before it is clipped. Top-level parts named in `frozen` stay constant,
    without moments and decay. Loshchilov and Hutter 2019; without bias correction it is the optimizer of BERT's
    released code (Devlin et al. 2019).
    """
    adam = optax.scale_by_adam if config.bias_correction else scale_by_uncorrected_adam
    trained = optax.chain(
        optax.clip_by_global_norm(config.clip) if config.clip else optax.identity(),
        adam(b1=config.beta1, b2=config.beta2, eps=config.epsilon),
        optax.add_decayed_weights(config.weight_decay, mask=None if config.decay_all else decay_mask),
        optax.scale_by_learning_rate(make_schedule(config, steps)),
    )
    if not frozen:
        return trained
    return optax.partition(
        {"trained": trained, "frozen": optax.set_to_zero()},
        lambda params: {part: "frozen" if part in frozen else "trained" for part in params},
    )


def make_schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """Learning rate at step s, counted from 0: peak * s / warmup during warmup, then `config.schedule`.

    >>> config = OptimizerConfig(learning_rate=1.0, warmup=5)
    >>> [round(float(make_schedule(config, 20)(s)), 3) for s in (0, 4, 5, 20)]
    [0.0, 0.8, 1.0, 0.0]
    """
    warmup = config.warmup or round(config.warmup_share * steps)
    left = max(steps - warmup, 1)

    def rate(step: ArrayLike) -> Array:
        step = jnp.asarray(step)
        done = jnp.clip((step - warmup) / left, 0.0, 1.0)
        after = {
            Schedule.LINEAR: 1 - done,
            Schedule.BERT: 1 - jnp.clip(step / max(steps, 1), 0.0, 1.0),
            Schedule.COSINE: 0.5 * (1 + jnp.cos(jnp.pi * done)),
            Schedule.CONSTANT: jnp.ones_like(done),
        }[config.schedule]
        return config.learning_rate * jnp.where(step < warmup, step / max(warmup, 1), after)

    return rate


def decay_mask(params: Params) -> Params:
    """Return True for each parameter with weight decay.

    Raises:
        ConfigError: no rule of DECAY_RULES matches a parameter; lists all such parameters.
    """
    return match_rules(params, DECAY_RULES, "weight decay (train/optimizer.py: DECAY_RULES)")


def match_rules(tree: Any, rules: tuple[tuple[str, Any], ...], what: str) -> Any:
    """Return, for each leaf, the value of the first rule whose pattern matches its path (`encoder/bert/.../kernel`).

    Raises:
        ConfigError: no rule matches a leaf; lists all such leaves.
    """
    unmatched: list[str] = []

    def value(path, _):
        name = path_name(path)
        for pattern, result in rules:
            if re.search(pattern, name):
                return result
        unmatched.append(name)
        return None

    result = jax.tree_util.tree_map_with_path(value, tree)
    if unmatched:
        raise ConfigError(f"no rule for {what} matches {', '.join(unmatched)}; add one")
    return result


def path_name(path: tuple) -> str:
    """Format a tree path as `a/b/c`."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


class UncorrectedAdamState(NamedTuple):
    mu: optax.Updates
    nu: optax.Updates


def scale_by_uncorrected_adam(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    """Adam's direction mu / (sqrt(nu) + eps), without bias correction of moments that start at 0."""

    def init(params: optax.Params) -> UncorrectedAdamState:
        return UncorrectedAdamState(optax.tree.zeros_like(params), optax.tree.zeros_like(params))

    def update(updates: optax.Updates, state: Any, params: optax.Params | None = None) -> tuple[optax.Updates, Any]:
        del params
        mu = optax.tree.update_moment(updates, state.mu, b1, 1)
        nu = optax.tree.update_moment_per_elem_norm(updates, state.nu, b2, 2)
        direction = jax.tree.map(lambda m, n: m / (jnp.sqrt(n) + eps), mu, nu)
        return direction, UncorrectedAdamState(mu, nu)

    return optax.GradientTransformation(init, update)
