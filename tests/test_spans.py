"""The draws: cloze against ORQA's law, whole words against the Condenser authors' selections."""

import json
from pathlib import Path

import numpy as np
import pytest

from dense_jax.contracts import Passage, Vocabulary
from dense_jax.data import spans

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
    draws = [spans.cloze(passage(2, 3, 1), 1.0, np.random.default_rng(i)) for i in range(30)]
    pairs = {(tuple(d.query.tolist()), tuple(d.body.tolist())) for d in draws}
    assert pairs == {((10, 11), (12, 13, 14, 15)), ((12, 13, 14), (10, 11, 15)), ((15,), (10, 11, 12, 13, 14))}


def test_a_kept_sentence_leaves_the_passage_whole():
    draw = spans.cloze(passage(2, 3), 0.0, np.random.default_rng(0))
    assert not draw.removed
    assert draw.body.tolist() == [10, 11, 12, 13, 14]


def test_nine_sentences_in_ten_are_removed_and_each_is_as_likely():
    rng = np.random.default_rng(0)
    draws = [spans.cloze(passage(1, 1, 1, 1), 0.9, rng) for _ in range(4000)]
    assert np.mean([d.removed for d in draws]) == pytest.approx(0.9, abs=0.02)  # four standard deviations
    counts = np.bincount([d.query[0] - 10 for d in draws])
    assert counts / 4000 == pytest.approx([0.25] * 4, abs=0.03)


def test_a_single_sentence_is_an_example_only_when_it_is_kept():
    rng = np.random.default_rng(0)
    draws = [spans.cloze(passage(4), 0.9, rng) for _ in range(2000)]
    assert all(d is None or not d.removed for d in draws)
    assert np.mean([d is None for d in draws]) == pytest.approx(0.9, abs=0.03)


@pytest.mark.parametrize("case", GOLDEN["whole_word_selection"], ids=lambda c: "_".join(c["tokens"])[:40])
def test_whole_word_selection_equals_the_reference(case):
    budget = spans.masking_budget(len(case["tokens"]), case["probability"])
    chosen = spans.select_words(case["groups_in_visit_order"], budget)
    assert budget == case["budget"]
    assert [int(i in chosen) for i in range(len(case["tokens"]))] == case["mask_labels"]


@pytest.mark.parametrize("case", GOLDEN["whole_word_selection"], ids=lambda c: "_".join(c["tokens"])[:40])
def test_word_groups_equal_the_reference(case):
    names = sorted(set(case["tokens"]))
    special = ("[UNK]", "[CLS]", "[SEP]")
    ids = np.array([10 + names.index(t) if t not in special else UNK for t in case["tokens"]])
    known = vocabulary(continues=tuple(10 + i for i, name in enumerate(names) if name.startswith("##")))
    assert sorted(spans.word_groups(ids, known)) == sorted(case["groups_in_visit_order"])


def test_special_tokens_do_not_part_the_pieces_around_them():
    assert spans.word_groups(np.array([CLS, 10, UNK, 11, SEP, PAD]), vocabulary(continues=(11,))) == [[1, 3]]


def mask(ids, **kwargs):
    arguments = {"rate": 0.15, "most": 8, "rng": np.random.default_rng(0)} | kwargs
    return spans.whole_word_mask(np.array(ids), vocabulary(continues=(11, 12)), **arguments)


def test_pieces_of_a_word_are_hidden_together():
    for seed in range(50):
        result = mask([CLS, 20, 10, 11, 12, 21, SEP], rate=0.6, rng=np.random.default_rng(seed))
        hidden = set(result.positions[result.weights == 1].tolist())
        assert hidden & {2, 3, 4} in (set(), {2, 3, 4})


def test_labels_are_the_original_tokens_and_unused_slots_weigh_nothing():
    ids = [CLS, *range(20, 40), SEP, PAD, PAD]
    result = mask(ids)
    assert result.weights.tolist() == [1, 1, 1, 0, 0, 0, 0, 0]  # round(0.15 * 20) = 3
    real = result.weights == 1
    assert result.labels[real].tolist() == [ids[p] for p in result.positions[real]]


def test_eight_in_ten_become_mask_one_in_ten_random_one_in_ten_stays():
    ids = np.array([CLS, *range(20, 60), SEP])
    seen = {"mask": 0, "same": 0, "random": 0}
    for seed in range(500):
        result = mask(ids, rate=0.5, most=20, rng=np.random.default_rng(seed))
        for position, label in zip(result.positions, result.labels, strict=True):
            token = result.ids[position]
            seen["mask" if token == MASK else "same" if token == label else "random"] += 1
    shares = np.array(list(seen.values())) / 10_000
    assert shares == pytest.approx(
        [0.8 + 0.001, 0.1 + 0.001, 0.098], abs=0.015
    )  # a random id may be the same, or [MASK]


def test_special_tokens_and_padding_are_never_hidden():
    for seed in range(50):
        result = mask([CLS, 20, UNK, 21, SEP, PAD, PAD], rate=0.9, rng=np.random.default_rng(seed))
        assert set(result.positions[result.weights == 1].tolist()) <= {1, 3}
