"""Batches: a function of seed and index, whatever reads them."""

import multiprocessing
import os
import signal
from dataclasses import replace

import jax
import numpy as np
import pytest

from dense_jax.config import LoaderConfig, MeshConfig, Mixing, Order
from dense_jax.data.pipeline import Examples, host_batches, local_batches, steps_for
from dense_jax.errors import DataError, MachineError
from dense_jax.mesh import make_mesh
from dense_jax.train.loader import CorpusLoader
from tests.toys import VOCABULARY, BagOfTokens, MemoryStore


def examples(seed=0, length=400, objective=None, sources=(), **loader) -> Examples:
    store = MemoryStore(sources=sources)
    return Examples(store, objective or BagOfTokens(), VOCABULARY, LoaderConfig(**loader), seed, length, batch=8)


def equal(a, b):
    assert a.row == b.row
    jax.tree.map(np.testing.assert_array_equal, a.inputs, b.inputs)


def test_an_example_depends_on_seed_and_index_only():
    equal(examples()[7], examples(length=10)[7])
    assert any(examples(seed=1)[i].row != examples()[i].row for i in range(10))


def test_a_rejected_draw_is_replaced_by_another_passage():
    class Picky(BagOfTokens):
        def example(self, passage, vocabulary, rng):
            return super().example(passage, vocabulary, rng) if passage.row % 2 else None

    rows = [examples(objective=Picky())[i].row for i in range(40)]
    assert all(row % 2 for row in rows)


def test_a_rejected_draw_is_replaced_by_another_passage_of_the_same_source():
    class Picky(BagOfTokens):
        def example(self, passage, vocabulary, rng):
            return super().example(passage, vocabulary, rng) if passage.row % 2 else None

    found = examples(objective=Picky(), sources=(30, 10))
    sources = [(found.sampler[i] < 30, found[i].row < 30) for i in range(100)]
    assert {first for first, _ in sources} == {True, False}
    assert all(first == replaced for first, replaced in sources)


def test_an_example_is_made_of_what_the_store_draws_at_its_passage():
    class Longer(MemoryStore):
        def sample(self, row, epoch, rng):
            return replace(self[row], tokens=np.full(6, rng.integers(5, 50)))

    found = Examples(Longer(), BagOfTokens(noise=0.0), VOCABULARY, LoaderConfig(), 0, 40, batch=8)
    for i in range(10):
        halves = [found[i].inputs[side].ids[found[i].inputs[side].mask] for side in ("query", "passage")]
        assert len(np.concatenate(halves)) == 6
        assert len(set(np.concatenate(halves).tolist())) == 1
    assert len({int(found[i].inputs["query"].ids[0]) for i in range(10)}) > 1


def test_a_corpus_without_any_example_is_an_error_that_names_the_method():
    class Never(BagOfTokens):
        def example(self, passage, vocabulary, rng):
            return None

    with pytest.raises(DataError, match="1000 passages in a row gave no example for Never"):
        examples(objective=Never())[0]


def test_batches_start_anywhere_with_the_same_rows():
    mesh = make_mesh(MeshConfig())
    whole = [made.rows.tolist() for made in local_batches(examples(), 8, mesh, step=0)]
    tail = [made.rows.tolist() for made in local_batches(examples(), 8, mesh, step=3)]
    assert len(whole) == 50
    assert tail == whole[3:]


class Counted(BagOfTokens):
    """Examples of 2, 4 and 6 real tokens."""

    def example(self, passage, vocabulary, rng):
        return {"query": self._tokens(np.arange(2 + 2 * (passage.row % 3)))}


def test_a_budget_of_tokens_becomes_the_nearest_number_of_steps():
    """An epoch of 39 passages has 4 tokens in the mean, 32 in a batch of eight."""
    epoch = Examples(MemoryStore(39), Counted(), VOCABULARY, LoaderConfig(order=Order.SHUFFLE), 0, 39, batch=8)
    steps = {tokens: steps_for(epoch, tokens, 8) for tokens in (1, 32, 320, 335, 337, 3_200)}
    assert steps == {1: 1, 32: 1, 320: 10, 335: 10, 337: 11, 3_200: 100}


@pytest.mark.parametrize("prefetch", [0, 2])
def test_a_loader_that_goes_on_from_a_step_gives_the_batches_after_it(prefetch):
    mesh, found = make_mesh(MeshConfig()), examples(length=40, prefetch=prefetch)
    rows = [CorpusLoader(found, 8, mesh, step).batch(step, {}).rows.tolist() for step in range(5)]
    loader = CorpusLoader(found, 8, mesh)
    assert [loader.batch(step, {}).rows.tolist() for step in range(5)] == rows
    with pytest.raises(StopIteration):
        loader.batch(5, {})


def test_a_batch_lies_split_over_all_devices():
    loaded = CorpusLoader(examples(), 16, make_mesh(MeshConfig(data=2, fsdp=4))).batch(0, {})
    assert loaded.inputs["query"].ids.sharding.shard_shape((16, 6)) == (2, 6)


@pytest.mark.parametrize("of_each", [([0, 1, 2, 3], [4, 5, 6, 7]), ([0, 1, 6, 7], [2, 3, 4, 5])])
def test_two_hosts_read_the_rows_that_they_hold_of_the_same_batches(of_each):
    whole = np.stack([batch.rows for batch in host_batches(examples(length=32), 8, start=8)])
    for held in map(np.array, of_each):
        own = np.stack([batch.rows for batch in host_batches(examples(length=32), 8, start=8, local_rows=held)])
        np.testing.assert_array_equal(own, whole[:, held])


def test_batches_of_one_source_each_start_anywhere_with_the_same_rows():
    whole = [b.rows for b in host_batches(examples(sources=(30, 10), mixing=Mixing.BATCH), 8, start=0)]
    tail = [b.rows for b in host_batches(examples(sources=(30, 10), mixing=Mixing.BATCH), 8, start=24)]
    assert {tuple(np.unique(rows < 30)) for rows in whole} == {(True,), (False,)}
    np.testing.assert_array_equal(tail, whole[3:])


@pytest.mark.slow
@pytest.mark.parametrize("sources", [(), (30, 10)])
def test_worker_processes_give_the_same_batches(sources):
    alone = next(host_batches(examples(sources=sources), 8, start=8))
    by_workers = next(host_batches(examples(sources=sources, workers=2), 8, start=8))
    np.testing.assert_array_equal(alone.rows, by_workers.rows)
    np.testing.assert_array_equal(alone.inputs["query"].ids, by_workers.inputs["query"].ids)


class Deadly(BagOfTokens):
    """Kills the process that makes the example of passage 7, unless that is the test's."""

    def example(self, passage, vocabulary, rng):
        if passage.row == 7 and multiprocessing.parent_process():
            os.kill(os.getpid(), signal.SIGKILL)
        return super().example(passage, vocabulary, rng)


@pytest.mark.slow
def test_t10_a_worker_process_that_is_killed_ends_the_batches_with_the_example_where_they_stand():
    found = examples(objective=Deadly(), workers=1, length=800)
    with pytest.raises(MachineError, match=r"loader.workers=1 processes .* before the batch from example \d+ on: .*-9"):
        list(local_batches(found, 8, make_mesh(MeshConfig()), step=2))
