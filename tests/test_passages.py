import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dense_jax.data.inputs import build_inputs
from dense_jax.data.sentence_split import pack_sentences, split_sentences
from dense_jax.types import Layout, Vocabulary

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("One. Two! Three? Four", ["One.", "Two!", "Three?", "Four"]),
        ('He said "stop." Then he left.', ['He said "stop."', "Then he left."]),
        ("Mr. Smith met Dr. J. R. Jones.", ["Mr. Smith met Dr. J. R. Jones."]),
        ("Use it, e.g. NumPy, i.e. Arrays. See Fig. 3.", ["Use it, e.g. NumPy, i.e. Arrays.", "See Fig. 3."]),
        ("Pi is 3.14 and version 1.2.3 is out. Good.", ["Pi is 3.14 and version 1.2.3 is out.", "Good."]),
        ("It ended in 1990. Then came 1991.", ["It ended in 1990.", "Then came 1991."]),
        ("The U.S. Army came to the U.S. The end.", ["The U.S. Army came to the U.S.", "The end."]),
        ("Smith et al. Nature showed it. Yes.", ["Smith et al. Nature showed it.", "Yes."]),
        ("Wait... what? Yahoo! is here.", ["Wait... what?", "Yahoo! is here."]),
        ("这是第一句。这是第二句。", ["这是第一句。", "这是第二句。"]),
        ("", []),
        (" \n\t\n ", []),
    ],
)
def test_a_terminator_ends_a_sentence_but_an_abbreviation_an_initial_or_a_number_does_not(text, sentences):
    assert split_sentences(text) == sentences


def test_a_wrapped_sentence_is_joined_and_a_blank_line_ends_one_without_a_full_stop():
    assert split_sentences("A heading\n\nThis line is\nwrapped by hand.") == [
        "A heading",
        "This line is wrapped by hand.",
    ]


def test_a_long_unwrapped_line_is_a_paragraph_of_its_own():
    long = "word " * 30 + "without a stop"
    assert split_sentences(f"{long}\nAnother paragraph") == [long, "Another paragraph"]


def test_each_list_item_is_a_sentence():
    assert split_sentences("Either:\n- the first\n- the second,\n  longer one\n1. numbered") == [
        "Either:",
        "- the first",
        "- the second, longer one",
        "1. numbered",
    ]


def test_a_docstring_comes_apart_into_its_parameters():
    docstring = """Sum of elements.

    Parameters
    ----------
    a : array_like
        Elements to sum.
    axis : None or int
        Axis along which
        the sum is taken.
    dtype : dtype
        The type.

    >>> sum([1, 2])
    3
    """
    assert split_sentences(docstring) == [
        "Sum of elements.",
        "Parameters ----------",
        "a : array_like Elements to sum.",
        "axis : None or int Axis along which the sum is taken.",
        "dtype : dtype The type.",
        ">>> sum([1, 2]) 3",
    ]


@given(st.text(alphabet=st.sampled_from("aB1 .!?。\n\t-*:('\"=\x85\u2028é"), max_size=200) | st.text(max_size=200))
def test_sentences_together_hold_every_character_that_is_not_white_space(text):
    sentences = split_sentences(text)
    assert "".join("".join(sentences).split()) == "".join(text.split())
    assert all(s == " ".join(s.split()) and s for s in sentences)


