"""Batches: a function of seed and index, whatever reads them."""

import numpy as np
import pytest

from dense_jax.config import LoaderConfig, MeshConfig, Order
from dense_jax.data.pipeline import Examples, Visits, batches, host_batches, steps_for
from dense_jax.errors import DataError
from dense_jax.mesh import make_mesh
from tests.toys import VOCABULARY, BagOfTokens, MemoryStore


def examples(seed=0, length=400, objective=None, **loader) -> Examples:
    return Examples(MemoryStore(), objective or BagOfTokens(), VOCABULARY, LoaderConfig(**loader), seed, length)


def visited(config: LoaderConfig, count: int, passages=40, seed=0) -> list[int]:
    visits = Visits(passages, config, seed)
    return [visits[i] for i in range(count)]


def test_locality_order_reads_every_reader_s_passages_in_a_row():
    order = visited(LoaderConfig(order=Order.LOCALITY, readers=4), 40)
    for reader in range(4):
        mine = order[reader::4]
        assert mine == [(mine[0] + i) % 40 for i in range(10)]


def test_locality_readers_start_apart():
    starts = sorted(visited(LoaderConfig(order=Order.LOCALITY, readers=4), 4))
    assert [start // 10 for start in starts] == [0, 1, 2, 3]


def test_shuffle_visits_each_passage_once_an_epoch_in_an_order_of_its_own():
    order = visited(LoaderConfig(order=Order.SHUFFLE), 80)
    first, second = order[:40], order[40:]
    assert sorted(first) == sorted(second) == list(range(40))
    assert first != second


def test_another_seed_gives_another_order():
    config = LoaderConfig(order=Order.SHUFFLE)
    assert visited(config, 40, seed=0) != visited(config, 40, seed=1)


def equal(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])


def test_an_example_depends_on_seed_and_index_only():
    equal(examples()[7], examples(length=10)[7])
    assert any(examples(seed=1)[i]["row"] != examples()[i]["row"] for i in range(10))


def test_a_rejected_draw_is_replaced_by_another_passage():
    class Picky(BagOfTokens):
        def example(self, passage, vocabulary, rng):
            return super().example(passage, vocabulary, rng) if passage.row % 2 else None

    rows = [examples(objective=Picky())[i]["row"] for i in range(40)]
    assert all(row % 2 for row in rows)


def test_a_corpus_without_any_example_is_an_error_that_names_the_method():
    class Never(BagOfTokens):
        def example(self, passage, vocabulary, rng):
            return None

    with pytest.raises(DataError, match="1000 passages in a row gave no example for Never"):
        examples(objective=Never())[0]


def test_batches_start_anywhere_with_the_same_rows():
    mesh = make_mesh(MeshConfig())
    whole = [loaded.rows.tolist() for loaded in batches(examples(), 8, mesh, start=0)]
    tail = [loaded.rows.tolist() for loaded in batches(examples(), 8, mesh, start=24)]
    assert len(whole) == 50
    assert tail == whole[3:]


class Counted(BagOfTokens):
    """Examples of 2, 4 and 6 real tokens."""

    def example(self, passage, vocabulary, rng):
        return {"query": self._tokens(np.arange(2 + 2 * (passage.row % 3)))}


def test_a_budget_of_tokens_becomes_the_nearest_number_of_steps():
    """An epoch of 39 passages has 4 tokens in the mean, 32 in a batch of eight."""
    epoch = Examples(MemoryStore(39), Counted(), VOCABULARY, LoaderConfig(order=Order.SHUFFLE), 0, 39)
    steps = {tokens: steps_for(epoch, tokens, 8) for tokens in (1, 32, 320, 335, 337, 3_200)}
    assert steps == {1: 1, 32: 1, 320: 10, 335: 10, 337: 11, 3_200: 100}


def test_a_batch_says_where_its_successor_starts():
    loaded = next(batches(examples(), 8, make_mesh(MeshConfig()), start=16))
    assert loaded.next_index == 24


def test_a_batch_lies_split_over_all_devices():
    loaded = next(batches(examples(), 16, make_mesh(MeshConfig(data=2, fsdp=4)), start=0))
    assert loaded.batch["query"].ids.sharding.shard_shape((16, 6)) == (2, 6)


def test_two_hosts_read_halves_of_the_same_batches(monkeypatch):
    whole = [batch["row"].tolist() for batch in host_batches(examples(length=32), 8, start=8)]
    halves = []
    for host in range(2):
        monkeypatch.setattr("jax.process_count", lambda: 2)
        monkeypatch.setattr("jax.process_index", lambda host=host: host)
        halves.append([batch["row"].tolist() for batch in host_batches(examples(length=32), 8, start=8)])
    together = [sorted(first + second) for first, second in zip(*halves, strict=True)]
    assert together == [sorted(batch) for batch in whole]
    assert all(len(batch) == 4 for batch in halves[0])


@pytest.mark.slow
def test_worker_processes_give_the_same_batches():
    alone = next(host_batches(examples(), 8, start=8))
    by_workers = next(host_batches(examples(workers=2), 8, start=8))
    np.testing.assert_array_equal(alone["row"], by_workers["row"])
    np.testing.assert_array_equal(alone["query"].ids, by_workers["query"].ids)
