"""Which passages training visits, in which order, and from which source."""

import numpy as np
import pytest

from dense_jax.config import LoaderConfig, Mixing, Order
from dense_jax.data.sampler import Sampler, shares
from dense_jax.errors import ConfigError
from dense_jax.types import SourceRows


def one_source(config: LoaderConfig, count: int, passages=40, seed=0) -> list[int]:
    visits = Sampler([SourceRows("source", range(passages), 1_000)], config, seed, batch=8)
    return [visits[i] for i in range(count)]


def test_locality_order_reads_every_reader_s_passages_in_a_row():
    order = one_source(LoaderConfig(order=Order.LOCALITY, readers=4), 40)
    for reader in range(4):
        mine = order[reader::4]
        assert mine == [(mine[0] + i) % 40 for i in range(10)]


def test_locality_readers_start_apart():
    starts = sorted(one_source(LoaderConfig(order=Order.LOCALITY, readers=4), 4))
    assert [start // 10 for start in starts] == [0, 1, 2, 3]


def test_shuffle_visits_each_passage_once_an_epoch_in_an_order_of_its_own():
    order = one_source(LoaderConfig(order=Order.SHUFFLE), 80)
    first, second = order[:40], order[40:]
    assert sorted(first) == sorted(second) == list(range(40))
    assert first != second


def test_another_seed_gives_another_order():
    config = LoaderConfig(order=Order.SHUFFLE)
    assert one_source(config, 40, seed=0) != one_source(config, 40, seed=1)


def test_with_one_source_nothing_that_mixes_sources_changes_the_order():
    for order in Order:
        plain = one_source(LoaderConfig(order=order), 100)
        assert one_source(LoaderConfig(order=order, mixing=Mixing.BATCH, sampling_power=1.0), 100) == plain


SMALL, LARGE = SourceRows("small", range(100), 1_000), SourceRows("large", range(100, 300), 9_000)


def mixed(count, seed=0, batch=8, **loader) -> list[int]:
    visits = Sampler([SMALL, LARGE], LoaderConfig(**loader), seed, batch)
    return [visits[i] for i in range(count)]


def test_a_source_is_drawn_by_its_share_of_the_tokens_to_the_power():
    assert shares([1_000, 9_000], 0.0, [1.0, 1.0]).tolist() == [0.5, 0.5]
    assert shares([1_000, 9_000], 0.5, [1.0, 1.0]) == pytest.approx(
        [0.25, 0.75]
    )  # the roots of 0.1 and 0.9 are as 1 to 3
    assert shares([1_000, 9_000], 1.0, [1.0, 1.0]) == pytest.approx([0.1, 0.9])


@pytest.mark.parametrize(("power", "share"), [(0.0, 0.5), (0.5, 0.25), (1.0, 0.1)])
def test_visits_come_from_the_sources_in_these_shares(power, share):
    from_small = np.array(mixed(4_000, sampling_power=power)) < 100
    deviation = (share * (1 - share) / 4_000) ** 0.5
    assert abs(from_small.mean() - share) < 4 * deviation


@pytest.mark.parametrize("mixing", Mixing)
def test_weights_say_how_often_a_source_is_drawn(mixing):
    from_small = np.array(mixed(8 * 2_000, mixing=mixing, weights=(3.0, 1.0))) < 100
    assert abs(from_small.mean() - 0.75) < 4 * (0.75 * 0.25 / 2_000) ** 0.5


@pytest.mark.parametrize("order", Order)
@pytest.mark.parametrize("empty", [0, 1, 2])
def test_a_source_without_rows_keeps_its_place_among_the_weights_and_is_not_drawn(order, empty):
    parts = [SMALL, LARGE]
    parts.insert(empty, SourceRows("empty", range(0), 0))
    config = LoaderConfig(order=order, weights=(1.0, 1.0, 1.0))
    visits = Sampler(parts, config, 0, 8)
    assert visits.shares.tolist() == [0.0 if part.name == "empty" else 0.5 for part in parts]
    assert [visits[i] for i in range(400)] == mixed(400, order=order)


def test_weights_are_one_for_each_source_to_learn_from():
    with pytest.raises(
        ConfigError, match=r"loader.weights has 3 numbers, and there are 2 sources to learn from: small, l"
    ):
        mixed(1, weights=(1.0, 1.0, 1.0))


@pytest.mark.parametrize(("power", "share"), [(0.0, 0.5), (0.5, 0.25), (1.0, 0.1)])
def test_batches_of_one_source_come_in_the_same_shares(power, share):
    batches = np.array(mixed(8 * 2_000, mixing=Mixing.BATCH, sampling_power=power)).reshape(2_000, 8) < 100
    assert (batches.all(1) | ~batches.any(1)).all()
    deviation = (share * (1 - share) / 2_000) ** 0.5
    assert abs(batches[:, 0].mean() - share) < 4 * deviation


def test_one_draw_says_nothing_of_the_next():
    from_small = np.array(mixed(4_000)) < 100
    both = (from_small[1:] & from_small[:-1]).mean()
    assert abs(both - 0.25) < 4 * (0.25 * 0.75 / 4_000) ** 0.5


@pytest.mark.parametrize("order", Order)
def test_the_visits_of_a_source_are_its_own_order_at_the_indices_that_were_drawn_for_it(order):
    found = mixed(600, order=order)
    for part in (SMALL, LARGE):
        own = one_source(LoaderConfig(order=order), 600, passages=len(part.rows))
        drawn = [i for i, row in enumerate(found) if row in part.rows]
        assert [found[i] for i in drawn] == [part.rows[own[i]] for i in drawn]


def test_no_passage_is_visited_twice_in_a_pass_over_its_source():
    found = mixed(600, order=Order.SHUFFLE)
    for part in (SMALL, LARGE):
        for start in range(0, 600, len(part.rows)):
            once = [row for row in found[start : start + len(part.rows)] if row in part.rows]
            assert len(once) == len(set(once)) > 0


@pytest.mark.parametrize("mixing", Mixing)
def test_a_visit_depends_on_seed_and_index_only(mixing):
    visits = Sampler([SMALL, LARGE], LoaderConfig(order=Order.SHUFFLE, mixing=mixing), 0, batch=8)
    backwards = [visits[i] for i in reversed(range(400))][::-1]
    assert backwards == mixed(400, order=Order.SHUFFLE, mixing=mixing)
    assert backwards != mixed(400, order=Order.SHUFFLE, mixing=mixing, seed=1)


@pytest.mark.parametrize("mixing", Mixing)
def test_another_passage_is_of_the_same_source(mixing):
    visits = Sampler([SMALL, LARGE], LoaderConfig(mixing=mixing), 0, batch=8)
    rng = np.random.default_rng(0)
    sources = [(visits[i] < 100, visits.another(i, rng) < 100) for i in range(200)]
    assert all(first == other for first, other in sources)
    assert len({visits.another(0, rng) for _ in range(50)}) > 10
