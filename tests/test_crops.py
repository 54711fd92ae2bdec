"""Contriever's crops and what is done to their tokens: distributions, not exact random draws."""

import json
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from dense_jax.data.masking import Noise, corrupt, crop
from tests.toys import VOCABULARY

GOLDEN = json.loads((Path(__file__).parent / "golden" / "contriever" / "augmentation_stats.json").read_text())


@pytest.mark.parametrize("shortest", [0.05, 0.1])
def test_crop_lengths_and_places_follow_the_exact_law(shortest):
    """floor(256 u) with u uniform from `shortest` to 0.5; every place is as likely."""
    known = GOLDEN[f"crop_{shortest}_0.5_n10000"]
    rng = np.random.default_rng(1)
    crops = [crop(np.arange(256), shortest, 0.5, rng) for _ in range(10_000)]
    lengths = np.array([len(tokens) for tokens in crops])
    first, last = known["support"]
    assert (lengths.min(), lengths.max()) == (first, last)
    law = np.array([known["p_min"], *[known["p_inner"]] * (last - first)])
    counts = np.bincount(lengths - first)
    assert stats.chisquare(counts, 10_000 * law).pvalue > 0.01  # of a fixed seed
    starts = np.array([tokens[0] for tokens in crops])
    assert starts.mean() == pytest.approx(known["exact_start_mean"], abs=2)  # a standard error is 0.6
    assert np.mean(starts == 0) == pytest.approx(known["exact_P_start0"], abs=0.002)  # three standard errors
    assert all((np.diff(tokens) == 1).all() for tokens in crops)


def test_a_crop_of_a_few_tokens_holds_one_at_least():
    rng = np.random.default_rng(0)
    assert {len(crop(np.arange(3), 0.05, 0.3, rng)) for _ in range(9)} == {1}


MANY = np.arange(5, 45).repeat(250)  # 10,000 tokens


def corrupted(noise, rate=0.1):
    return corrupt(MANY, noise, rate, VOCABULARY, np.random.default_rng(0))


def test_a_tenth_of_the_tokens_is_deleted_and_the_others_keep_their_order():
    left = corrupted(Noise.DELETE)
    assert len(left) == pytest.approx(9_000, abs=90)  # three standard errors
    assert (np.diff(left) >= 0).all()


def test_where_all_tokens_would_be_deleted_the_first_stays():
    assert corrupt(np.array([7, 8]), Noise.DELETE, 0.999999, VOCABULARY, np.random.default_rng(0)).tolist() == [7]


def test_a_tenth_of_the_tokens_is_masked_or_replaced_by_tokens_that_are_not_special():
    masked, replaced = corrupted(Noise.MASK), corrupted(Noise.REPLACE)
    assert np.mean(masked == VOCABULARY.mask) == pytest.approx(0.1, abs=0.009)  # three standard errors
    assert (masked == MANY)[masked != VOCABULARY.mask].all()
    assert np.mean(replaced != MANY) == pytest.approx(0.1 * 44 / 50, abs=0.009)  # 5 of 50 are special, 1 is the same
    assert not VOCABULARY.special[replaced].any()


def test_shuffling_loses_no_token():
    shuffled = corrupted(Noise.SHUFFLE)
    assert np.mean(shuffled != MANY) == pytest.approx(0.1, abs=0.012)  # some are replaced by an equal token
    assert np.array_equal(np.sort(shuffled), MANY)


def test_without_noise_the_tokens_are_as_they_were():
    assert corrupted(Noise.NONE) is MANY
