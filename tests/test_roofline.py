"""The arithmetic of peaks."""

import pytest

from dense_jax.errors import ConfigError
from dense_jax.planning.roofline import CHIPS, find_chip, largest_busy_slice, predict_doublings, roofline


def test_a_step_takes_as_long_as_the_slowest_of_its_parts():
    times = roofline(CHIPS["v5e"], flops=197e12 * 0.002, traffic=819e9 * 0.005, sent=200e9 * 0.001)
    assert times == pytest.approx((0.002, 0.005, 0.001))
    assert (times.seconds, times.bound) == (pytest.approx(0.005), "memory")


def test_an_unknown_chip_is_refused_with_those_there_are():
    with pytest.raises(ConfigError, match=r"topology=v9:2x2: chip 'v9' is unknown; use v4, v5e, v5p, v6e"):
        find_chip("v9:2x2")


@pytest.mark.parametrize(
    ("chip", "tokens", "batch", "slice_and_chips"),
    [
        ("v5e", 64 * 2_000, 1_024, ("v5e:8x8", 64)),
        ("v5e", 64 * 2_000 - 1, 1_024, ("v5e:4x8", 32)),
        ("v5e", 10**9, 24, ("v5e:2x4", 8)),  # 16 do not divide the batch
        ("v5p", 64 * 2_000, 1_024, ("v5p:4x4x4", 64)),
        ("v4", 1_999, 1, None),
    ],
)
def test_the_largest_slice_that_a_batch_keeps_busy_has_two_thousand_tokens_a_chip(chip, tokens, batch, slice_and_chips):
    assert largest_busy_slice(chip, tokens, batch) == slice_and_chips


@pytest.mark.parametrize(("room", "doublings"), [(2.0, 0), (4.0, 0), (5.0, 1), (9.0, 2), (1e9, 5)])
def test_memory_is_taken_to_grow_in_a_straight_line(room, doublings):
    # 50 examples take 2, 100 take 3; so 200 take 5, 400 take 9
    assert predict_doublings((50, 2), (100, 3), room) == doublings


def test_memory_that_does_not_grow_sets_no_limit():
    assert predict_doublings((50, 3), (100, 3), 4.0) == 5
