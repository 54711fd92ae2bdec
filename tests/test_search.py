"""Search from text to text, with an encoder that is right by construction: a text's vector counts its tokens."""

from dataclasses import dataclass, replace

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dense_jax.config import FusionConfig, IndexConfig, IndexKind, MeshConfig
from dense_jax.data.tokenizer import Tokenizer
from dense_jax.mesh import make_mesh
from dense_jax.retrieval.bm25 import index_documents
from dense_jax.retrieval.embed import embed
from dense_jax.retrieval.index import build_index
from dense_jax.retrieval.search import Hit, by_document, dense_search, hybrid_search, render_hits, search
from dense_jax.types import Document, Passage, PassageCollection, Ranking, SourceRows, Tower, Vocabulary

TEXTS = {"tea": "tea tea water", "sea": "water salt water", "cake": "flour salt tea"}
WORDS = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]", "tea", "water", "salt", "flour"]
FLAGS = np.zeros(len(WORDS), bool)
VOCABULARY = Vocabulary(size=len(WORDS), pad=0, cls=1, sep=2, unk=3, mask=4, special=FLAGS, continues=FLAGS)


@dataclass(frozen=True)
class CountsOfWords:
    """The inner product of two texts is the number of pairs of equal words."""

    width: int = len(WORDS)
    views: int = 1

    def init(self, rng):
        return {}

    def apply(self, params, tokens, *, rng=None):
        return jax.nn.one_hot(tokens.ids, self.width).sum(1).at[:, :5].set(0)  # special tokens are no words


class Words:
    vocabulary = VOCABULARY

    prompt_ids = Tokenizer.prompt_ids

    def encode(self, texts):
        return [np.array([WORDS.index(word) for word in text.split()], np.int32) for text in texts]


class Store(PassageCollection):
    """One passage for each of TEXTS; titles are their ids in capitals."""

    def __len__(self):
        return len(TEXTS)

    def __getitem__(self, row):
        return self.passages([row])[0]

    def ids(self):
        return list(TEXTS)

    def parts(self):
        return [SourceRows("texts", range(len(self)), 0)]

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
    index = build_index(vectors, IndexConfig(kind=IndexKind.EXACT), tmp_path / "index", mesh)
    return dense_search(index, tower, Words())


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


def test_a_search_for_more_results_than_there_are_documents_gives_all_of_them(find):
    assert [hit.id for hit in search(find, Store(), ["tea"], 5)[0]] == ["tea", "cake", "sea"]


class Scored:
    """A `Find` over passages of given scores, the same for every query but those named; it notes what it is asked."""

    def __init__(self, scores: list[float], **of_query: list[float]):
        self.scores, self.of_query, self.asked = scores, of_query, []

    def __call__(self, queries, k):
        self.asked.append((list(queries), k))
        scores = np.array([self.of_query.get(query, self.scores) for query in queries], np.float32)
        rows = np.argsort(-scores, axis=1, kind="stable")[:, :k]
        return Ranking(np.take_along_axis(scores, rows, 1), rows)


def documents(find, queries, names, k):
    """The k best documents, a letter naming the document of each passage: rows and scores as lists."""
    ranking = by_document(find, queries, names.__getitem__, k, len(names))
    return ranking.rows.tolist(), ranking.scores.tolist()


def test_a_document_is_found_once_by_its_best_passage():
    assert documents(Scored([1.0, 5.0, 4.0, 3.0]), ["q"], "aabb", 2) == ([[1, 2]], [[5.0, 4.0]])


def test_where_the_best_passages_are_of_too_few_documents_the_search_goes_deeper_until_there_are_k():
    find = Scored([float(20 - row) for row in range(20)])
    names = "aaaaaabbbbbbccccccdd"
    assert documents(find, ["q"], names, 3) == ([[0, 6, 12]], [[20.0, 14.0, 8.0]])
    assert [k for _, k in find.asked] == [3, 12, 20]  # four times deeper each time, up to all


def test_only_queries_that_lack_documents_are_searched_again():
    find = Scored([4.0, 3.0, 2.0, 1.0], easy=[4.0, 1.0, 2.0, 3.0])
    rows, scores = documents(find, ["hard", "easy"], "aaab", 2)
    assert (rows, scores) == ([[0, 3], [0, 3]], [[4.0, 1.0], [4.0, 3.0]])
    assert find.asked == [(["hard", "easy"], 2), (["hard"], 4)]


def test_fewer_documents_than_asked_for_leave_places_of_row_minus_one_and_score_minus_infinity():
    find = Scored([3.0, 2.0, 1.0])
    assert documents(find, ["q"], "aab", 3) == ([[0, 2, -1]], [[3.0, 1.0, -np.inf]])
    assert find.asked == [(["q"], 3)]  # there are no passages beyond


