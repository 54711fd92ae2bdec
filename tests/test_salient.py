import gzip
import json
from itertools import pairwise

import pytest

from dense_jax.data.salient.names import CapitalisedRuns, Gazetteer
from dense_jax.data.salient.patterns import Patterns
from dense_jax.data.salient.taggers import (
    Precomputed,
    RandomSpans,
    SpanTagger,
    Union,
    salient_sentences,
    sentence_ranges,
    without_overlaps,
)
from dense_jax.errors import DataError
from dense_jax.types import Document

TITLES = ["Paris", "Mercury (planet)", "Art", "Art of War", "The", "X", "42", "New York"]
TAGGERS = [Patterns(), CapitalisedRuns(), Gazetteer(TITLES), RandomSpans()]


def document(text):
    return Document("d", "", text)


def found(tagger, text):
    return [text[start:end] for start, end in tagger(document(text))]


def names(text):
    return found(CapitalisedRuns(), text)


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        ("born 4 May 1912, died May 4th, 1990.", ["4 May 1912", "May 4th, 1990"]),
        ("on 2004-05-06 or 5/6/2004, in June 1999", ["2004-05-06", "5/6/2004", "June 1999"]),
        ("from 1914-18 to the 1990s, in 44 BC and AD 79", ["1914-18", "1990s", "44 BC", "AD 79"]),
        ("in the nineteenth century or a 12th-century", ["the nineteenth century", "12th-century"]),
        ("it has 1,234,567 and 3.14 but 7 is too small", ["1,234,567", "3.14"]),
        ("two million, 30 million lines and twenty-one of them", ["two million", "30 million", "twenty-one"]),
        ("5 kilometres, ten years and 3 to 12 hours", ["5 kilometres", "ten years", "3 to 12 hours"]),
        ("2,100 km/h over 9 km² or 12 km", ["2,100 km/h", "9 km²", "12 km"]),
        ("US$300, £6 million or 40 francs", ["US$300", "£6 million", "40 francs"]),
        ("12%, 5–10% and 25 per cent", ["12%", "5–10%", "25 per cent"]),  # noqa: RUF001
        ("x86, A4000, 1.2.3.4, Luke 12:34 and v2019b", []),
    ],
)
def test_patterns_find_whole_dates_and_amounts(text, spans):
    assert found(Patterns(), text) == spans


@pytest.mark.parametrize(
    ("text", "spans"),
    [
        ("we met Joan of Arc and Ludwig van der Rohe in Paris", ["Joan of Arc", "Ludwig van der Rohe", "Paris"]),
        ("then I said that The Who and he saw The Walt Disney Company", ["Walt Disney Company"]),
        ("Dogs bark. The Romans came. John Smith left.", ["Romans", "John Smith"]),
        ("Rome fell. We saw Rome.", ["Rome", "Rome"]),
        ("Caves are deep. I like caves, caves and The Caves.", ["Caves"]),  # more often without: only inside
        ("Early Christians left early.", ["Christians"]),
        ("Bank of England notes, from the bank.", ["Bank of England"]),
        ("the Second World War and World War I. It met", ["Second World War", "World War I"]),
        ("Second Army men saw the Army", ["Army", "Army"]),
        ("with Napoleon's army and Dr. J. R. Smith of the U.S. Navy", ["Napoleon", "Dr. J. R. Smith of the U.S. Navy"]),
        ("in Rome, Paris; Bonn", ["Rome", "Paris", "Bonn"]),
        ("see A B C D E F G H I J.", []),  # longer than a name
        ("bank of the west of", []),
    ],
)
def test_names_by_their_capitals(text, spans):
    assert names(text) == spans


def test_a_run_does_not_end_in_a_small_word_nor_cross_a_sentence():
    assert names("he met Ann of the house. Bob Ray left for Rome of\n\nOld Kent Road") == [
        "Ann",
        "Bob Ray",
        "Rome",
        "Old Kent Road",
    ]


def test_the_longest_title_at_the_edges_of_words():
    text = "he saw Mercury, New York and the Art of War in Paris, not Parisian Art works."
    assert found(Gazetteer(TITLES), text) == ["Mercury", "New York", "Art of War", "Paris"]
    assert found(Gazetteer(["New York City Hall", "York"]), "it is New York") == []  # a part of a run; cut at the end
    assert found(Gazetteer(["lawyer"]), "a lawyer, lawyers") == ["lawyer"]


def test_a_single_title_that_begins_a_sentence_needs_its_capital_elsewhere():
    assert found(Gazetteer(["Music"]), "Music is old.") == []
    assert found(Gazetteer(["Music"]), "Music is old. They call it Music.") == ["Music", "Music"]


