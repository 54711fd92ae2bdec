"""Signs of collapse: each collapse shows in one number at least, and no number shows them all."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dense_jax.losses.collapse import alignment, collapse_metrics, mean_cosine, rank_me, uniformity

RNG = np.random.default_rng(0)
CLOUD = jnp.asarray(RNG.normal(size=(128, 32)))
POINT = jnp.asarray(np.ones((128, 32)) + 1e-3 * RNG.normal(size=(128, 32)))  # one point, but for a little noise
SPACE = jnp.asarray(RNG.normal(size=(128, 3)) @ RNG.normal(size=(3, 32)))  # all in three dimensions


def test_a_cloud_has_no_mean_direction_and_uses_nearly_all_dimensions():
    assert mean_cosine(CLOUD) == pytest.approx(0, abs=0.01)
    assert rank_me(CLOUD) > 28  # of 32
    assert uniformity(CLOUD) == pytest.approx(-4, abs=0.3)  # exp(-2 * 2) for right angles, and a little more for others


def test_vectors_that_differ_by_noise_alone_show_in_rank_mean_cosine_and_uniformity():
    assert mean_cosine(POINT) == pytest.approx(1, abs=1e-5)
    assert rank_me(POINT) == pytest.approx(1.05, abs=0.05)
    assert uniformity(POINT) == pytest.approx(0, abs=1e-4)


def test_vectors_in_a_space_of_three_dimensions_show_in_the_rank_alone():
    assert mean_cosine(SPACE) == pytest.approx(0, abs=0.05)
    assert rank_me(SPACE) == pytest.approx(3, abs=0.2)


def test_alignment_is_0_for_the_same_directions_and_4_for_opposite_ones():
    assert alignment(CLOUD, 3 * CLOUD) == pytest.approx(0, abs=1e-5)
    assert alignment(CLOUD, -CLOUD) == pytest.approx(4, rel=1e-5)


def test_all_signs_of_two_pairs_by_hand():
    queries, passages = jnp.array([[2.0, 0.0], [0.0, 1.0]]), jnp.array([[1.0, 0.0], [0.0, 3.0]])
    signs = collapse_metrics(queries, passages)
    assert {name: pytest.approx(float(value), abs=1e-5) for name, value in signs.items()} == {
        "alignment": 0,
        "uniformity": -4,  # right angles on both sides
        "mean_cosine": 0,
        "rank_me": np.exp(-(0.25 * np.log(0.25) + 0.75 * np.log(0.75))),  # singular values 1 and 3
        "query_norm": 1.5,
        "passage_norm": 2,
        "score_min": 0,
        "score_max": 3,
    }


def test_a_row_of_zeros_gives_finite_numbers():
    signs = collapse_metrics(jnp.zeros((4, 3)), jnp.zeros((4, 3)))
    assert all(np.isfinite(value) for value in jax.tree.leaves(signs))
