"""Judged queries -> what fine-tuning visits."""

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest

from dense_jax.config import Config, CorpusConfig, LoaderConfig, Order, PassagesConfig, TokenizerConfig, Unit
from dense_jax.data.pipeline import Examples, host_batches
from dense_jax.data.preparation.prepare import prepare
from dense_jax.data.preparation.queries import open_queries
from dense_jax.data.tokenizer import Tokenizer
from dense_jax.errors import ConfigError, DataError, StorageError
from dense_jax.models.bert import bert
from dense_jax.models.encoder import Encoder
from dense_jax.objectives.supervised import FalseNegatives, Supervised
from dense_jax.types import TrainingQuery
from tests.query_files import write
from tests.sources import rows, sentence


def folder(path, documents=12, extra=(), first=0):
    """A collection in BEIR's layout: query i, with a text of document i, is answered by documents i and i + 1."""
    corpus = [{**row, "_id": f"d{i}"} for i, row in enumerate(rows(first + documents)[first:])]
    write(path / "corpus.jsonl", [*corpus, *extra])
    write(path / "queries.jsonl", [{"_id": f"q{i}", "text": sentence(10 * (first + i))} for i in range(documents)])
    judged = [(f"q{i}", f"d{(i + j) % documents}", 1) for i in range(documents) for j in range(2)]
    judged += [("q0", "d7", 0)]
    write(path / "qrels" / "train.tsv", "".join("\t".join(map(str, row)) + "\n" for row in judged))
    return path


def config(source, objective=None, loader=None, **corpus) -> Config:
    encoder = Encoder(bert("tiny"))
    return Config(
        objective=objective or Supervised(encoder, query_length=16, passage_length=32, negatives=2),
        steps=1,
        batch=4,
        corpus=CorpusConfig(source=str(source), **corpus),
        tokenizer=TokenizerConfig(vocab_size=80),
        passages=PassagesConfig(unit=Unit.QUERIES),
        loader=loader or LoaderConfig(order=Order.DISTINCT),
    )


def prepared(asked: Config, root):
    prepare(asked, root)
    return open_queries(root, asked.corpus)


def question(store, row, epoch=0) -> TrainingQuery:
    return store.sample(row, epoch, np.random.default_rng(0))


def of(store, identifier) -> TrainingQuery:
    return question(store, store.ids().index(identifier))


def ids(store, candidates):
    return [store.documents.document(int(row)).id for row in candidates.rows]


@pytest.fixture
def source(tmp_path):
    return folder(tmp_path / "collection")


def test_a_question_has_the_querys_tokens_and_what_it_was_judged_with(source, tmp_path):
    store = prepared(config(source), tmp_path / "work")
    asked = of(store, "q0")
    assert ids(store, asked.positives) == ["d0", "d1"]
    assert ids(store, asked.negatives) == ["d7"]
    assert np.isnan(asked.positives.scores).all()
    tokenizer = Tokenizer.load(tmp_path / "work" / "tokenizer")
    assert asked.tokens.tolist() == tokenizer.encode([sentence(0)])[0].tolist()
    assert store.document(asked.row).text == sentence(0)


def test_batches_hold_no_text_twice_and_go_on_after_a_restart(source, tmp_path):
    asked = config(source)
    store = prepared(asked, tmp_path / "work")
    tokenizer = Tokenizer.load(tmp_path / "work" / "tokenizer")
    examples = Examples(store, asked.objective, tokenizer.vocabulary, asked.loader, seed=0, length=24, batch=4)
    batches = list(host_batches(examples, 4, start=0))
    for batch in batches:
        texts = batch.inputs["texts"][batch.inputs["texts"] >= 0]
        assert len(texts) == len(set(texts.tolist()))
    again = list(host_batches(pickle.loads(pickle.dumps(examples)), 4, start=8))
    assert [batch.rows.tolist() for batch in again] == [batch.rows.tolist() for batch in batches[2:]]


def test_the_same_text_under_two_ids_is_one_row(tmp_path):
    twin = {**rows(12)[3], "_id": "twin"}
    source = folder(tmp_path / "collection", extra=[twin])
    with (source / "qrels" / "train.tsv").open("a") as file:
        file.write("q0\ttwin\t1\n")
    store = prepared(config(source), tmp_path / "work")
    assert ids(store, of(store, "q0").positives) == ["d0", "d1", "d3"]


def test_the_same_text_under_two_query_ids_is_one_question(source, tmp_path):
    with (source / "queries.jsonl").open("a") as file:
        file.write(json.dumps({"_id": "again", "text": sentence(0)}) + "\n")
    with (source / "qrels" / "train.tsv").open("a") as file:
        file.write("again\td5\t1\n")
    store = prepared(config(source), tmp_path / "work")
    assert "again" not in store.ids()
    assert ids(store, of(store, "q0").positives) == ["d0", "d1", "d5"]


def test_a_share_of_the_queries_is_part_of_a_larger_share(source, tmp_path):
    found = {share: prepared(config(source, query_share=share), tmp_path / "work").ids() for share in (0.2, 0.6, 1.0)}
    assert set(found[0.2]) < set(found[0.6]) < set(found[1.0])
    assert len(found[1.0]) == 12


