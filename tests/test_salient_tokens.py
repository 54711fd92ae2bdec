"""Which tokens a salient span has: places of tokens in their text, for each kind of tokenizer, and spans by them."""

from itertools import pairwise

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from dense_jax.data.salient.taggers import without_overlaps
from dense_jax.data.salient.tokens import Tagged, covered, tagged, tokenised_spans
from dense_jax.data.sentence_split import split_sentences
from dense_jax.data.sentences import tokenised
from dense_jax.data.tokenizer import Tokenizer
from dense_jax.data.tokenizer_import import import_folder
from dense_jax.types import Document
from tests.roberta_folders import multilingual_bert_tokenizer, roberta_tokenizer, xlm_roberta_tokenizer

MADE = {"xlm_roberta": xlm_roberta_tokenizer, "roberta": roberta_tokenizer, "bert": multilingual_bert_tokenizer}
KINDS = [*MADE, "untrimmed", "lowercase"]
TEXTS = [
    "The lighthouse keeper's light (3.14)!",
    "  two  spaces, and one behind ",
    "Der Leuchtturmwärter hütet das Licht.",
    " São Paulo CAFÉ",
    "灯塔看守人 keeper 守着灯。",
    "light<mask> keeper </s> [MASK]",
    "emoji 🗼 and \t a tab",
    "",
]


@pytest.fixture(scope="module")
def kinds(tmp_path_factory):
    """Tokenizers of every kind: SentencePiece, byte-level (with and without space in its places), WordPiece."""
    root = tmp_path_factory.mktemp("tokenizers")
    found = {name: import_folder(make(root / name)) for name, make in MADE.items()}
    untrimmed = tokenizers.Tokenizer.from_str(found["roberta"].backend.to_str())
    untrimmed.post_processor = tokenizers.processors.ByteLevel(trim_offsets=False)
    lowercase = Tokenizer.train(["keeper's light of lighthouse São Paulo, 3.14 Napoleon"] * 3, 80, lowercase=True)
    return found | {"untrimmed": Tokenizer(untrimmed, found["roberta"].special), "lowercase": lowercase}


def places(tokenizer, text):
    """Where the characters begin that each piece stands for, and which they are; None: it stands for none."""
    (found,) = tokenizer.encode_placed([text])
    return [(start, text[start:end]) if start < end else None for start, end in found.places.tolist()]


@pytest.mark.parametrize("kind", KINDS)
def test_placed_ids_are_those_without_places(kinds, kind):
    placed = kinds[kind].encode_placed(TEXTS)
    assert [ids.tolist() for ids, _ in placed] == [ids.tolist() for ids in kinds[kind].encode(TEXTS)]
    assert all(places.shape == (len(ids), 2) for ids, places in placed)


@pytest.mark.parametrize("kind", KINDS)
def test_together_the_pieces_stand_for_every_character_but_the_spaces(kinds, kind):
    for text in TEXTS:
        (found,) = kinds[kind].encode_placed([text])
        covered = {place for start, end in found.places for place in range(start, end)}
        assert covered == {place for place, character in enumerate(text) if not character.isspace()}


def test_a_word_piece_stands_for_characters_whose_case_and_accents_it_has_not(kinds):
    assert places(kinds["lowercase"], "SÃO Sa\u0303o keeper's") == [
        (0, "SÃO"),
        (4, "Sa\u0303o"),
        (9, "keeper"),
        (15, "'"),
        (16, "s"),
    ]


@pytest.mark.parametrize("kind", ["roberta", "untrimmed"])
def test_byte_level_pieces_of_one_character_stand_for_all_of_it_each(kinds, kind):
    assert places(kinds[kind], "É 🗼 é") == [
        *[(0, "É")] * 2,
        None,  # the space
        *[(2, "🗼")] * 4,
        None,
        *[(4, "é")] * 2,
    ]


@pytest.mark.parametrize("kind", ["roberta", "untrimmed"])
def test_a_byte_level_piece_does_not_stand_for_the_space_in_it(kinds, kind):
    assert places(kinds[kind], "the keeper the") == [(0, "the"), (4, "keeper"), (11, "the")]


def test_a_sentence_piece_that_is_a_space_alone_stands_for_nothing(kinds):
    assert places(kinds["xlm_roberta"], "keeper (灯塔)") == [
        (0, "keeper"),
        None,
        (7, "("),
        (8, "灯塔"),
        (10, ")"),
    ]


def test_a_lone_surrogate_is_refused_with_the_text(kinds):
    with pytest.raises(Exception, match="holds a lone surrogate, which is no character; remove it"):
        kinds["bert"].encode_placed(["fine", "not \ud800 fine"])


PLACES = np.array([[0, 3], [4, 8], [8, 10], [10, 10], [11, 14]])  # the fourth is a space


