"""First numbers of texts, against a dict."""

import random

from dense_jax.data import first_values
from dense_jax.data.first_values import FirstValues


def test_the_first_number_of_every_text_is_that_of_a_dict(monkeypatch):
    monkeypatch.setattr(first_values, "_RECENT", 16)
    ours, theirs, rng = FirstValues(), {}, random.Random(0)
    for row in range(5_000):
        identifier = f"d{rng.randrange(2_000)}"
        assert ours.get(identifier) == theirs.get(identifier)
        assert ours.setdefault(identifier, row) == theirs.setdefault(identifier, row)
    assert len(ours._values) + len(ours._recent) == len(theirs)


def test_a_number_of_64_bits_comes_back(monkeypatch):
    monkeypatch.setattr(first_values, "_RECENT", 1)
    ours = FirstValues()
    ours.setdefault("a", 2**64 - 1)
    assert ours.get("a") == 2**64 - 1


def test_a_text_takes_sixteen_bytes_once_it_is_sorted_in(monkeypatch):
    monkeypatch.setattr(first_values, "_RECENT", 1_000)
    ours = FirstValues()
    for row in range(8_000):
        ours.setdefault(str(row), row)
    assert ours._digests.nbytes + ours._values.nbytes <= 16 * 8_000 and len(ours._recent) < 1_200
