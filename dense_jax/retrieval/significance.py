"""Intervals and p-values of the difference between two retrievers, over the queries of one set."""

import numpy as np

from dense_jax.arrays import Float

EXCHANGES, RESAMPLES = 9_999, 10_000  # random draws of the test and of the interval
SEED = 0  # of both
_BATCH = 1_000  # draws held in memory at a time


def randomisation_test(a: Float[np.ndarray, " q"], b: Float[np.ndarray, " q"]) -> float:
    """Two-sided p-value of the mean difference of paired values, under random exchanges within the pairs.

    Smucker, Allan and Carterette 2007, "A Comparison of Statistical Significance Tests for Information Retrieval".
    """
    if np.array_equal(a, b) or len(a) == 1:
        return 1.0
    from scipy import stats  # here: it takes half a second

    found = stats.permutation_test(
        (a - b,),
        lambda x, axis: np.mean(x, axis=axis),
        permutation_type="samples",
        n_resamples=EXCHANGES,
        batch=_BATCH,
        rng=np.random.default_rng(SEED),
    )
    return float(found.pvalue)


def bootstrap_interval(a: Float[np.ndarray, " q"], b: Float[np.ndarray, " q"]) -> tuple[float, float] | None:
    """95 % interval of the mean of a - b: percentiles over resamples of the queries; None for a single query.

    Efron and Tibshirani 1993, "An Introduction to the Bootstrap", section 13.3.
    """
    if len(a) == 1:
        return None
    from scipy import stats

    found = stats.bootstrap(
        (a - b,),
        np.mean,
        n_resamples=RESAMPLES,
        confidence_level=0.95,
        method="percentile",
        batch=_BATCH,
        rng=np.random.default_rng(SEED),
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)