@pytest.mark.parametrize(
    ("spans", "tokens"),
    [
        ([(4, 10)], [[1, 3]]),
        ([(4, 9)], [[1, 2]]),  # covers the third token in part
        ([(5, 9)], []),  # two in part, none wholly
        ([(0, 10), (11, 14)], [[0, 3], [4, 5]]),
        ([(8, 14)], [[2, 5]]),  # the space inside is masked too
        ([(3, 4), (10, 11)], []),
        ([], []),
    ],
)
def test_a_token_belongs_to_a_span_if_it_lies_wholly_inside(spans, tokens):
    assert covered(spans, PLACES).tolist() == tokens
    assert covered(spans, PLACES).shape == (len(tokens), 2)


def decoded(tokenizer, text, spans, title=""):
    """The spans of each sentence, in words."""
    (found,) = tokenised_spans([Tagged(Document("d", title, text), spans)], tokenizer)
    return [
        [tokenizer.decode(ids[start:end]).strip() for start, end in own]
        for (_, ids), own in zip(found.tokens.sentences, found.spans, strict=True)
    ]


@pytest.mark.parametrize("title", ["", "The light"])  # a space stands before the first sentence, if there is a title
@pytest.mark.parametrize("kind", KINDS)
def test_spans_are_found_in_each_sentence_of_any_tokenizer(kinds, kind, title):
    text = "The keeper left Paulo.\n\nA  light\nof São  Paulo."
    names = ["keeper", "Paulo", "light\nof São  Paulo"]
    spans = [(text.index(name), text.index(name) + len(name)) for name in names]
    found = decoded(kinds[kind], text, spans, title)
    expected = [["keeper", "Paulo"], ["light of São Paulo"]]
    if kind == "lowercase":
        expected = [["keeper", "paulo"], ["light of sao paulo"]]
    if kind == "bert":
        assert [[len(span) > 0 for span in own] for own in found] == [[True, True], [True]]  # it has unknown words
    else:
        assert found == expected


def test_a_span_that_crosses_the_end_of_a_sentence_is_left_out(kinds):
    text = "The keeper left. São Paulo kept the light."
    assert decoded(kinds["lowercase"], text, [(4, 10), (11, 26), (36, 41)]) == [["keeper"], ["light"]]


def test_a_span_without_a_whole_token_is_left_out(kinds):
    text = "The keeper left Napoleon."
    assert decoded(kinds["lowercase"], text, [(4, 7), (16, 24)]) == [["napoleon"]]


def test_sentences_without_ids_are_left_out_and_the_spans_stay_with_the_others(kinds):
    # control characters, which BERT's tokenizer takes away, as a sentence of their own
    text = "The keeper left.\n\n\u0001\u0002\n\nThe light of Paulo."
    tokenizer = kinds["lowercase"]
    (plain,) = tokenised([Document("d", "", text)], tokenizer)
    assert len(plain.sentences) == len(split_sentences(text)) - 1 == 2
    spans = [(text.index(name), text.index(name) + len(name)) for name in ("\u0001", "Paulo")]
    assert decoded(tokenizer, text, spans) == [[], ["paulo"]]


def test_a_document_without_its_held_out_sentence_keeps_the_spans_of_the_rest():
    documents = [Document(name, "", "In Rome it rained.  In Paris the sun shone.") for name in ("asked", "other")]
    spans = [(3, 7), (15, 27), (23, 28)]  # the second reaches from one sentence into the other
    asked, other = tagged(documents, lambda document: spans, {"asked": "In Rome it rained."})
    assert asked.document.text == "In Paris the sun shone."
    assert [asked.document.text[start:end] for start, end in asked.spans] == ["Paris"]
    assert (other.document, other.spans) == (documents[1], spans)


words = st.text("aéñ灯🗼'-. \n", max_size=60)


@settings(deadline=None, max_examples=40)
@given(words, st.lists(st.tuples(st.integers(0, 60), st.integers(1, 9)), max_size=6))
def test_spans_are_in_order_apart_and_each_in_one_sentence_and_its_tokens_lie_in_it(kinds, text, drawn):
    spans = without_overlaps((start, start + length) for start, length in drawn if start + length <= len(text))
    document = Document("d", "", text)
    for tokenizer in kinds.values():
        (found,) = tokenised_spans([Tagged(document, spans)], tokenizer)
        (plain,) = tokenised([document], tokenizer)
        assert [(s, ids.tolist()) for s, ids in found.tokens.sentences] == [
            (s, ids.tolist()) for s, ids in plain.sentences
        ]
        for (_, ids), own in zip(found.tokens.sentences, found.spans, strict=True):
            assert all(0 <= start < end <= len(ids) for start, end in own)
            assert all(before[1] <= after[0] for before, after in pairwise(own.tolist()))


@given(
    st.lists(st.tuples(st.integers(0, 12), st.integers(0, 3)), max_size=8),
    st.lists(st.tuples(st.integers(0, 12), st.integers(1, 6)), max_size=4),
)
def test_the_tokens_of_a_span_are_those_inside_whatever_the_order_of_their_places(tokens, spans):
    places = np.array([(start, start + size) for start, size in tokens], np.int32).reshape(-1, 2)
    found = []
    for first, size in spans:
        inside = [i for i, (a, b) in enumerate(places.tolist()) if first <= a < b <= first + size]
        found += [[inside[0], inside[-1] + 1]] if inside else []
    assert covered([(first, first + size) for first, size in spans], places).tolist() == found
