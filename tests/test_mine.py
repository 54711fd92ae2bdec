"""Hard negatives: which documents are taken, from what, and what is written."""

from dataclasses import replace

import numpy as np
import orjson
import pytest

from dense_jax.config import FusionConfig, Margin, MineConfig, Miner, Pick
from dense_jax.data.dedup import text_numbers
from dense_jax.errors import ConfigError, StorageError
from dense_jax.retrieval.bm25 import index_documents
from dense_jax.retrieval.mine import BM25Retriever, HybridRetriever, QueryRanking, choose_negatives, mine, summary
from dense_jax.types import Candidates, Document, TrainingQuery
from tests.toys import MemoryStore

TOP = MineConfig(depth=10, negatives=3, pick=Pick.TOP)
DIFFERENT = np.arange(100, dtype=np.uint64)  # no two documents are the same


def found(scores: list[float], positives: list[float]) -> QueryRanking:
    """Documents 0, 1, 2, ... with `scores`."""
    return QueryRanking(np.arange(len(scores)), np.array(scores, np.float32), np.array(positives, np.float32))


def chosen(result: QueryRanking, own: list[int], config: MineConfig, texts=DIFFERENT, number: int = 0) -> list[int]:
    return choose_negatives(result, np.array(own), texts, config, number).rows.tolist()


def test_the_best_documents_that_answer_nothing_are_taken():
    assert chosen(found([9, 8, 7, 6, 5], [8, 6]), own=[1, 3], config=TOP) == [0, 2, 4]


def test_the_text_of_a_positive_is_no_negative_under_another_id():
    texts = DIFFERENT.copy()
    texts[2] = texts[1]
    assert chosen(found([9, 8, 7, 6, 5], [8]), own=[1], config=TOP, texts=texts) == [0, 3, 4]


def test_no_text_is_taken_twice():
    texts = DIFFERENT.copy()
    texts[2] = texts[0]
    assert chosen(found([9, 8, 7, 6, 5], [8]), own=[1], config=TOP, texts=texts) == [0, 3, 4]


def test_an_absolute_margin_is_below_the_lowest_positive():
    close = replace(TOP, margin=Margin.ABSOLUTE, margin_size=1.0)
    result = choose_negatives(found([9, 8, 7, 6, 5], [9, 7]), np.array([0, 2]), DIFFERENT, close, 0)
    assert result.rows.tolist() == [3, 4]
    assert result.scores.tolist() == [6, 5]
    assert result.too_close == 1  # document 1, whose 8 is above 7 - 1


def test_a_relative_margin_is_a_share_of_the_positive():
    close = replace(TOP, margin=Margin.RELATIVE, margin_size=0.25)
    assert chosen(found([9, 8, 7, 6, 5], [8]), own=[1], config=close) == [3, 4]  # at most 8 - 2


def test_a_relative_margin_is_below_a_negative_score_too():
    close = replace(TOP, margin=Margin.RELATIVE, margin_size=0.5)
    assert chosen(found([-1, -2, -3, -4], [-2]), own=[1], config=close) == [2, 3]  # at most -2 - 1


def test_the_best_of_what_is_left_may_be_passed_over():
    assert chosen(found([9, 8, 7, 6, 5], [8]), own=[1], config=replace(TOP, skip=1)) == [2, 3, 4]


def test_no_more_documents_are_looked_at_than_the_depth_and_the_positives():
    few = MineConfig(depth=3, negatives=3, pick=Pick.TOP)
    assert chosen(found([9, 8, 7, 6, 5, 4], [8]), own=[1], config=few) == [0, 2, 3]
    assert chosen(found([9, 8, 7, 6, 5, 4], [1]), own=[50], config=few) == [0, 1, 2]


def test_what_was_not_found_is_no_negative():
    result = QueryRanking(np.array([4, -1, -1]), np.array([1.0, -np.inf, -np.inf]), np.array([2.0]))
    assert chosen(result, own=[7], config=TOP) == [4]


def test_random_negatives_are_a_querys_own_and_in_the_order_of_their_rank():
    some = MineConfig(depth=50, negatives=5)
    scores = found(list(range(50, 0, -1)), [8])
    draws = [chosen(scores, own=[60], config=some, number=number) for number in range(20)]
    assert all(rows == sorted(rows) and len(set(rows)) == 5 for rows in draws)
    assert len({tuple(rows) for rows in draws}) == 20
    assert draws[3] == chosen(scores, own=[60], config=some, number=3)


def test_documents_are_the_same_if_title_and_text_are():
    store = MemoryStore(passages=4)
    store.tokens[2] = store.tokens[0]
    numbers = text_numbers(store)
    assert numbers[0] == numbers[2]
    assert len(set(numbers.tolist())) == 3


TEXTS = ["sun moon", "sun stars", "sun sky", "sea sand", "sea salt"]


class Documents(MemoryStore):
    """`TEXTS`, of which each word is a token."""

    def __init__(self):
        super().__init__(passages=len(TEXTS))
        words = sorted({word for text in TEXTS for word in text.split()})
        self.tokens = [np.array([5 + words.index(word) for word in text.split()], np.uint16) for text in TEXTS]

    def document(self, row):
        return Document(f"d{row}", "", TEXTS[row])

    def ids(self):
        return [f"d{row}" for row in range(len(TEXTS))]