def test_of_overlapping_spans_the_longest_stays_then_the_earliest():
    assert without_overlaps([(0, 4), (3, 9), (8, 12)]) == [(3, 9)]
    assert without_overlaps([(2, 5), (0, 3), (5, 6)]) == [(0, 3), (5, 6)]
    assert without_overlaps([]) == []
    text = "he left on 4 May 1912 for New York"
    assert found(Union((CapitalisedRuns(), Patterns())), text) == ["4 May 1912", "New York"]


def test_random_spans_depend_on_seed_and_text_alone():
    text = "some words that stand here in a row " * 40
    spans = RandomSpans()(document(text))
    assert spans and spans == RandomSpans()(Document("other", "title", text))
    assert spans != RandomSpans(seed=1)(document(text))
    assert all(text[start - 1 : start] in ("", " ") and text[end : end + 1] in ("", " ") for start, end in spans)
    lengths = [len(text[start:end].split()) for start, end in spans]
    assert max(lengths) <= 10 and 0.05 < sum(lengths) / len(text.split()) < 0.25
    assert {len(one.split()) for one in found(RandomSpans(longest=1), text)} == {1}


def precomputed(path, *rows):
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return Precomputed(path)


def test_spans_of_a_file_by_document(tmp_path):
    tagger = precomputed(
        tmp_path / "spans.jsonl",
        {"id": "e", "spans": []},
        {"id": "d", "spans": [[4, 5], [0, 2, "né"], [1, 5]]},
        {"id": 3, "spans": [[0, 1]]},
    )
    assert tagger(document("née x")) == [(1, 5)]
    assert tagger(Document("3", "", "a")) == [(0, 1)]
    assert tagger(Document("e", "", "")) == []
    packed = tmp_path / "spans.jsonl.gz"
    packed.write_bytes(gzip.compress((tmp_path / "spans.jsonl").read_bytes()))
    assert Precomputed(packed)(Document("3", "", "a")) == [(0, 1)]


def test_spans_of_another_corpus_are_refused(tmp_path):
    tagger = precomputed(tmp_path / "spans.jsonl", {"id": "d", "spans": [[0, 3, "née"], [4, 6]]})
    with pytest.raises(DataError, match="no line for document 'x'; tag the same corpus"):
        tagger(Document("x", "", "née xy"))
    with pytest.raises(DataError, match=r"document 'd': the span \[4, 6\] ends beyond its 5 characters; .*not bytes"):
        tagger(document("née x"))
    with pytest.raises(DataError, match=r"\[0, 3\] holds 'nie', and not 'née'"):
        tagger(document("nie xy"))


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"spans": []}, "the document id is None"),
        ({"id": "e"}, "the spans are None"),
        ({"id": "d", "spans": []}, "document 'd' has a line already"),
        *[
            ({"id": "e", "spans": [span]}, r"one of the spans is .*not \[start, end\]")
            for span in ([1], [2, 2], [3, 1], [-1, 2], [0, 1.5], [True, 2], [0, 1, 2], [0, 1, "a", "b"], 3)
        ],
    ],
)
def test_a_bad_line_of_spans_is_told(tmp_path, row, reason):
    with pytest.raises(DataError, match=rf"spans\.jsonl:2: {reason}"):
        precomputed(tmp_path / "spans.jsonl", {"id": "d", "spans": [[0, 1]]}, row)


def test_sentences_have_the_spans_inside_them_where_white_space_is_collapsed():
    text = "  He saw\n New   York. \n\nIt is big. Paris too."
    spans = [(10, 20), (18, 29), (text.index("Paris") - 1, text.index("Paris") + 6), (0, 2)]
    sentences = salient_sentences(text, spans)
    assert [(one.text, [one.text[start:end] for start, end in one.spans]) for one in sentences] == [
        ("He saw New York.", ["New York"]),
        ("It is big.", []),
        ("Paris too.", ["Paris"]),
    ]
    assert [text[start:end] for start, end in sentence_ranges(text)] == [
        "He saw\n New   York.",
        "It is big.",
        "Paris too.",
    ]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("tagger", TAGGERS, ids=lambda tagger: type(tagger).__name__)
@pytest.mark.parametrize("unit", ["x", "X", "1", "1,", "A.", "$", "a-", "I'", "é", "。", "The ", "of ", "1 to "])
def test_a_long_text_of_any_kind_is_tagged(tagger, unit):
    text = unit * (1_000_000 if unit in ("x", "1") else 20_000)
    spans = tagger(document(text))
    assert isinstance(tagger, SpanTagger)
    assert all(0 <= start < end <= len(text) for start, end in spans)
    assert all(before[1] <= after[0] for before, after in pairwise(spans))


@pytest.mark.parametrize("tagger", TAGGERS, ids=lambda tagger: type(tagger).__name__)
@pytest.mark.parametrize("text", ["", " \n ", "\ud800 X Y", "Ünïcode Ärger", "e\u0301 E\u0301cole"])
def test_odd_texts_are_tagged(tagger, text):
    assert all(0 <= start < end <= len(text) for start, end in tagger(document(text)))
    salient_sentences(text, tagger(document(text)))
