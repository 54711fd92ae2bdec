"""The consistency filter: which pairs stay, by which rank, and what is written."""

import copy
import json
from dataclasses import replace

import jax
import numpy as np
import pytest

from dense_jax.arrays import l2_normalize
from dense_jax.config import Config, CorpusConfig, FilterConfig, LoaderConfig, PassagesConfig, TokenizerConfig, Unit
from dense_jax.data.preparation.prepare import prepare
from dense_jax.data.preparation.queries import open_queries
from dense_jax.data.tokenizer import Tokenizer
from dense_jax.errors import ConfigError, StorageError
from dense_jax.mesh import process_mesh
from dense_jax.retrieval import consistency
from dense_jax.retrieval.consistency import Pool, filter_pairs, passage_vectors, pool_rows
from dense_jax.retrieval.embed import embed
from dense_jax.retrieval.encode import TowerOnMesh, encode_queries
from dense_jax.types import Tower
from tests.query_files import write
from tests.sources import KilledError, contents, sentence
from tests.test_prepare_queries_again import Asks
from tests.toys import MeanEmbedding

ALL = FilterConfig(k=1, pool=0)
NOISE = 5  # of the pairs, the last ones


def pairs(count=30, first=0):
    """Queries that are the first words of their passages; those of the last pairs are of one another."""
    texts = [sentence(first + i) for i in range(count)]
    queries = [text.rsplit(" ", 1)[0] for text in texts]
    queries[-NOISE:] = queries[-1:] + queries[-NOISE:-1]
    return [{"query": query, "positive": text} for query, text in zip(queries, texts, strict=True)]


class UnitMean(MeanEmbedding):
    """Vectors of length 1, so that texts of the same words are nearest."""

    def apply(self, params, tokens, *, rng=None):
        return l2_normalize(super().apply(params, tokens, rng=rng))


class Filtered:
    """A store of prepared pairs with their vectors, and the filter on it."""

    def __init__(self, folder, *sources):
        self.folder = folder
        first, *also = map(str, sources)
        corpus = CorpusConfig(source=first, also=tuple(also))
        config = Config(
            Asks(), 1, 1, corpus=corpus, tokenizer=TokenizerConfig(vocab_size=80), passages=PassagesConfig(Unit.QUERIES)
        )
        prepare(config, folder)
        self.queries = open_queries(folder, corpus)
        self.tokenizer = Tokenizer.load(folder / "tokenizer")
        encoder = UnitMean(vocab_size=self.tokenizer.size, width=64)
        tower = Tower(encoder, encoder.init(jax.random.key(0)), 32)
        self.tower = TowerOnMesh(tower, process_mesh())
        plan = {"batch": 8, "shard_size": 7, "made_by": {}}
        self.vectors = embed(self.queries.documents, tower, self.tokenizer, process_mesh(), folder / "vectors", **plan)

    def __call__(self, config=ALL, name="filtered", **made_by):
        folder, tools = self.folder / name, (self.tower, self.tokenizer)
        return filter_pairs(self.queries, self.vectors, *tools, config, folder, made_by)

    def lines(self, side, name="filtered", source="pairs.jsonl"):
        return list(map(json.loads, (self.folder / name / side / source).read_text().splitlines()))


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    return Filtered(folder / "work", write(folder / "pairs.jsonl", pairs()))


@pytest.fixture
def filtered(prepared, tmp_path):
    """The same pairs, filtered into another folder."""
    one = copy.copy(prepared)
    one.folder = tmp_path / "work"
    return one


def test_pairs_whose_passage_is_not_the_best_go_with_their_rank(filtered):
    counts = filtered()
    kept, dropped = filtered.lines("kept"), filtered.lines("dropped")
    assert (counts["pairs"], counts["kept"], counts["dropped"]) == (30, 25, 5) == (30, len(kept), len(dropped))
    assert {row["rank"] for row in kept} == {1}
    assert [row["query"] for row in dropped] == [row["query"] for row in pairs()[-NOISE:]]
    assert all(row["rank"] > 1 for row in dropped)


def test_the_rank_is_that_among_all_passages(filtered):
    filtered(replace(ALL, k=30))
    texts = [filtered.queries.documents.document(row).text for row in range(30)]
    vectors = passage_vectors(filtered.vectors, np.arange(30))[:, 0]
    for row in filtered.lines("kept"):
        (query,) = encode_queries([row["query"]], filtered.tower, filtered.tokenizer)
        scores = vectors @ query
        assert row["rank"] == 1 + int((scores > scores[texts.index(row["positive"]["text"])] + 1e-6).sum())


def test_what_stays_is_a_source_of_pairs(filtered, tmp_path):
    filtered()
    again = Filtered(tmp_path / "again", filtered.folder / "filtered" / "kept" / "pairs.jsonl")
    assert len(again.queries) == 25
    before = {filtered.queries.document(row) for row in range(len(filtered.queries))}
    assert {again.queries.document(row) for row in range(25)} < before
    assert set(again.queries.documents.ids()) < set(filtered.queries.documents.ids())