@pytest.mark.timeout(20)  # a linear splitter needs well under a second for each, a quadratic one hours
@pytest.mark.parametrize(
    "piece",
    [
        *("....", "A.B.C", "\n", " \n\t", "x: ", "= \n", "[\"'", "e.g. "),
        *(pytest.param(piece, marks=pytest.mark.slow) for piece in ("a. ", "- a\n", "字。")),
    ],
)
def test_a_long_text_of_one_repeated_piece_is_split_in_linear_time(piece):
    text = piece * (400_000 // len(piece))
    assert sum(len(s.replace(" ", "")) for s in split_sentences(text)) == len("".join(text.split()))


@pytest.mark.parametrize("case", json.loads((GOLDEN / "condenser/data.json").read_text())["packing"])
def test_packing_equals_the_condenser_reference(case):
    lengths = case["sentence_lengths"]
    assert [sum(lengths[i] for i in run) for run in pack_sentences(lengths, case["target_length"])] == case[
        "block_lengths"
    ]


def test_packing_counts_the_title_and_three_special_tokens_as_orqa_does():
    title = 5
    assert pack_sentences([140, 140], target=288, overhead=3 + title) == [
        range(2)
    ]  # 3 + 5 + 140 + 140 = 288 still fits
    assert pack_sentences([140, 141], target=288, overhead=3 + title) == [range(1), range(1, 2)]


def test_packing_gives_an_over_long_sentence_a_passage_of_its_own_and_keeps_the_last_partial_one():
    assert pack_sentences([4, 300, 4, 4], target=10) == [range(1), range(1, 2), range(2, 4)]


def test_packing_draws_a_target_for_every_passage():
    targets = iter([2, 6, 4])
    assert pack_sentences([1, 1, 3, 3, 1], target=lambda: next(targets)) == [range(2), range(2, 4), range(4, 5)]


def test_packing_nothing_gives_nothing():
    assert pack_sentences([], target=10) == []


@given(st.lists(st.integers(0, 50)), st.integers(1, 60))
def test_packing_keeps_every_sentence_once_and_in_order(lengths, target):
    runs = pack_sentences(lengths, target)
    assert [i for run in runs for i in run] == list(range(len(lengths)))
    assert all(len(run) == 1 or sum(lengths[i] for i in run) <= target for run in runs)


def vocabulary(**changes):
    none = np.zeros(8, bool)
    ids = {"size": 8, "pad": 0, "unk": 1, "cls": 101, "sep": 102, "mask": 4} | changes
    return Vocabulary(**ids, special=none, continues=none)


@pytest.mark.parametrize("sentence", [0, 1, 2])
def test_the_pair_layout_equals_the_ict_reference(sentence):
    golden = np.load(GOLDEN / "realm/layout_ict.npz")
    tokens, starts = golden["token_ids"], [*golden["sentence_starts"], len(golden["token_ids"])]
    removed = np.concatenate([tokens[: starts[sentence]], tokens[starts[sentence + 1] :]])
    for body, name in [(tokens, f"q{sentence}_masked0"), (removed, f"q{sentence}_masked1")]:
        laid = build_inputs(golden["title_ids"], body, int(golden["block_seq_len"]), Layout.PAIR, vocabulary())
        np.testing.assert_array_equal(laid.ids, golden[f"{name}_block_ids"])
        np.testing.assert_array_equal(laid.types, golden[f"{name}_block_segment_ids"])
        np.testing.assert_array_equal(laid.mask, golden[f"{name}_block_mask"])


@pytest.mark.parametrize("sentence", [0, 1, 2])
def test_the_body_layout_equals_the_ict_query_reference(sentence):
    golden = np.load(GOLDEN / "realm/layout_ict.npz")
    starts = [*golden["sentence_starts"], len(golden["token_ids"])]
    query = golden["token_ids"][starts[sentence] : starts[sentence + 1]]
    laid = build_inputs(golden["title_ids"], query, int(golden["query_seq_len"]), Layout.BODY, vocabulary())
    np.testing.assert_array_equal(laid.ids, golden[f"q{sentence}_masked0_query_ids"])
    np.testing.assert_array_equal(laid.mask, golden[f"q{sentence}_masked0_query_mask"])


def test_a_joined_title_stands_before_the_body_in_one_segment_and_the_end_is_cut():
    laid = build_inputs(np.array([7, 8]), np.array([20, 21, 22, 23]), 6, Layout.JOINED, vocabulary())
    assert laid.ids.tolist() == [101, 7, 8, 20, 21, 102]
    assert laid.types.tolist() == [0] * 6


def test_a_title_longer_than_the_sequence_leaves_the_body_empty():
    laid = build_inputs(np.arange(10, 20), np.array([20, 21]), 6, Layout.PAIR, vocabulary())
    assert laid.ids.tolist() == [101, 10, 11, 12, 102, 102]
    assert laid.types.tolist() == [0, 0, 0, 0, 0, 1]


def test_pads_take_the_pad_id_of_the_vocabulary():
    laid = build_inputs(np.array([], np.int32), np.array([20]), 5, Layout.BODY, vocabulary(pad=9))
    assert laid.ids.tolist() == [101, 20, 102, 9, 9]
    assert laid.ids.dtype == laid.types.dtype == np.int32
    assert laid.mask.tolist() == [True, True, True, False, False]
