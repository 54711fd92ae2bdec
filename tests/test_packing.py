"""Texts side by side: all are there, once, and can be found again."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dense_jax.data.packing import distribute, pack
from dense_jax.types import Tokens

PAD = 9


def texts(*lengths: int, room: int = 12) -> Tokens:
    """Text i is 100 i + 1, 100 i + 2, ... in segment i mod 2."""
    mask = np.arange(room) < np.array(lengths)[:, None]
    ids = 100 * np.arange(len(lengths))[:, None] + 1 + np.arange(room)
    types = np.broadcast_to(np.arange(len(lengths))[:, None] % 2, ids.shape)
    return Tokens(np.where(mask, ids, PAD).astype(np.int32), np.where(mask, types, 0).astype(np.int32), mask)


def found(packed, text: int, per_row: int):
    """Ids, segments of the model and positions of text `text`."""
    row, segment = divmod(int(packed.places.reshape(-1)[text]), packed.starts.shape[1])
    mine = packed.segments[row] == segment
    assert packed.starts[row, segment] == np.flatnonzero(mine)[0]
    return packed.tokens.ids[row, mine], packed.tokens.types[row, mine], packed.positions[row, mine]


@given(lengths=st.lists(st.integers(1, 12), min_size=8, max_size=8), per_row=st.sampled_from([1, 2, 4]))
def test_every_text_is_found_where_it_is_said_to_be(lengths, per_row):
    packed = pack(texts(*lengths), np.arange(8), per_row, length=12 * 2 * per_row)
    assert packed.tokens.mask.sum() == sum(lengths)
    assert packed.cut.sum() == 0
    for i, length in enumerate(lengths):
        ids, types, positions = found(packed, i, per_row)
        assert ids.tolist() == [100 * i + 1 + n for n in range(length)]
        assert set(types.tolist()) == {i % 2}
        assert positions.tolist() == list(range(length))


def test_padding_belongs_to_no_text():
    packed = pack(texts(3, 2), np.arange(2), per_row=2, length=8)
    assert packed.segments.tolist() == [[0, 0, 0, 1, 1, -1, -1, -1]]
    assert packed.tokens.ids.tolist() == [[1, 2, 3, 101, 102, PAD, PAD, PAD]]
    assert packed.tokens.mask.tolist() == [[True] * 5 + [False] * 3]


def test_texts_that_do_not_fit_are_cut_before_their_last_token_the_longest_first():
    packed = pack(texts(6, 3), np.arange(2), per_row=2, length=7)
    assert found(packed, 0, 2)[0].tolist() == [1, 2, 3, 6]
    assert found(packed, 1, 2)[0].tolist() == [101, 102, 103]
    assert packed.cut.tolist() == [2]


def test_the_second_of_two_processes_places_its_texts_in_its_own_rows():
    packed = pack(texts(3, 2, 4, 1), np.array([4, 5, 6, 7]), per_row=2, length=8)  # rows 2 and 3 of the global batch
    assert sorted(packed.places.reshape(-1) // packed.starts.shape[1]) == [2, 2, 3, 3]


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
    rng = np.random.default_rng(0)
    lengths = rng.integers(14, 127, size=2048)
    fullest = max(sum(lengths[i] for i in row) for row in distribute(lengths, 512, 8))
    assert fullest <= 288
    assert lengths.sum() / (512 * 288) > 0.95