def test_each_source_has_files_of_its_own(tmp_path):
    one, other = write(tmp_path / "a.jsonl", pairs()), write(tmp_path / "b.json", json.dumps(pairs(20, first=50)))
    filtered = Filtered(tmp_path / "work", one, other)
    counts = filtered()
    assert (counts["of a.jsonl"], counts["pairs"]) == ("25 of 30 kept", 50)
    assert len(filtered.lines("kept", source="a.jsonl")) == 25
    assert len(filtered.lines("kept", source="b.json.jsonl")) + len(
        filtered.lines("dropped", source="b.json.jsonl")
    ) == len(pairs(20))


def test_a_query_with_several_passages_is_several_pairs(tmp_path):
    rows = pairs()
    rows[0]["positive"] = [rows[0]["positive"], sentence(1_000)]
    filtered = Filtered(tmp_path / "work", write(tmp_path / "pairs.jsonl", rows))
    assert filtered()["pairs"] == 31


def test_a_copy_of_the_passage_does_not_compete_with_it(tmp_path):
    rows = pairs(12)
    titled = {**rows[0], "positive": {"id": "copy", "title": "", "text": rows[0]["positive"]}}
    filtered = Filtered(tmp_path / "work", write(tmp_path / "pairs.jsonl", [*rows, titled]))
    assert len(filtered.queries.documents) == 13
    assert len(pool_rows(filtered.queries, ALL)) == 12
    filtered()
    assert rows[0]["query"] in [row["query"] for row in filtered.lines("kept")]


def test_a_pool_is_a_random_part_of_the_passages_and_depends_on_its_seed(filtered):
    rows = [pool_rows(filtered.queries, FilterConfig(pool=10, seed=seed)).tolist() for seed in (0, 0, 1)]
    assert rows[0] == rows[1] == sorted(set(rows[0])) != rows[2]
    assert len(rows[0]) == 10
    assert filtered(FilterConfig(k=1, pool=2))["kept"] > 25  # few compete


@pytest.mark.parametrize("block", [4, 1_000])
@pytest.mark.parametrize("views", [1, 2])
def test_passages_that_score_higher_are_counted_whatever_the_blocks(monkeypatch, block, views):
    monkeypatch.setattr(consistency, "_BLOCK", block)
    rng = np.random.default_rng(0)
    vectors, queries = rng.normal(size=(50 * views, 8)).astype(np.float32), rng.normal(size=(7, 8)).astype(np.float32)

    vectors = vectors.reshape(50, views, 8)
    rows, own = np.arange(0, 50, 2), np.array([0, 2, 4, 1, 3, 48, 49])
    best = (vectors @ queries.T).max(1)  # [p q]
    scores = best[own, np.arange(7)]
    expected = [sum(best[row, q] > scores[q] for row in rows if row != own[q]) for q in range(7)]
    assert Pool(vectors.__getitem__, rows, process_mesh()).count_better(queries, scores, own).tolist() == expected


def test_passages_that_score_the_same_do_not_push_each_other_back():
    pool = Pool(np.ones((6, 1, 4), np.float32).__getitem__, np.arange(6), process_mesh())
    assert pool.count_better(np.ones((2, 4), np.float32), np.float32([4, 3]), np.array([0, 1])).tolist() == [0, 5]


@pytest.fixture
def small_parts(monkeypatch):
    monkeypatch.setattr(consistency, "_PART", 8)


@pytest.mark.usefixtures("small_parts")
def test_a_killed_filter_goes_on_after_its_finished_parts(filtered, monkeypatch):
    filtered(name="whole")
    ranked, calls = consistency._rank_lines, []

    def killed(queries, rows, *others):
        calls.append(rows)
        if len(calls) == 3:
            raise KilledError
        return ranked(queries, rows, *others)

    with monkeypatch.context() as patched, pytest.raises(KilledError):
        patched.setattr(consistency, "_rank_lines", killed)
        filtered(name="again")
    monkeypatch.setattr(
        consistency, "_rank_lines", lambda queries, rows, *others: calls.append(rows) or ranked(queries, rows, *others)
    )
    filtered(name="again")
    assert [rows.start for rows in calls] == [0, 8, 16, 16, 24]
    assert contents(filtered.folder / "again") == contents(filtered.folder / "whole")


def test_another_limit_divides_the_same_ranks(filtered, monkeypatch):
    filtered()
    monkeypatch.setattr(consistency, "_rank_lines", None)
    assert filtered(replace(ALL, k=30))["kept"] == 30
    assert filtered.lines("dropped") == []


def test_ranks_of_another_retriever_or_pool_are_not_mixed_in(filtered):
    filtered(checkpoint="a")
    with pytest.raises(ConfigError, match=r"made with other settings:\n  made_by.checkpoint: a -> b"):
        filtered(checkpoint="b")
    with pytest.raises(ConfigError, match=r"pool: 0 -> 9"):
        filtered(replace(ALL, pool=9), checkpoint="a")


def test_a_changed_part_is_named(filtered):
    filtered()
    part = filtered.folder / "filtered" / "part-00000.jsonl"
    part.write_bytes(part.read_bytes()[:-9] + b"\n")
    with pytest.raises(StorageError, match=r"part-00000\.jsonl: digest .* and run `dense-jax filter` again"):
        filtered()


def test_weights_of_the_loader_are_one_for_each_source():
    with pytest.raises(ConfigError, match=r"loader.weights=\(1.0, 2.0\) is not one value for each of 1 sources"):
        Config(Asks(), 1, 1, passages=PassagesConfig(Unit.QUERIES), loader=LoaderConfig(weights=(1.0, 2.0)))
