"""The draws: cloze against ORQA's law, whole words against the Condenser authors' selections, RetroMAE's views."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dense_jax.data import masking
from dense_jax.objectives.ict import inverse_cloze
from dense_jax.types import Layout, Passage, Tokens, Vocabulary

GOLDEN = json.loads((Path(__file__).parent / "golden" / "condenser" / "data.json").read_text())
PAD, UNK, CLS, SEP, MASK = range(5)


def vocabulary(size: int = 100, continues: tuple[int, ...] = ()) -> Vocabulary:
    special, joined = np.zeros(size, bool), np.zeros(size, bool)
    special[:5] = True
    joined[list(continues)] = True
    return Vocabulary(size, PAD, UNK, CLS, SEP, MASK, special, joined)


def passage(*lengths: int) -> Passage:
    """Sentences of the given lengths over the tokens 10, 11, 12, ..."""
    tokens = np.arange(10, 10 + sum(lengths), dtype=np.uint16)
    return Passage(0, np.array([5, 6], np.uint16), tokens, np.cumsum([0, *lengths[:-1]]).astype(np.int32))


def test_a_removed_sentence_leaves_the_others_in_order():
    draws = [inverse_cloze(passage(2, 3, 1), 1.0, np.random.default_rng(i)) for i in range(30)]
    pairs = {(tuple(d.query.tolist()), tuple(d.body.tolist())) for d in draws}
    assert pairs == {((10, 11), (12, 13, 14, 15)), ((12, 13, 14), (10, 11, 15)), ((15,), (10, 11, 12, 13, 14))}


def test_a_kept_sentence_leaves_the_passage_whole():
    draw = inverse_cloze(passage(2, 3), 0.0, np.random.default_rng(0))
    assert not draw.removed
    assert draw.body.tolist() == [10, 11, 12, 13, 14]


def test_nine_sentences_in_ten_are_removed_and_each_is_as_likely():
    rng = np.random.default_rng(0)
    draws = [inverse_cloze(passage(1, 1, 1, 1), 0.9, rng) for _ in range(4000)]
    assert np.mean([d.removed for d in draws]) == pytest.approx(0.9, abs=0.02)  # four standard deviations
    counts = np.bincount([d.query[0] - 10 for d in draws])
    assert counts / 4000 == pytest.approx([0.25] * 4, abs=0.03)


def test_a_single_sentence_is_an_example_only_when_it_is_kept():
    rng = np.random.default_rng(0)
    draws = [inverse_cloze(passage(4), 0.9, rng) for _ in range(2000)]
    assert all(d is None or not d.removed for d in draws)
    assert np.mean([d is None for d in draws]) == pytest.approx(0.9, abs=0.03)


@pytest.mark.parametrize("case", GOLDEN["whole_word_selection"], ids=lambda c: "_".join(c["tokens"])[:40])
def test_whole_word_selection_equals_the_reference(case):
    budget = masking.masking_budget(len(case["tokens"]), case["probability"])
    chosen = masking.select_words(case["groups_in_visit_order"], budget)
    assert budget == case["budget"]
    assert [int(i in chosen) for i in range(len(case["tokens"]))] == case["mask_labels"]


@pytest.mark.parametrize("case", GOLDEN["whole_word_selection"], ids=lambda c: "_".join(c["tokens"])[:40])
def test_word_groups_equal_the_reference(case):
    names = sorted(set(case["tokens"]))
    special = ("[UNK]", "[CLS]", "[SEP]")
    ids = np.array([10 + names.index(t) if t not in special else UNK for t in case["tokens"]])
    known = vocabulary(continues=tuple(10 + i for i, name in enumerate(names) if name.startswith("##")))
    assert sorted(masking.word_groups(ids, known)) == sorted(case["groups_in_visit_order"])


def test_special_tokens_do_not_part_the_pieces_around_them():
    assert masking.word_groups(np.array([CLS, 10, UNK, 11, SEP, PAD]), vocabulary(continues=(11,))) == [[1, 3]]


sizes_of_words = st.lists(st.integers(1, 5), max_size=12)


@given(st.lists(st.permutations(range(12)), min_size=1, max_size=4), sizes_of_words, st.integers(1, 20))
def test_many_selections_at_once_equal_as_many_selections_of_words(orders, sizes, budget):
    orders = np.array([[word for word in order if word < len(sizes)] for order in orders], int)
    chosen = masking.select_words_often(orders, sizes, budget)
    for order, found in zip(orders, chosen, strict=True):
        words = [[int(word)] * sizes[word] for word in order]
        assert set(np.flatnonzero(found).tolist()) == set(masking.select_words(words, budget))


def tokens(ids) -> Tokens:
    ids = np.array(ids, np.int32)
    return Tokens(ids, np.zeros_like(ids), ids != PAD)


KNOWN = vocabulary(continues=(11, 12))
WORD = [20, 10, 11, 12, 21]  # the pieces at places 1, 2, 3 are one word


def test_drawn_words_are_whole_and_fill_the_budget_but_do_not_exceed_it():
    draws = [masking.sample_words(np.array([CLS, *WORD, SEP]), 3, KNOWN, np.random.default_rng(i)) for i in range(50)]
    assert {tuple(sorted(draw.tolist())) for draw in draws} == {(2, 3, 4), (1, 5)}


def hidden(ids, budget, seed=0, slots=20):
    return masking.apply_mlm_mask(tokens(ids), budget, slots, KNOWN, np.random.default_rng(seed))


def test_labels_are_the_original_tokens_and_unused_slots_weigh_nothing():
    ids = [CLS, *range(20, 40), SEP, PAD, PAD]
    result = hidden(ids, budget=3, slots=8)
    assert result["weights"].tolist() == [1, 1, 1, 0, 0, 0, 0, 0]
    positions = result["positions"][:3]
    assert sorted(set(positions.tolist())) == positions.tolist()
    assert result["labels"].tolist() == [*(ids[p] for p in positions), 0, 0, 0, 0, 0]
    others = np.delete(np.arange(len(ids)), positions)
    assert result["tokens"].ids[others].tolist() == [ids[p] for p in others]


def test_segments_and_mask_of_a_text_stay_as_they_are():
    given = tokens([CLS, *range(20, 40), SEP, PAD])._replace(types=np.arange(23, dtype=np.int32) % 2)
    result = masking.apply_mlm_mask(given, 5, 8, KNOWN, np.random.default_rng(0))["tokens"]
    assert result.types is given.types and result.mask is given.mask
    assert given.ids.tolist() == [CLS, *range(20, 40), SEP, PAD]  # the text itself is not written to


def test_eight_in_ten_become_mask_one_in_ten_random_one_in_ten_stays():
    ids = [CLS, *range(20, 60), SEP]
    seen = {"mask": 0, "same": 0, "random": 0}
    for seed in range(500):
        result = hidden(ids, budget=20, seed=seed)
        for position, label in zip(result["positions"], result["labels"], strict=True):
            token = result["tokens"].ids[position]
            seen["mask" if token == MASK else "same" if token == label else "random"] += 1
    shares = np.array(list(seen.values())) / 10_000
    assert shares == pytest.approx(
        [0.8 + 0.001, 0.1 + 0.001, 0.098], abs=0.015
    )  # a random id may be the same, or [MASK]


def test_special_tokens_and_padding_are_never_hidden():
    for seed in range(50):
        result = hidden([CLS, 20, UNK, 21, SEP, PAD, PAD], budget=6, seed=seed)
        assert result["positions"][result["weights"] == 1].tolist() == [1, 3]


def masked(title, body, length, layout=Layout.BODY, seed=0, rate=0.15):
    arrays = (np.array(ids, np.int32) for ids in (title, body))
    return masking.masked_passage(*arrays, length, layout, KNOWN, rate, np.random.default_rng(seed))


def restored(example) -> list[int]:
    """The tokens of a masked example as they were before."""
    ids = example["tokens"].ids.copy()
    real = example["weights"] == 1
    ids[example["positions"][real]] = example["labels"][real]
    return ids[example["tokens"].mask].tolist()


def test_a_masked_passage_hides_its_share_of_the_text_and_no_more_for_its_frame_and_padding():
    example = masked([5, 6], range(20, 38), 30, Layout.JOINED)
    assert restored(example) == [CLS, 5, 6, *range(20, 38), SEP]
    assert example["weights"].sum() == 3  # 0.15 of 20: title and body, without [CLS], [SEP] and 8 pads
    assert len(example["weights"]) == 4  # 0.15 of 30: as many slots for every passage of this length


def test_an_over_long_body_shows_one_window_in_which_words_are_seen_and_hidden_alike():
    body = list(range(30, 60))
    windows = [restored(masked([], body, 12, seed=seed, rate=0.5)) for seed in range(400)]
    assert all(window == [CLS, *range(window[1], window[1] + 10), SEP] for window in windows)
    assert {window[1] for window in windows} == set(range(30, 51))  # every start from the first to the last


@pytest.mark.parametrize(
    ("layout", "front"), [(Layout.JOINED, [CLS, 5, 6]), (Layout.PAIR, [CLS, 5, 6, SEP]), (Layout.BODY, [CLS])]
)
def test_a_window_leaves_room_for_the_title_and_its_frame_and_reaches_the_end_of_the_body(layout, front):
    found = {tuple(restored(masked([5, 6], range(30, 60), 12, layout, seed=seed))) for seed in range(200)}
    room = 12 - len(front) - 1
    assert found == {(*front, *range(start, start + room), SEP) for start in range(30, 61 - room)}


def test_a_body_that_fits_is_shown_from_its_start():
    assert {tuple(restored(masked([], range(30, 40), 12, seed=seed))) for seed in range(20)} == {
        (CLS, *range(30, 40), SEP)
    }


def view(ids, seed=0, rate=0.5):
    return masking.decoder_view(tokens(ids), rate, KNOWN, np.random.default_rng(seed))


TEXT = [CLS, *range(20, 50), UNK, SEP, PAD, PAD, PAD]
SPECIAL = [0, 31, 32]


def test_no_position_of_the_decoder_sees_itself_or_padding():
    found = view(TEXT)
    assert found.shape == (36, 36)
    assert not found[:, 33:].any()
    assert not np.diagonal(found).any()


def test_special_tokens_are_visible_to_all_but_themselves():
    found = view(TEXT)
    assert all(found[:, place].sum() == 35 for place in SPECIAL)


def test_each_position_of_the_decoder_does_not_see_half_of_all_real_tokens_and_itself():
    words = np.arange(1, 31)
    for row, visible in enumerate(view(TEXT)):
        unseen = int((~visible[words]).sum())
        # round(0.5 * 33) = 16 words (halves to even), and itself where it is a word that is not among them
        assert unseen in ((16, 17) if row in words else (16,))


def test_words_are_hidden_from_a_position_whole_or_not_at_all_but_for_the_position_itself():
    ids = [CLS, *WORD, *WORD, SEP]
    for seed in range(30):
        found = view(ids, seed)
        for word in ([2, 3, 4], [7, 8, 9]):
            for row in range(len(ids)):
                others = [place for place in word if place != row]
                assert len(set(found[row, others].tolist())) == 1


def test_positions_of_the_decoder_see_different_words_and_each_word_is_as_often_hidden():
    found = np.array([view([CLS, *range(20, 40), SEP], seed) for seed in range(100)])
    assert len(np.unique(found[0], axis=0)) > 10
    off_diagonal = ~np.eye(22, dtype=bool)
    shares = [1 - found[:, off_diagonal[:, place], place].mean() for place in range(1, 21)]
    # 11 of 20 words; 100 texts of up to 22 samples each, of which some serve several rows: four standard deviations
    assert shares == pytest.approx([11 / 20] * 20, abs=0.06)


def test_a_long_text_has_no_more_than_256_different_samples():
    found = view([CLS, *([20] * 398), SEP])
    itself = np.eye(400, dtype=bool)

    def repeats(row):
        """Whether an earlier position sees the same words, those two positions left aside."""
        return ((found[:row] == found[row]) | itself[:row] | itself[row]).all(1).any()

    different = sum(not repeats(row) for row in range(400))
    assert 150 < different <= 256  # 400 draws out of 256 leave about 54 of them unused