def test_the_search_ends_where_nothing_more_is_found():
    def two_places_of_five(queries, k):
        return Ranking(np.array([[1.0, -np.inf]]), np.array([[4, -1]]))

    assert documents(two_places_of_five, ["q"], "abcde", 2) == ([[4, -1]], [[1.0, -np.inf]])


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 9)), min_size=1, max_size=30), st.integers(1, 8))
def test_the_best_documents_are_those_of_an_exhaustive_search(passages, k):
    k = min(k, len(passages))
    names, scores = [str(document) for document, _ in passages], [float(score) for _, score in passages]
    best = {name: max(s for n, s in zip(names, scores, strict=True) if n == name) for name in names}
    rows, found = documents(Scored(scores), ["q"], names, k)
    expected = sorted(best.values(), reverse=True)[:k]
    assert found == [expected + [-np.inf] * (k - len(expected))]
    assert [scores[row] for row in rows[0] if row >= 0] == expected
    assert len({names[row] for row in rows[0] if row >= 0}) == len(expected)


def test_text_search_shows_a_document_of_several_passages_once():
    class Parts(Store):
        def document(self, row):
            return replace(super().document(row), id="one" if row < 2 else "other")

    assert [[hit.id for hit in hits] for hits in search(Scored([1.0, 3.0, 2.0]), Parts(), ["q"], 2)] == [
        ["one", "other"]
    ]


# Together with BM25


def by_words(*texts: str):
    """BM25 over documents d0, d1, ..."""
    return index_documents([Document(f"d{i}", "", text) for i, text in enumerate(texts)], k1=0.9, b=0.4)


def test_a_document_is_found_as_its_best_passage_or_if_bm25_alone_finds_it_as_its_first():
    """Of documents d0 (rows 0 1), d1 (2 3) and d2 (4 5) the dense side ranks d0 by row 1 and d1 by row 2."""
    dense = Scored([1.0, 5.0, 4.0, 3.0, 0.0, 0.5])
    words = by_words("salt", "tea", "sea sea")
    find = hybrid_search(words, dense, ["d0", "d0", "d1", "d1", "d2", "d2"], FusionConfig(depth=2))
    found = find(["sea"], 2)
    assert found.rows.tolist() == [[1, 4]]  # d0 and d2 are first on one side each
    np.testing.assert_allclose(found.scores[0], [0.5 / 61, 0.5 / 61], rtol=1e-6)


def test_a_query_without_a_known_word_is_answered_by_the_dense_side_alone():
    find = hybrid_search(by_words("salt", "tea"), Scored([1.0, 2.0]), ["d0", "d1"], FusionConfig())
    assert find(["uranium"], 2).rows.tolist() == [[1, 0]]


def test_both_rankings_go_as_deep_as_the_results_wanted():
    names = [f"d{i}" for i in range(6)]
    dense = Scored([6.0, 5.0, 4.0, 3.0, 2.0, 1.0])
    find = hybrid_search(by_words(*["salt"] * 6), dense, names, FusionConfig(depth=2))
    assert find(["salt"], 5).rows.tolist() == [[0, 1, 2, 3, 4]]
    assert dense.asked[-1][1] == 5


def test_hits_of_a_hybrid_search_have_the_text_of_their_passage(find):
    words = index_documents([Store().document(row) for row in range(3)], k1=0.9, b=0.4)
    (hits,) = search(hybrid_search(words, find, list(TEXTS), FusionConfig()), Store(), ["salt flour"], 3)
    assert (hits[0].id, hits[0].text, len(hits)) == ("cake", TEXTS["cake"], 3)


def test_results_are_rendered_with_rank_score_title_and_text():
    hits = [Hit(0.71828, "d1", "Radium", "It glows."), Hit(-3.0, "d2", "", "No title.")]
    assert render_hits("what glows", hits, 80) == (
        "what glows\n   1   0.718  d1  Radium\n              It glows.\n   2  -3.000  d2\n              No title."
    )


def test_a_title_that_is_the_id_is_shown_once():
    assert (
        render_hits("q", [Hit(1.0, "numpy.sort", "numpy.sort", "Sorts.")], 80).splitlines()[1]
        == "   1   1.000  numpy.sort"
    )


def test_a_long_text_is_wrapped_and_cut_to_three_lines():
    lines = render_hits("q", [Hit(1.0, "d", "title " * 20, "word " * 1000)], 60).splitlines()
    assert len(lines) == 1 + 1 + 3
    assert max(map(len, lines)) <= 60
    assert lines[1].endswith(" ...") and lines[-1].endswith(" ...")


def test_a_document_cannot_steer_the_terminal():
    assert "\x1b" not in render_hits("q\x1b[2J", [Hit(1.0, "d", "\x1b[31mred", "a\x1b]0;owned\x07b")], 80)


def test_a_query_that_found_nothing_says_so():
    assert render_hits("q", [], 80) == "q\n  nothing found"


def test_an_approximate_search_that_finds_less_when_it_goes_deeper_leaves_nothing_of_the_first():
    documents = ["a", "b", "b", "c"]

    def find(queries, k):
        rows = [0, 1, 2] if k == 3 else [1, -1, -1, -1]
        scores = [3.0, 2.0, 1.0] if k == 3 else [2.0, -np.inf, -np.inf, -np.inf]
        return Ranking(np.array([scores], np.float32), np.array([rows]))

    found = by_document(find, ["q"], documents.__getitem__, 3, len(documents))
    assert found.rows.tolist() == [[1, -1, -1]]
    assert found.scores.tolist() == [[2.0, -np.inf, -np.inf]]
