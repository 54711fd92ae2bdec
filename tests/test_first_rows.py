"""First rows of ids, against a dict."""

import random

from dense_jax.data.sources import first_rows
from dense_jax.data.sources.first_rows import FirstRows


def test_the_first_row_of_every_id_is_that_of_a_dict(monkeypatch):
    monkeypatch.setattr(first_rows, "_RECENT", 16)
    ours, theirs, rng = FirstRows(), {}, random.Random(0)
    for row in range(5_000):
        identifier = f"d{rng.randrange(2_000)}"
        assert ours.setdefault(identifier, row) == theirs.setdefault(identifier, row)
    assert len(ours._rows) + len(ours._recent) == len(theirs)


def test_an_id_takes_sixteen_bytes_once_it_is_sorted_in(monkeypatch):
    monkeypatch.setattr(first_rows, "_RECENT", 1_000)
    ours = FirstRows()
    for row in range(8_000):
        ours.setdefault(str(row), row)
    assert ours._digests.nbytes + ours._rows.nbytes <= 16 * 8_000 and len(ours._recent) < 1_200
