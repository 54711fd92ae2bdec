"""Schedules, decay rules and BERT's Adam against numbers worked out by hand and the released schedules' points."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dense_jax.config import OptimizerConfig, Schedule
from dense_jax.errors import ConfigError
from dense_jax.train.optimizer import decay_mask, make_optimizer, make_schedule, path_name

GOLDEN = json.loads((Path(__file__).parent / "golden" / "contriever" / "lr_schedule.json").read_text())


@pytest.mark.parametrize("name", ["published", "small"])
def test_linear_schedule_equals_the_reference(name):
    case = GOLDEN[name]
    config = OptimizerConfig(learning_rate=case["base"], warmup=case["warmup"])
    rates = {step: float(make_schedule(config, case["total"])(int(step))) for step in case["lr"]}
    assert rates == pytest.approx(case["lr"], rel=1e-5, abs=1e-7 * case["base"])  # float32


def test_bert_schedule_warms_up_and_then_falls_as_if_it_had_never_warmed_up():
    rate = make_schedule(OptimizerConfig(learning_rate=1.0, warmup=10, schedule=Schedule.BERT), 100)
    assert [round(float(rate(s)), 6) for s in (0, 5, 9, 10, 50, 100)] == [0.0, 0.5, 0.9, 0.9, 0.5, 0.0]


def test_cosine_schedule_is_half_way_down_in_the_middle():
    rate = make_schedule(OptimizerConfig(learning_rate=2.0, warmup=10, schedule=Schedule.COSINE), 110)
    assert [round(float(rate(s)), 6) for s in (5, 10, 60, 110)] == [1.0, 2.0, 1.0, 0.0]


def test_a_warmup_may_be_a_share_of_the_steps():
    in_steps = make_schedule(OptimizerConfig(learning_rate=1.0, warmup=30), 300)
    as_share = make_schedule(OptimizerConfig(learning_rate=1.0, warmup_share=0.1), 300)
    assert [float(as_share(s)) for s in (0, 15, 30, 165, 300)] == [float(in_steps(s)) for s in (0, 15, 30, 165, 300)]
    assert float(as_share(15)) == 0.5


def test_constant_schedule_stays_at_its_peak():
    rate = make_schedule(OptimizerConfig(learning_rate=2.0, schedule=Schedule.CONSTANT), 10)
    assert [float(rate(s)) for s in (0, 9)] == [2.0, 2.0]


def update(config: OptimizerConfig, params, gradients, steps=1):
    optimizer = make_optimizer(config, steps=10)
    state = optimizer.init(params)
    for _ in range(steps):
        updates, state = optimizer.update(gradients, state, params)
    return updates


def plain(**settings) -> OptimizerConfig:
    return OptimizerConfig(**({"learning_rate": 1.0, "schedule": Schedule.CONSTANT, "clip": 0.0} | settings))


def test_weight_decay_reaches_kernels_and_embeddings_but_not_biases_and_scales():
    params = {"norm": {"scale": jnp.ones(1)}, "dense": {"kernel": jnp.ones((1, 1)), "bias": jnp.ones(1)}}
    still = {"norm": {"scale": jnp.zeros(1)}, "dense": {"kernel": jnp.zeros((1, 1)), "bias": jnp.zeros(1)}}
    updates = update(plain(weight_decay=0.5), params, still)
    assert float(updates["dense"]["kernel"][0, 0]) == -0.5
    assert float(updates["dense"]["bias"][0]) == 0
    assert float(updates["norm"]["scale"][0]) == 0


def test_what_is_frozen_stays_has_no_moments_and_is_clipped_with_nobody():
    params = {part: {"kernel": jnp.ones((1, 1))} for part in ("query", "passage")}
    gradients = {"query": {"kernel": jnp.full((1, 1), 3.0)}, "passage": {"kernel": jnp.full((1, 1), 4.0)}}
    optimizer = make_optimizer(plain(weight_decay=0.5, clip=1.0, epsilon=1.0), steps=10, frozen=("passage",))
    state = optimizer.init(params)
    updates, _ = optimizer.update(gradients, state, params)
    assert float(updates["passage"]["kernel"][0, 0]) == 0
    # the gradient of 3 is cut to 1, not to 3 / 5; then 1 / (1 + 1), and the decay
    assert float(updates["query"]["kernel"][0, 0]) == pytest.approx(-0.5 - 0.5, rel=1e-5)
    moments = [path for path, _ in jax.tree_util.tree_leaves_with_path(state) if "kernel" in path_name(path)]
    assert len(moments) == 2 and all("query" in path_name(path) for path in moments)


def test_a_parameter_that_no_decay_rule_matches_is_refused_by_name():
    with pytest.raises(ConfigError, match=r"no rule for weight decay .* matches head/gate, head/offset; add one"):
        decay_mask({"head": {"gate": jnp.ones(1), "offset": jnp.ones(1), "bias": jnp.ones(1)}})


def test_the_gradient_is_clipped_by_its_global_norm():
    """Uncorrected first moment after one step: 0.1 * gradient; (3, 4) of norm 5 is cut to (0.6, 0.8)."""
    config = plain(clip=1.0, bias_correction=False, beta1=0.9, beta2=0.0, epsilon=0.0, weight_decay=0.0)
    updates = update(config, {"kernel": jnp.zeros(2)}, {"kernel": jnp.array([3.0, 4.0])})
    np.testing.assert_allclose(updates["kernel"], [-0.1, -0.1], rtol=1e-6)  # m / sqrt(v) = 0.1 g / |g|
    config.epsilon = 1.0
    updates = update(config, {"kernel": jnp.zeros(2)}, {"kernel": jnp.array([3.0, 4.0])})
    np.testing.assert_allclose(updates["kernel"], [-0.06 / 1.6, -0.08 / 1.8], rtol=1e-6)


def test_uncorrected_adam_starts_with_small_steps_and_corrected_adam_does_not():
    gradients, params = {"kernel": jnp.array([2.0])}, {"kernel": jnp.zeros(1)}
    config = plain(epsilon=0.0, weight_decay=0.0)
    assert float(update(config, params, gradients)["kernel"][0]) == pytest.approx(-1.0, rel=1e-5)
    config.bias_correction = False
    # m = 0.1 * 2, v = 0.001 * 4
    assert float(update(config, params, gradients)["kernel"][0]) == pytest.approx(-0.2 / np.sqrt(0.004), rel=1e-5)
