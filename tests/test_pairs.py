"""Weakly supervised pairs: sources in several forms, their weights and prompts, and what is held in memory of them."""

import gc
import json
import pickle
from dataclasses import replace

import numpy as np
import pyarrow
import pytest
from pyarrow import parquet

import dense_jax
from dense_jax.artifact import claim
from dense_jax.config import Config, CorpusConfig, LoaderConfig, Mixing, Order, PassagesConfig, TokenizerConfig, Unit
from dense_jax.data.pipeline import Examples, host_batches
from dense_jax.data.preparation.merged_queries import MergedQueries
from dense_jax.data.preparation.prepare import prepare
from dense_jax.data.preparation.queries import open_queries
from dense_jax.data.sources.queries import JudgedQuery, ScoredDocument, text_id
from dense_jax.data.stores.query_store import QueryWriter, StoredQuery
from dense_jax.data.tokenizer import Tokenizer
from dense_jax.errors import ConfigError
from dense_jax.models.bert import bert
from dense_jax.models.encoder import Encoder
from dense_jax.objectives.supervised import Supervised
from dense_jax.types import Candidates, SourceRows
from tests.query_files import write
from tests.sources import sentence

ONE_SOURCE = LoaderConfig(order=Order.DISTINCT, mixing=Mixing.BATCH)


def pairs(count, first):
    """Titles of two words and bodies."""
    texts = [sentence(first + i) for i in range(count)]
    return [{"query": " ".join(text.split()[:2]) + f" {first + i}", "positive": text} for i, text in enumerate(texts)]


@pytest.fixture
def sources(tmp_path):
    """A file of JSON lines and one of Parquet."""
    titles, answers = tmp_path / "titles.jsonl", tmp_path / "answers.parquet"
    write(titles, pairs(24, first=0))
    rows = [{"question": row["query"], "answer": row["positive"]} for row in pairs(40, first=500)]
    parquet.write_table(pyarrow.Table.from_pylist(rows), answers)
    return CorpusConfig(source=str(titles), also=(str(answers),))


def config(corpus, loader=ONE_SOURCE, **objective):
    lengths = {"query_length": 16, "passage_length": 32}
    return Config(
        Supervised(Encoder(bert("tiny")), negatives=0, **lengths, **objective),
        steps=1,
        batch=8,
        corpus=corpus,
        tokenizer=TokenizerConfig(vocab_size=120),
        passages=PassagesConfig(unit=Unit.QUERIES, shard_size=16),
        loader=loader,
    )


def examples_of(asked, root, length=160):
    prepare(asked, root)
    store, tokenizer = open_queries(root, asked.corpus), Tokenizer.load(root / "tokenizer")
    vocabulary = tokenizer.with_prompts(asked.objective.prompts())
    return Examples(store, asked.objective, vocabulary, asked.loader, seed=0, length=length, batch=asked.batch)


def test_each_batch_is_of_one_source_without_a_repeated_text_in_shares_by_weight(sources, tmp_path):
    asked = config(sources, replace(ONE_SOURCE, weights=(1.0, 3.0)))
    examples = examples_of(asked, tmp_path / "work", length=8 * 100)
    assert [(part.name, len(part.rows)) for part in examples.store.parts()] == [
        ("titles.jsonl", 24),
        ("answers.parquet", 40),
    ]
    found = [batch.rows for batch in host_batches(examples, 8)]
    assert all(len(set(rows.tolist())) == 8 for rows in found)
    assert all((rows < 24).all() or (rows >= 24).all() for rows in found)
    assert 60 < sum(rows[0] >= 24 for rows in found) < 90  # 75 of 100 expected


def test_examples_are_the_same_after_a_restart_and_for_any_share_of_the_rows(sources, tmp_path):
    examples = examples_of(config(sources), tmp_path / "work")
    whole = list(host_batches(examples, 8))
    again = list(host_batches(pickle.loads(pickle.dumps(examples)), 8, start=80))
    half = list(host_batches(pickle.loads(pickle.dumps(examples)), 8, start=80, local_rows=np.arange(4, 8)))
    for one, other, part in zip(whole[10:], again, half, strict=True):
        np.testing.assert_array_equal(one.inputs["query"].ids, other.inputs["query"].ids)
        np.testing.assert_array_equal(one.inputs["passages"].ids[4:], part.inputs["passages"].ids)