def mined(path, **changes):
    row = {
        "query_id": "q0",
        "query_text": sentence(0),
        "positive_document_ids": ["d0"],
        "positive_scores": [3.5],
        "negative_document_ids": ["d4", "d5"],
        "negative_scores": [1.5, 0.5],
    }
    return write(path, [row | changes])


def test_files_of_queries_stand_in_for_the_sources_own_and_are_united(source, tmp_path):
    own = prepared(config(source), tmp_path / "work")
    files = (mined(tmp_path / "a.jsonl"), mined(tmp_path / "b.jsonl", negative_document_ids=["d5", "d6"]))
    store = prepared(config(source, queries=tuple(map(str, files))), tmp_path / "work")
    assert len(own) == 12
    assert store.ids() == ["q0"]
    asked = question(store, 0)
    assert ids(store, asked.negatives) == ["d4", "d5", "d6"]
    assert asked.positives.scores.tolist() == [3.5]
    assert asked.negatives.scores.tolist() == [1.5, 0.5, 0.5]


def test_what_a_query_names_and_the_corpus_lacks_is_counted(source, tmp_path):
    file = mined(tmp_path / "a.jsonl", negative_document_ids=["d4", "nowhere"])
    counts = prepare(config(source, queries=(str(file),)), tmp_path / "work")
    assert counts["judged documents that the corpus lacks"] == 1
    assert counts["negatives"] == 1


def test_a_query_without_an_answer_in_the_corpus_is_named(source, tmp_path):
    file = write(tmp_path / "a.jsonl", [{"query_id": "q9", "query_text": "Why?", "positive_document_ids": ["nowhere"]}])
    with pytest.raises(DataError, match=r"query 'q9': the corpus has none of its documents: 'nowhere'"):
        prepare(config(source, queries=(str(file),)), tmp_path / "work")


def test_a_file_of_queries_that_is_not_there_is_named(source, tmp_path):
    with pytest.raises(DataError, match=r"corpus.queries: mined.jsonl: no such file"):
        prepare(config(source, queries=("mined.jsonl",)), tmp_path / "work")


def test_queries_of_several_sources_are_told_apart(source, tmp_path):
    other = folder(tmp_path / "other", documents=9, first=12)
    store = prepared(config(source, also=(str(other),)), tmp_path / "work")
    assert [(part.name, len(part.rows)) for part in store.parts()] == [("collection", 12), ("other", 9)]
    assert ids(store, of(store, "other/q0").positives) == ["other/d0", "other/d1"]


def test_a_source_whose_texts_another_has_too_adds_no_rows_of_its_own(source, tmp_path):
    other = folder(tmp_path / "other", documents=9)
    store = prepared(config(source, also=(str(other),)), tmp_path / "work")
    assert [(part.name, len(part.rows)) for part in store.parts()] == [("collection", 12), ("other", 0)]


def test_preparing_again_changes_nothing_and_other_settings_are_refused(source, tmp_path):
    root = tmp_path / "work"
    before = prepared(config(source), root).fingerprint
    assert prepared(config(source), root).fingerprint == before
    assert prepared(config(source, max_rejects=0.5), root).fingerprint == before
    with pytest.raises(ConfigError, match=r"tokenizer.lowercase: True -> False"):
        prepare(replace(config(source), tokenizer=TokenizerConfig(vocab_size=60, lowercase=False)), root)


def test_a_file_that_has_changed_is_not_read(source, tmp_path):
    store = prepared(config(source), tmp_path / "work")
    path = store.folder / "queries-00000.array_record"
    path.write_bytes(path.read_bytes()[:-1] + b"\x07")
    with pytest.raises(StorageError, match=r"queries-00000\.array_record"):
        open_queries(tmp_path / "work", config(source).corpus)


def guide(path, queries, documents):
    path.mkdir()
    for name, names in (("queries", queries), ("documents", documents)):
        np.save(path / f"{name}.npy", np.arange(2 * len(names), dtype=np.float32).reshape(-1, 2))
        (path / f"{name}.json").write_text(json.dumps(names))
    return path


def test_a_guides_vectors_are_found_by_id(source, tmp_path):
    store = prepared(config(source), tmp_path / "work")
    backwards = guide(tmp_path / "guide", store.ids()[::-1], store.documents.ids())
    guided = open_queries(tmp_path / "work", replace(config(source).corpus, guide=str(backwards)))
    asked = question(guided, 0)
    assert asked.guide.query.tolist() == [22.0, 23.0]  # the last of twelve
    objective = replace(config(source).objective, false_negatives=FalseNegatives.GUIDE)
    vocabulary = Tokenizer.load(tmp_path / "work" / "tokenizer").vocabulary
    example = objective.example(asked, vocabulary, np.random.default_rng(0))
    row = int(example["texts"][0])
    assert example["guide_passages"][0].tolist() == [2.0 * row, 2.0 * row + 1]


def test_a_guide_without_a_query_is_refused(source, tmp_path):
    store = prepared(config(source), tmp_path / "work")
    lacking = guide(tmp_path / "guide", store.ids()[1:], store.documents.ids())
    with pytest.raises(DataError, match=rf"has no vector of 1 of 12 queries, such as '{store.ids()[0]}'"):
        open_queries(tmp_path / "work", replace(config(source).corpus, guide=str(lacking)))


def test_documents_are_not_held_out_where_queries_are_about_them(source):
    with pytest.raises(ConfigError, match=r"corpus.held_out=4 takes documents out that queries may be about"):
        config(source, held_out=4)
