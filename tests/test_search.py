"""Search from text to text, with an encoder that is right by construction: a text's vector counts its tokens."""

from dataclasses import dataclass

import jax
import numpy as np
import pytest

from dense_jax.config import IndexConfig, IndexKind, MeshConfig
from dense_jax.contracts import Document, Passage, Ranking, Tower, Vocabulary
from dense_jax.errors import ConfigError
from dense_jax.mesh import make_mesh
from dense_jax.retrieval.embed import embed
from dense_jax.retrieval.index import build
from dense_jax.retrieval.search import Hit, dense, render, search

TEXTS = {"tea": "tea tea water", "sea": "water salt water", "cake": "flour salt tea"}
WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", "tea", "water", "salt", "flour"]
FLAGS = np.zeros(len(WORDS), bool)
VOCABULARY = Vocabulary(size=len(WORDS), pad=0, cls=1, sep=2, unk=3, mask=4, special=FLAGS, continues=FLAGS)


@dataclass(frozen=True)
class CountsOfWords:
    """The inner product of two texts is the number of pairs of equal words."""

    width: int = len(WORDS)

    def init(self, rng):
        return {}

    def apply(self, params, tokens, *, rng=None):
        return jax.nn.one_hot(tokens.ids, self.width).sum(1).at[:, :5].set(0)  # special tokens are no words


class Words:
    vocabulary = VOCABULARY

    def encode(self, texts):
        return [np.array([WORDS.index(word) for word in text.split()], np.int32) for text in texts]


class Store:
    """One passage for each of TEXTS; titles are their ids in capitals."""

    def __len__(self):
        return len(TEXTS)

    def __getitem__(self, row):
        return self.passages([row])[0]

    def ids(self):
        return list(TEXTS)

    def document(self, row):
        name = self.ids()[row]
        return Document(name, name.upper(), TEXTS[name])

    def passages(self, rows):
        tokens = Words().encode([self.document(row).text for row in rows])
        return [Passage(row, np.array([], int), body, np.array([0])) for row, body in zip(rows, tokens, strict=True)]


@pytest.fixture
def find(tmp_path):
    mesh, tower = make_mesh(MeshConfig()), Tower(CountsOfWords(), {}, length=16)
    vectors = embed(Store(), tower, Words(), mesh, tmp_path / "vectors", batch=8, shard_size=8, made_by={})
    index = build(vectors, IndexConfig(kind=IndexKind.EXACT), tmp_path / "index", mesh)
    return dense(index, tower, Words())


def test_text_goes_in_and_the_best_texts_come_out(find):
    assert search(find, Store(), ["water"], 2) == [
        [Hit(2.0, "sea", "SEA", "water salt water"), Hit(1.0, "tea", "TEA", "tea tea water")]
    ]


def test_each_query_gets_its_own_results(find):
    found = search(find, Store(), ["water salt", "tea"], 1)
    assert [[hit.id for hit in hits] for hits in found] == [["sea"], ["tea"]]


def test_empty_places_are_no_hits():
    def one(queries, k):
        return Ranking(np.array([[1.0, -np.inf]]), np.array([[2, -1]]))

    assert [hit.id for hit in search(one, Store(), ["q"], 2)[0]] == ["cake"]


def test_more_results_than_passages_are_refused(find):
    with pytest.raises(ConfigError, match="k=4 results were asked of an index with 3 vectors; use at most 3"):
        search(find, Store(), ["tea"], 4)


def test_results_are_rendered_with_rank_score_title_and_text():
    hits = [Hit(0.71828, "d1", "Radium", "It glows."), Hit(-3.0, "d2", "", "No title.")]
    assert render("what glows", hits, 80) == (
        "what glows\n   1   0.718  Radium\n              It glows.\n   2  -3.000  d2\n              No title."
    )


def test_a_long_text_is_wrapped_and_cut_to_three_lines():
    lines = render("q", [Hit(1.0, "d", "title " * 20, "word " * 1000)], 60).splitlines()
    assert len(lines) == 1 + 1 + 3
    assert max(map(len, lines)) <= 60
    assert lines[1].endswith(" ...") and lines[-1].endswith(" ...")


def test_a_document_cannot_steer_the_terminal():
    assert "\x1b" not in render("q\x1b[2J", [Hit(1.0, "d", "\x1b[31mred", "a\x1b]0;owned\x07b")], 80)


def test_a_query_that_found_nothing_says_so():
    assert render("q", [], 80) == "q\n  nothing found"
