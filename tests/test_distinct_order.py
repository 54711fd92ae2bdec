"""Batches without a text that comes twice."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dense_jax.config import LoaderConfig, Order
from dense_jax.data.sampler import Sampler, permuted
from dense_jax.errors import ConfigError, DataError
from dense_jax.types import SourceRows

DISTINCT = LoaderConfig(order=Order.DISTINCT)


def visits(texts: list[tuple[int, ...]], batch: int, seed: int = 0) -> Sampler:
    """Queries of which the i-th is made of `texts[i]`, whatever the epoch."""
    part = SourceRows("train.jsonl", range(len(texts)), 1_000)
    return Sampler([part], DISTINCT, seed, batch, lambda rows, epoch: [texts[row] for row in rows])


@settings(max_examples=50, deadline=None)
@given(
    texts=st.lists(st.lists(st.integers(0, 30), min_size=1, max_size=3, unique=True).map(tuple), min_size=9),
    batch=st.integers(1, 4),
    seed=st.integers(0, 5),
)
def test_no_batch_holds_a_text_twice(texts, batch, seed):
    order = visits(texts, batch, seed)
    try:
        rows = [order[i] for i in range(6 * batch)]
    except DataError:
        assert batch > 1  # one query is always a batch
        return
    for start in range(0, len(rows), batch):
        held = [text for row in rows[start : start + batch] for text in texts[row]]
        assert len(held) == len(set(held))


PAIRED = [(i // 2,) for i in range(40)]  # every text belongs to two queries


def test_an_epoch_visits_each_query_once_but_for_rows_that_fill_the_places_of_repeated_texts():
    order = visits(PAIRED, batch=8)
    rows = [order[i] for i in range(40)]
    assert [order.epoch(i) for i in (0, 39, 40)] == [0, 0, 1]
    assert len(set(rows)) >= 32
    different = visits([(i,) for i in range(40)], batch=8)
    assert sorted(different[i] for i in range(40)) == list(range(40))


def test_all_queries_come_as_often_in_the_long_run():
    order = visits(PAIRED, batch=8)
    visited = np.bincount([order[i] for i in range(40 * 100)])
    assert len(visited) == 40
    assert 60 < visited.min() <= visited.max() < 140


def test_a_batch_reads_the_texts_of_its_own_rows_only():
    """Else each epoch of a hundred million pairs would begin with reading all of them."""
    read = []

    def texts(rows, epoch):
        read.extend(rows)
        return [(row // 2,) for row in rows]

    part = SourceRows("train.jsonl", range(100_000_000), 1_000)
    order = Sampler([part], DISTINCT, 0, 16, texts)
    last = 7 * 100_000_000 + 5
    assert order.epoch(last) == 7
    assert 0 <= order[last] < 100_000_000
    assert len(read) <= 2 * 16


def test_an_order_keeps_a_few_batches():
    order = visits([(i,) for i in range(400)], batch=4)
    rows = [order[i] for i in range(400)]
    assert len(order._orders[0]._arranged) <= 8
    assert order[0] == rows[0]


def test_every_place_of_a_permutation_has_a_number_of_its_own():
    for count in (1, 2, 3, 7, 16, 1_000):
        for seed in range(3):
            assert sorted(permuted(np.arange(count), count, (0, seed)).tolist()) == list(range(count))


def test_a_permutation_can_be_asked_for_any_places():
    assert (
        permuted(np.array([5, 700]), 1_000, (3, 4)).tolist()
        == permuted(np.arange(1_000), 1_000, (3, 4))[[5, 700]].tolist()
    )


def test_every_epoch_has_an_order_of_its_own_and_any_place_can_be_asked_for_first():
    order = visits(PAIRED, batch=8)
    rows = [order[i] for i in range(100)]
    epochs = [order.epoch(i) for i in range(100)]
    assert epochs == sorted(epochs)
    assert epochs[-1] >= 2
    length = epochs.count(0)
    assert rows[:length] != rows[length : 2 * length]
    assert visits(PAIRED, batch=8)[77] == rows[77]
    assert [order[i] for i in reversed(range(100))][::-1] == rows


def test_what_is_taken_of_a_query_may_change_with_the_epoch():
    part = SourceRows("train.jsonl", range(4), 100)
    order = Sampler([part], DISTINCT, 0, 4, lambda rows, epoch: [(row >> (epoch > 0),) for row in rows])
    assert sorted(order[i] for i in range(4)) == [0, 1, 2, 3]
    with pytest.raises(DataError, match="the largest has 2"):
        order[4]


def test_texts_that_are_too_few_for_a_batch_are_named():
    with pytest.raises(DataError) as error:
        visits([(0,), (0,), (1,)], batch=3)[0]
    assert str(error.value) == (
        "train.jsonl: no batch=3 can be made of 3 queries in which no text comes twice; the largest has 2: "
        "use a smaller --batch, or --loader.order=shuffle"
    )


def test_a_query_is_not_replaced_by_another():
    with pytest.raises(ConfigError, match=r"use --loader.order=shuffle"):
        visits(PAIRED, batch=8).another(0, np.random.default_rng(0))


@pytest.mark.slow
@pytest.mark.timeout(20)
def test_a_text_that_all_share_is_found_out_at_once():
    """Each opens a batch of its own; to look through all of these for each row would take minutes."""
    with pytest.raises(DataError, match="the largest has 1"):
        visits([(7,)] * 40_000, batch=64)[0]