def test_prompts_go_by_source(sources, tmp_path):
    prompts = {"query_prompts": ("light: ", "sea: "), "passage_prompts": ("house: ", ""), "query_prompt": "storm: "}
    examples = examples_of(config(sources, **prompts), tmp_path / "work")
    for index in range(40):
        made = examples[index]
        query, passage = ("light: ", "house: ") if made.row < 24 else ("sea: ", "")
        for tokens, prompt in ((made.inputs["query"].ids, query), (made.inputs["passages"].ids[0], passage)):
            wanted = examples.vocabulary.prompt_ids(prompt)
            assert tokens[1 : 1 + len(wanted)].tolist() == wanted.tolist()


@pytest.mark.parametrize("prompts", [("light: ",), ("light: ", "sea: ", "house: ")])
@pytest.mark.parametrize("name", ["query_prompts", "passage_prompts"])
def test_there_are_as_many_prompts_as_sources_or_none(sources, name, prompts):
    with pytest.raises(ConfigError, match=rf"objective.{name}=.* is not one value for each of 2 sources"):
        config(sources, **{name: prompts})


def test_what_a_store_and_its_examples_keep_does_not_grow_with_the_queries(tmp_path):
    """A store of a hundred million pairs travels to each worker, and is open in each."""
    sizes = []
    for count in (40, 400):
        asked = config(CorpusConfig(source=str(write(tmp_path / f"{count}.jsonl", pairs(count, first=0)))))
        asked = replace(asked, passages=replace(asked.passages, shard_size=1_000))
        examples = examples_of(asked, tmp_path / f"work{count}")
        for index in range(160):
            examples[index]
        sizes.append(len(pickle.dumps(examples)))
    assert sizes[1] < sizes[0] + 1_000


def row(number):
    text = f"{number} {sentence(number)}"
    return JudgedQuery(text_id(text), text, (ScoredDocument(f"document {number}"),))


def test_merging_holds_a_few_queries_at_a_time():
    """The texts of a hundred million are some 20 GB, as Python's objects several times as much."""
    alive = []

    def rows():
        yield from map(row, range(299))
        alive.append(sum(isinstance(one, JudgedQuery | StoredQuery) for one in gc.get_objects()))
        yield row(299)

    queries = MergedQueries(rows, lambda identifier: int(identifier.split()[1]), lambda _: True, lambda _: None)
    before = sum(isinstance(one, JudgedQuery | StoredQuery) for one in gc.get_objects())
    assert sum(1 for _ in queries) == len(queries) == 300
    assert len(alive) == 2  # passes
    assert max(alive) <= before + 3


def test_a_writer_holds_the_queries_of_one_shard(tmp_path):
    claim(tmp_path, {})
    writer = QueryWriter(tmp_path, [SourceRows("a", range(300), 0)], 16, lambda texts: [np.arange(3)] * len(texts))
    nothing = Candidates(np.empty(0, np.int32), np.empty(0, np.float32))
    for number in range(300):
        answer = Candidates(np.array([number], np.int32), np.array([np.nan], np.float32))
        writer.add(StoredQuery(str(number), sentence(number), answer, nothing))
        assert sum(map(len, writer._waiting)) < 16
    writer.finish({})


@pytest.mark.slow
def test_pairs_are_prepared_trained_and_filtered_by_the_run_or_before_it_by_what_it_starts_from(sources, tmp_path):
    given = {
        "corpus.source": sources.source,
        "corpus.also": list(sources.also),
        "loader.weights": [1.0, 2.0],
        "tokenizer.vocab_size": 120,
        "batch": 16,
        "chunk": 8,
        "steps": 20,
        "filter.pool": 20,
    }
    run = dense_jax.Run(tmp_path / "a", dense_jax.load_config("pairs:tiny", given))
    run.prepare()
    run.train()
    counts = run.filter()
    assert counts["kept"] + counts["dropped"] == counts["pairs"] == 64
    other = given | {"init_from": str(tmp_path / "a"), "steps": 40}
    started = dense_jax.Run(tmp_path / "b", dense_jax.load_config("pairs:tiny", other))
    started.prepare()
    assert started.filter() | {"folder": ""} == counts | {"folder": ""}
    kept = tmp_path / "b" / "filtered" / "dense-00000000" / "kept"
    assert {path.name for path in kept.iterdir()} == {"titles.jsonl", "answers.parquet.jsonl"}
    assert {*json.loads((kept / "titles.jsonl").read_text().splitlines()[0])} == {
        "query_id",
        "query",
        "positive",
        "rank",
    }
