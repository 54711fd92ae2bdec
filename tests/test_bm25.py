"""BM25 by hand on three short documents."""

import math

import numpy as np
import pytest

from dense_jax.artifact import MANIFEST
from dense_jax.errors import ConfigError, DataError, StorageError
from dense_jax.retrieval.bm25 import BM25, BM25Settings, documents_of, index_documents, open_or_index
from dense_jax.types import Document
from tests.toys import MemoryStore

K1, B = 0.9, 0.4
DOCUMENTS = [
    Document("radium", "Radium", "glows glows"),  # 3 words
    Document("polonium", "", "the polonium decays"),  # 2: "the" is a stop word
    Document("cat", "", "a cat"),  # 1: one-letter words do not count
]


def bm25(documents=DOCUMENTS) -> BM25:
    return index_documents(documents, K1, B)


def weight(frequency: int, length: int, holding: int) -> float:
    idf = math.log(1 + (3 - holding + 0.5) / (holding + 0.5))
    return idf * frequency / (frequency + K1 * (1 - B + B * length / 2))


def test_scores_are_those_of_the_formula():
    found = bm25().search(["glows polonium"], 2)
    expected = [weight(frequency=2, length=3, holding=1), weight(frequency=1, length=2, holding=1)]
    assert found.rows.tolist() == [[0, 1]]
    np.testing.assert_allclose(found.scores[0], expected, rtol=1e-6)  # float32


def test_a_repeated_word_counts_twice():
    once, twice = bm25().search(["polonium"], 1).scores, bm25().search(["polonium polonium"], 1).scores
    np.testing.assert_allclose(twice, 2 * once)


def test_words_meet_by_their_stems_and_whatever_their_case():
    assert bm25().search(["DECAYED"], 1).rows.tolist() == [[1]]


def test_titles_are_searched():
    assert bm25().search(["radium"], 1).rows.tolist() == [[0]]


def test_documents_without_a_word_of_the_query_are_no_results():
    found = bm25().search(["cat"], 3)
    assert found.rows.tolist() == [[2, -1, -1]]
    assert found.scores[0, 1:].tolist() == [-np.inf, -np.inf]


@pytest.mark.parametrize("query", ["uranium", "the", "!"])
def test_a_query_without_a_known_word_finds_nothing(query):
    assert bm25().search([query], 2).rows.tolist() == [[-1, -1]]


def test_ties_are_broken_by_row_also_where_the_results_end():
    same = bm25([Document(str(i), "", "cat" if i else "dog") for i in range(9)])
    assert same.search(["cat"], 3).rows.tolist() == [[1, 2, 3]]


def test_ids_are_in_the_order_of_rows():
    assert bm25().ids == ["radium", "polonium", "cat"]


def test_an_empty_document_is_never_found_but_counts():
    padded = bm25([*DOCUMENTS, Document("empty", "", "")])
    assert padded.search(["the"], 4).rows.tolist() == [[-1] * 4]
    assert len(padded.ids) == 4


def test_a_corpus_without_words_is_refused():
    with pytest.raises(DataError, match="none of the 1 documents holds a word"):
        bm25([Document("a", "", "the")])


# On disk

SETTINGS = BM25Settings(collection="a", k1=K1, b=B)


class Store(MemoryStore):
    """`DOCUMENTS`, the second one as two passages."""

    pieces = (DOCUMENTS[0], Document("polonium", "", "the polonium"), Document("polonium", "", "decays"), DOCUMENTS[2])

    def __init__(self):
        super().__init__(passages=len(self.pieces))

    def document(self, row):
        return self.pieces[row]


class Unread(Store):
    """Documents of which no text may be read."""

    def document(self, row):
        raise AssertionError


def test_a_document_is_joined_from_its_passages():
    assert list(documents_of(Store())) == DOCUMENTS


def test_the_saved_index_finds_what_the_one_in_memory_finds_and_is_not_built_again(tmp_path):
    queries = ["glows polonium", "cats decaying", "uranium"]
    expected = bm25().search(queries, 3)
    for store in (Store(), Unread()):
        found = open_or_index(store, [tmp_path / "bm25"], SETTINGS)
        assert found.ids == ["radium", "polonium", "cat"]
        np.testing.assert_array_equal(found.search(queries, 3).rows, expected.rows)
        np.testing.assert_array_equal(found.search(queries, 3).scores, expected.scores)


def test_a_finished_index_of_an_earlier_folder_is_used(tmp_path):
    open_or_index(Store(), [tmp_path / "workdir"], SETTINGS)
    open_or_index(Unread(), [tmp_path / "workdir", tmp_path / "out"], SETTINGS)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", ["scores.npy", "rows.npy", "starts.npy", "stems.json", "ids.json"])
def test_a_damaged_file_is_named_with_the_way_to_make_it_again(tmp_path, name):
    open_or_index(Store(), [tmp_path / "bm25"], SETTINGS)
    content = (tmp_path / "bm25" / name).read_bytes()
    (tmp_path / "bm25" / name).write_bytes(content[:-2] + b"\0]")
    with pytest.raises(StorageError, match=rf"{name}: digest .* remove .*bm25 and give the same command again"):
        open_or_index(Store(), [tmp_path / "bm25"], SETTINGS)
    assert (tmp_path / "bm25" / name).read_bytes() == content[:-2] + b"\0]"


def test_an_interrupted_build_is_done_again(tmp_path):
    first = open_or_index(Store(), [tmp_path / "bm25"], SETTINGS)
    (tmp_path / "bm25" / MANIFEST).unlink()
    (tmp_path / "bm25" / "rows.npy").write_bytes(b"half")
    assert open_or_index(Store(), [tmp_path / "bm25"], SETTINGS).ids == first.ids


def test_an_index_of_another_formula_is_refused(tmp_path):
    open_or_index(Store(), [tmp_path / "bm25"], SETTINGS)
    with pytest.raises(ConfigError, match=r"k1: 0.9 -> 1.2"):
        open_or_index(Store(), [tmp_path / "bm25"], BM25Settings(collection="a", k1=1.2, b=B))
