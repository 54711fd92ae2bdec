"""Ten times the text takes about ten times as long, whatever it holds: quadratic code takes a hundred times."""

import time

import numpy as np
import pytest

from dense_jax.data import answers, held_out
from dense_jax.data.dedup import buckets, words
from dense_jax.data.preparation.entries import split_documents
from dense_jax.data.salient import names, taggers, tokens
from dense_jax.data.salient.patterns import Patterns
from dense_jax.data.salient.tokens import Tagged, tokenised_spans
from dense_jax.data.sentence_split import split_sentences
from dense_jax.data.sources.lines import lines
from dense_jax.data.sources.readers import jsonl_records
from dense_jax.data.tokenizer import Tokenizer
from dense_jax.types import Document

SIZE = 5_000  # characters; the longer text has ten times as many
MOST = 40  # times as long: the guard is against 100, on machines with other work

SHAPES = {
    "one word": "a",
    "spaces": " ",
    "full stops": ".",
    "initials": "J. ",
    "abbreviations": "e.g. ",
    "acronym": "U.",
    "doubtful ends": "et al. the ",
    "lines": "a\n",
    "indented lines": " a\nb\n",
    "underlines": "a\n---\n",
    "brackets": "a.\nx(",
    "quotes": "\"'",
    "accents": "e\u0301",
    "one letter of accents": "\u0301",
    "Chinese": "漢。",
    "prose": "the quick brown fox. ",
    "one sentence": "the quick brown fox ",
    "names": "Aa bb ",
    "names joined": "Aa of ",
    "numbers": "1,",
    "dates": "1 January, ",
    "spelled numbers": "five hundred and ",
    "currency": "$1 ",
    "hyphens": "a-",
}


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(["the quick brown fox jumps over the lazy dog."] * 20, 150, lowercase=True)


def document(text):
    return Document("id", "a title", text)


def tagged(text):
    taggers.sentence_words.cache_clear()
    names._cached_usage.cache_clear()
    tagger = taggers.Union((Patterns(), names.CapitalisedRuns(), names.Gazetteer(["Aa", "x y"]), taggers.RandomSpans()))
    return Tagged(document(text), tagger(document(text)))


FUNCTIONS = {
    "sentences": lambda text, _: split_sentences(text),
    "vocabulary": lambda text, _: Tokenizer.train([text], 150, lowercase=True),
    "tokens": lambda text, tokenizer: tokenizer.encode([text]),
    "places of tokens": lambda text, tokenizer: tokenizer.encode_placed([text]),
    "passages": lambda text, tokenizer: list(split_documents([document(text)], tokenizer, 64)),
    "held-out query": lambda text, _: held_out._query(document(text)),
    "held-out rest": lambda text, _: held_out._rest(f"a {text}"),
    "near-duplicates": lambda text, _: buckets(0.8)(text),
    "equal words": lambda text, _: words(text),
    "salient spans": lambda text, tokenizer: list(tokenised_spans([tagged(text)], tokenizer)),
    "SQuAD": lambda text, _: answers.squad_normalised(text),
    "NQ-open": lambda text, _: answers.nq_open_normalised(text),
    "answers": lambda text, _: answers.has_answer(text, ["a b c", "the the"]),
}


def ratio(work, small, large):
    """How many times as long the larger input takes, by the quicker of two runs in processor time."""
    return quicker(work, large) / max(quicker(work, small), 1e-3)


def quicker(work, given):
    taken = []
    for _ in range(2):
        began = time.process_time()
        work(given)
        taken.append(time.process_time() - began)
    return min(taken)


@pytest.mark.slow
@pytest.mark.parametrize("function", FUNCTIONS)
def test_ten_times_the_text_takes_no_more_than_its_share(tokenizer, function):
    for shape, piece in SHAPES.items():
        small, large = (piece * (size // len(piece)) for size in (SIZE, 10 * SIZE))
        assert ratio(lambda text: FUNCTIONS[function](text, tokenizer), small, large) < MOST, shape


@pytest.mark.slow
def test_ten_times_the_rows_take_no_more_than_their_share(tmp_path):
    def written(rows):
        path = tmp_path / f"{rows}.jsonl"
        path.write_text('{"id": "1", "text": "a"}\n' * rows)
        return path

    small, large = written(SIZE // 10), written(SIZE)
    assert ratio(lambda path: list(jsonl_records(path, 1 << 20)), small, large) < MOST
    one_line = [tmp_path / name for name in ("small", "large")]
    for path, size in zip(one_line, (SIZE, 10 * SIZE), strict=True):
        path.write_text("a" * size)
    assert ratio(lambda path: list(lines(path, 100)), *one_line) < MOST


def test_each_salient_span_is_sought_among_the_tokens_around_it(monkeypatch):
    seen = []

    def counting(places, *rest):
        seen.append(len(places))
        return inside(places, *rest)

    inside = tokens._inside
    monkeypatch.setattr(tokens, "_inside", counting)
    places = (np.arange(2_000).reshape(-1, 2) * 2).astype(np.int32)
    tokens.covered([tuple(place) for place in places.tolist()], places)
    assert sum(seen) <= 2 * len(places)


class Counted(str):
    """A word that counts how often words are compared."""

    compared = 0

    def __eq__(self, other):
        Counted.compared += 1
        return str.__eq__(self, other)

    __hash__ = str.__hash__


def test_queries_that_start_alike_do_not_make_the_look_for_their_copies_slower(monkeypatch):
    monkeypatch.setattr(held_out, "_normal", lambda text: tuple(Counted(word) for word in text.split()))
    sentences = {tuple(Counted(word) for word in f"this is the page {i}".split()) for i in range(500)}
    Counted.compared = 0
    found = held_out._occurrences(sentences, [document("this is the page 7 " * 400)])
    assert sum(found.values()) == 400
    assert Counted.compared < 20 * (400 + 500)  # for each place and each query once; 1,000,000 for each pair of them
