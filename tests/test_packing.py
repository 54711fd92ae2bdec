"""Texts side by side: all are there, once, and can be found again."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dense_jax.data.masking import masking_budget
from dense_jax.data.packing import distribute, pack, pack_masked, row_shape
from dense_jax.types import Tokens

PAD = 9


def texts(*lengths: int, room: int = 12) -> Tokens:
    """Text i is 100 i + 1, 100 i + 2, ... in segment i mod 2."""
    mask = np.arange(room) < np.array(lengths)[:, None]
    ids = 100 * np.arange(len(lengths))[:, None] + 1 + np.arange(room)
    types = np.broadcast_to(np.arange(len(lengths))[:, None] % 2, ids.shape)
    return Tokens(np.where(mask, ids, PAD).astype(np.int32), np.where(mask, types, 0).astype(np.int32), mask)


def found(packed, text: int):
    """Ids, segments of the model and positions of text `text`."""
    row, segment = divmod(int(packed.places.reshape(-1)[text]), packed.starts.shape[1])
    mine = packed.segments[row] == segment
    assert packed.starts[row, segment] == np.flatnonzero(mine)[0]
    return packed.tokens.ids[row, mine], packed.tokens.types[row, mine], packed.positions[row, mine]


@given(lengths=st.lists(st.integers(1, 12), min_size=8, max_size=8), packing=st.sampled_from([0.3, 0.5, 0.8, 0.99]))
def test_every_text_is_found_where_it_is_said_to_be_and_every_cut_token_is_counted(lengths, packing):
    packed = pack(texts(*lengths), np.arange(8), packing)
    assert packed.tokens.mask.sum() + packed.cut.sum() == sum(lengths)
    for i, length in enumerate(lengths):
        ids, types, positions = found(packed, i)
        assert ids.tolist() == [100 * i + 1 + n for n in [*range(len(ids) - 1), length - 1]]
        assert set(types.tolist()) == {i % 2}
        assert positions.tolist() == list(range(len(ids)))


def test_padding_belongs_to_no_text():
    packed = pack(texts(3, 2, room=5), np.arange(2), packing=0.8)
    assert packed.segments.tolist() == [[0, 0, 0, 1, 1, -1, -1, -1]]
    assert packed.tokens.ids.tolist() == [[1, 2, 3, 101, 102, PAD, PAD, PAD]]
    assert packed.tokens.mask.tolist() == [[True] * 5 + [False] * 3]


def test_texts_that_do_not_fit_are_cut_before_their_last_token_the_longest_first():
    packed = pack(texts(7, 3, room=5 * 2), np.arange(2), packing=0.8)  # two texts in 16 tokens
    assert packed.cut.tolist() == [0]
    packed = pack(texts(10, 9, room=10), np.arange(2), packing=0.8)
    assert found(packed, 0)[0].tolist() == [1, 2, 3, 4, 5, 6, 7, 10]
    assert found(packed, 1)[0].tolist() == [101, 102, 103, 104, 105, 106, 107, 109]
    assert packed.cut.tolist() == [3]


def test_the_second_of_two_processes_places_its_texts_in_its_own_rows():
    packed = pack(texts(3, 2, 4, 1), np.array([4, 5, 6, 7]), packing=0.8)  # rows 2 and 3 of the global batch
    assert sorted(packed.places // packed.starts.shape[1]) == [2, 2, 3, 3]


def test_several_texts_of_an_example_are_placed_by_example():
    both = Tokens(*(x.reshape(4, 2, -1) for x in texts(3, 2, 4, 1, 5, 2, 6, 3)))
    packed = pack(both, np.array([4, 5, 6, 7]), packing=0.5)  # texts 8 to 15: rows 2 and 3 of the global batch
    assert packed.places.shape == (4, 2)
    assert sorted(set((packed.places // packed.starts.shape[1]).reshape(-1).tolist())) == [2, 3]
    assert len(set(packed.places.reshape(-1).tolist())) == 8


def test_an_empty_text_takes_no_room():
    packed = pack(texts(8, 0, 8, 0, room=8), np.arange(4), packing=0.8)
    assert packed.cut.sum() == 0
    assert packed.tokens.mask.sum() == 16
    assert packed.starts.max() < packed.tokens.mask.shape[1]


@given(
    lengths=st.lists(st.integers(3, 14), min_size=16, max_size=16),
    rate=st.sampled_from([0.15, 0.3, 0.9]),
    packing=st.sampled_from([0.4, 0.6, 0.95]),
)
def test_a_row_has_slots_for_all_masked_tokens_of_its_texts(lengths, rate, packing):
    """Text i has a first and a last token that are never masked."""
    tokens, slots = texts(*lengths, room=14), masking_budget(14, rate)
    budgets = [masking_budget(length - 2, rate) for length in lengths]
    positions = np.tile(np.arange(1, slots + 1, dtype=np.int32), (16, 1))
    masked = {
        "tokens": tokens,
        "positions": positions,
        "labels": np.take_along_axis(np.asarray(tokens.ids), positions.clip(max=13), axis=1),
        "weights": np.float32(np.arange(slots) < np.array(budgets)[:, None]),
    }
    packed = pack_masked(masked, np.arange(16), packing)
    is_masked = packed["weights"] > 0
    assert is_masked.sum() == sum(budgets) or packed["tokens"].cut.any()
    predicted = np.take_along_axis(packed["tokens"].tokens.ids, packed["positions"], axis=1)
    assert np.array_equal(predicted[is_masked], packed["labels"][is_masked])


def test_masked_tokens_of_cut_texts_that_exceed_the_slots_of_a_row_are_not_predicted():
    """All masked tokens stand where nothing is cut: of each of four texts in a row six tokens, four of them masked."""
    tokens, positions = texts(*[14] * 32, room=14), np.tile(np.arange(1, 5, dtype=np.int32), (32, 1))
    labels = np.asarray(tokens.ids)[:, 1:5]
    masked = {"tokens": tokens, "positions": positions, "labels": labels, "weights": np.ones((32, 4), np.float32)}
    packed = pack_masked(masked, np.arange(32), packing=0.4)
    assert packed["tokens"].cut.sum() == 32 * 8
    predicted = np.take_along_axis(packed["tokens"].tokens.ids, packed["positions"], axis=1)
    is_masked = packed["weights"] > 0
    assert 0 < is_masked.sum() < 32 * 4
    assert np.array_equal(predicted[is_masked], packed["labels"][is_masked])


@given(lengths=st.lists(st.integers(1, 99), min_size=16, max_size=16))
def test_the_fullest_row_is_never_longer_than_the_mean_and_a_longest_text(lengths):
    rows = distribute(np.array(lengths), rows=4, most=16)
    assert sorted(i for row in rows for i in row) == list(range(16))
    assert max(sum(lengths[i] for i in row) for row in rows) <= sum(lengths) / 4 + max(lengths)


@pytest.mark.parametrize("most", [2, 3])
def test_no_row_holds_more_texts_than_it_may(most):
    assert max(map(len, distribute(np.array([9, 1, 1, 1, 1, 1]), rows=3, most=most))) <= most


def test_rows_of_288_tokens_hold_four_crops_of_a_large_batch_each():
    """2,048 crops of 12 to 126 tokens, 70 on average: nothing is cut at 97 % of the room of the published length."""
    assert row_shape(128, packing=0.5625) == (4, 288)
    rng = np.random.default_rng(0)
    lengths = rng.integers(14, 127, size=2048)
    fullest = max(sum(lengths[i] for i in row) for row in distribute(lengths, 512, 8))
    assert fullest <= 288
    assert lengths.sum() / (512 * 288) > 0.95
