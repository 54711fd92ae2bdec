"""Equal ids and texts among stored documents."""

import numpy as np

from dense_jax.data.dedup import RowOfId


def test_the_row_of_an_id_is_found_whatever_the_order_of_ids():
    ids = [f"d{i}" for i in np.random.default_rng(0).permutation(1_000)]
    rows = RowOfId(iter(ids), len(ids))
    assert [rows.get(one) for one in ids] == list(range(1_000))


def test_an_id_that_is_not_there_has_no_row():
    rows = RowOfId(iter(["a", "b", "é"]), 3)
    assert [rows.get(one) for one in ("", "A", "ab", "e\u0301", "é")] == [None, None, None, None, 2]
    assert RowOfId(iter(()), 0).get("a") is None