class Queries(MemoryStore):
    """Two questions, of which the first has two answers."""

    own = ((0, 1), (3,))

    def __init__(self):
        super().__init__(passages=2)
        self.documents = Documents()

    def document(self, row):
        return Document(f"q{row}", "", ("sun", "sea")[row])

    def sample(self, row, epoch, rng):
        positives = Candidates(np.array(self.own[row]), np.full(len(self.own[row]), np.nan, np.float32))
        nothing = Candidates(np.array([], int), np.array([], np.float32))
        return TrainingQuery(row, epoch, self.tokens[row], positives, nothing, self.documents)


@pytest.fixture
def words() -> BM25Retriever:
    documents = [Documents().document(row) for row in range(len(TEXTS))]
    return BM25Retriever(index_documents(documents, 0.9, 0.4))


def lines(path):
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def test_the_file_has_every_query_with_its_positives_and_what_was_mined(tmp_path, words):
    queries = Queries()
    config = MineConfig(depth=2, negatives=2)
    path = mine(queries, queries.documents, words, config, tmp_path / "bm25", {})
    first, second = lines(path)
    assert (first["query_id"], first["query_text"]) == ("q0", "sun")
    assert first["positive_document_ids"] == ["d0", "d1"]
    assert first["negative_document_ids"] == ["d2"]
    assert first["negative_scores"] == pytest.approx(first["positive_scores"][:1])  # as long, and with one sun
    assert second["negative_document_ids"] == ["d4"]
    assert summary(path, config)["queries with fewer than 2"] == 2


class Fixed:
    """A dense retriever of given rankings, one for each query."""

    def __init__(self, *rankings: list[int]):
        self.rankings = rankings

    def find(self, queries, positives, k):
        rows = [np.array(ranking[:k]) for ranking in self.rankings]
        return [QueryRanking(each, -np.arange(len(each), dtype=np.float32), np.zeros(1, np.float32)) for each in rows]


def test_a_hybrid_takes_the_best_of_both_and_scores_positives_as_it_scores_documents(tmp_path, words):
    """BM25 ranks documents 0 1 2 for `sun` and 3 4 for `sea`."""
    hybrid = HybridRetriever(words, Fixed([4, 2], [0, 4]), FusionConfig())
    first, second = hybrid.find(["sun", "sea"], [np.array([0, 1]), np.array([2, 3])], 5)
    assert first.rows.tolist() == [2, 0, 4, 1]
    np.testing.assert_allclose(first.positives, [0.5 / 61, 0.5 / 62], rtol=1e-6)
    np.testing.assert_allclose(second.positives, [0, 0.5 / 61], rtol=1e-6)  # neither side ranks document 2
    queries, config = Queries(), MineConfig(depth=3, negatives=2, pick=Pick.TOP, source=Miner.HYBRID)
    path = mine(queries, queries.documents, hybrid, config, tmp_path / "hybrid", {})
    assert [line["negative_document_ids"] for line in lines(path)] == [["d2", "d4"], ["d4", "d0"]]


def test_a_hybrid_fuses_rankings_of_the_depth_that_it_was_given_however_many_are_asked_for(words):
    """A document below the first of a ranking has no part in the sums."""
    hybrid = HybridRetriever(words, Fixed([4, 2], [0, 4]), FusionConfig(depth=1))
    assert [found.rows.tolist() for found in hybrid.find(["sun", "sea"], [np.array([0])] * 2, 2)] == [[0, 4], [0, 3]]


def test_finished_parts_are_not_mined_again(tmp_path, words):
    queries, config = Queries(), MineConfig(depth=2, negatives=2)
    path = mine(queries, queries.documents, words, config, tmp_path / "bm25", {})
    before = path.read_bytes()
    path.unlink()

    class Broken:
        def find(self, *_):
            raise AssertionError

    assert mine(queries, queries.documents, Broken(), config, tmp_path / "bm25", {}).read_bytes() == before


def test_negatives_of_another_retriever_are_not_mixed_in(tmp_path, words):
    queries, config = Queries(), MineConfig(depth=2, negatives=2)
    mine(queries, queries.documents, words, config, tmp_path / "dense", {"checkpoint": "a"})
    with pytest.raises(ConfigError, match=r"made with other settings:\n  made_by.checkpoint: a -> b"):
        mine(queries, queries.documents, words, config, tmp_path / "dense", {"checkpoint": "b"})


def test_a_changed_part_is_named_and_not_mined_again(tmp_path, words):
    queries, config, folder = Queries(), MineConfig(depth=2, negatives=2), tmp_path / "bm25"
    path = mine(queries, queries.documents, words, config, folder, {})
    before = path.read_bytes()
    (folder / "part-00000.jsonl").write_bytes(before[:-9] + b"\n")
    with pytest.raises(
        StorageError, match=r"part-00000\.jsonl: digest .* remove .*bm25 and run `dense-jax mine` again"
    ):
        mine(queries, queries.documents, words, config, folder, {})
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depth": 20}, r"mine.depth=20 is less than mine.skip=0 and mine.negatives=30 together"),
        (
            {"guide": True, "source": Miner.HYBRID},
            r"mine.guide=True is written with mine.source=dense only, not",
        ),
        ({"margin_size": 0.1}, r"mine.margin_size=0.1 has no effect with mine.margin=none"),
    ],
)
def test_settings_that_cannot_be_kept_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        MineConfig(**settings)
