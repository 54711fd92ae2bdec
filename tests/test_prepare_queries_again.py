"""Preparing training queries again: after a kill, after an error, and for a further round or share."""

import json
from dataclasses import replace

import numpy as np
import pytest

from dense_jax.config import Config, CorpusConfig, PassagesConfig, TokenizerConfig, Unit
from dense_jax.data.preparation import queries as module
from dense_jax.data.preparation.prepare import prepare
from dense_jax.data.preparation.queries import open_queries, queries_folder
from dense_jax.errors import DataError
from dense_jax.types import TrainingQuery
from tests.query_files import write
from tests.sources import KilledError, contents
from tests.toys import BagOfTokens

RNG = np.random.default_rng(0)  # nothing is drawn with it

DOCUMENTS = [
    {"_id": "d0", "title": "Lamp", "text": "The lamp burns oil."},
    {"_id": "d1", "title": "Bell", "text": "The bell rings in fog."},
    {"_id": "d2", "title": "Lamp", "text": "The lamp burns oil."},  # d0 again
    {"_id": "d3", "title": "Tide", "text": "The tide falls at night."},
    {"_id": "d4", "title": "Keeper", "text": "The keeper climbs the stair."},
]
QUERIES = {"q0": "what burns oil", "q1": "what rings in fog", "q2": "who climbs the stair"}
QRELS = [("q0", "d2", 1), ("q1", "d1", 1), ("q2", "d4", 1), ("q2", "d3", 0)]


class Asks(BagOfTokens):
    """Stands for any objective that learns from queries."""

    learns_from = TrainingQuery


def beir(folder, documents=DOCUMENTS, queries=QUERIES, qrels=QRELS):
    write(folder / "corpus.jsonl", documents)
    write(folder / "queries.jsonl", [{"_id": key, "text": text} for key, text in queries.items()])
    lines = ["query-id\tcorpus-id\tscore", *("\t".join(map(str, row)) for row in qrels)]
    write(folder / "qrels" / "train.tsv", "\n".join(lines) + "\n")
    return folder


def config(source, **corpus):
    return Config(
        objective=Asks(),
        steps=1,
        batch=1,
        corpus=CorpusConfig(source=str(source), **corpus),
        tokenizer=TokenizerConfig(vocab_size=80),
        passages=PassagesConfig(unit=Unit.QUERIES, shard_size=2),
    )


def prepared(asked, root):
    prepare(asked, root)
    return open_queries(root, asked.corpus)


def ids(store, row):
    """Ids of the documents that query `row` was judged with: what answers it, and what does not."""
    names, question = store.documents.ids(), store.sample(row, 0, RNG)
    return [[names[i] for i in side.rows] for side in (question.positives, question.negatives)]


def asked_rows(path, *rows):
    """A file as `mine` writes it, of (id, text, positives, negatives)."""
    names = ("query_id", "query_text", "positive_document_ids", "negative_document_ids")
    return write(path, [dict(zip(names, row, strict=True)) for row in rows])


def test_rounds_and_shares_have_folders_of_their_own_beside_the_same_documents(tmp_path):
    source = beir(tmp_path / "source")
    mined = asked_rows(tmp_path / "mined.jsonl", ("q", "what burns", ["d0"], ["d1"]))
    configs = [config(source), config(source, query_share=0.9), config(source, queries=(str(mined),))]
    folders = {queries_folder(tmp_path / "work", asked.corpus) for asked in configs}
    prepare(configs[0], tmp_path / "work")
    documents = contents(tmp_path / "work" / "documents")
    for asked in configs[1:]:
        prepare(asked, tmp_path / "work")
    assert len(folders) == 3
    assert all(folder.is_dir() for folder in folders)
    assert contents(tmp_path / "work" / "documents") == documents


@pytest.mark.parametrize("killed", ["whole_documents", "QueryWriter", "_check_rejected", "_check_queries_unchanged"])
def test_an_interrupted_preparation_ends_with_the_same_files(tmp_path, monkeypatch, killed):
    asked = config(beir(tmp_path / "source"))
    prepare(asked, tmp_path / "whole")

    def kill(*arguments, **settings):
        raise KilledError

    with monkeypatch.context() as patched, pytest.raises(KilledError):
        patched.setattr(module, killed, kill)
        prepare(asked, tmp_path / "again")
    prepare(asked, tmp_path / "again")
    assert contents(tmp_path / "again") == contents(tmp_path / "whole")


def test_documents_of_finished_shards_are_not_read_again(tmp_path, monkeypatch):
    asked, whole = config(beir(tmp_path / "source")), module.whole_documents
    prepare(asked, tmp_path / "whole")
    seen = []

    def interrupted(documents, **settings):
        for i, group in enumerate(whole((seen.append(d.id) or d for d in documents), **settings)):
            if i == 3:
                raise KilledError
            yield group

    with monkeypatch.context() as patched, pytest.raises(KilledError):
        patched.setattr(module, "whole_documents", interrupted)
        prepare(asked, tmp_path / "again")
    progress = json.loads((tmp_path / "again" / "documents" / "progress.json").read_text())
    assert progress["documents"] == 2  # one shard
    prepare(asked, tmp_path / "again")
    assert contents(tmp_path / "again") == contents(tmp_path / "whole")


def test_the_share_that_an_error_names_can_be_used_in_the_same_folder(tmp_path):
    source = beir(tmp_path / "source", qrels=[*QRELS[:2], ("q2", "d9", 1)])
    with pytest.raises(DataError):
        prepare(config(source), tmp_path / "work")
    asked = config(source, max_rejects=0.34)
    assert prepared(asked, tmp_path / "work").ids() == ["q0", "q1"]
    reject = json.loads((queries_folder(tmp_path / "work", asked.corpus) / "rejects.jsonl").read_text())
    assert "'d9'" in reject["reason"]


def test_corrected_judgements_can_be_used_in_the_same_folder(tmp_path):
    with pytest.raises(DataError):
        prepare(config(beir(tmp_path / "source", qrels=[*QRELS[:2], ("q2", "d9", 1)])), tmp_path / "work")
    assert len(prepared(config(beir(tmp_path / "source")), tmp_path / "work")) == 3


def two_sources(tmp_path, **corpus):
    """Sources `a` and `b`; document d1 of b is document d1 of a again."""
    one = beir(tmp_path / "a")
    documents = [DOCUMENTS[1], {"_id": "d7", "title": "Rock", "text": "The rock is under the sea."}]
    other = beir(tmp_path / "b", documents, {"q0": "what is under the sea"}, [("q0", "d7", 1)])
    return replace(config(one, **corpus), corpus=CorpusConfig(source=str(one), also=(str(other),), **corpus))


def mined(path):
    """What `mine` writes about both sources: with the ids of the whole corpus."""
    return asked_rows(
        path,
        ("a/q0", "what burns oil", ["a/d0"], ["b/d7"]),
        ("a/q1", "what rings in fog", ["b/d1"], []),
        ("b/q0", "what is under the sea", ["b/d7"], ["a/d3"]),
    )


def test_a_mined_file_about_several_sources_keeps_the_ids_of_the_queries(tmp_path):
    """Else a share would be of other queries than in the first round, and a guide would not know them."""
    store = prepared(two_sources(tmp_path, queries=(str(mined(tmp_path / "mined.jsonl")),)), tmp_path / "work")
    assert store.ids() == ["a/q0", "a/q1", "b/q0"]
    assert ids(store, 0) == [["a/d0"], ["b/d7"]]
    assert ids(store, 1) == [["a/d1"], []]  # b/d1 says the same
    assert ids(store, 2) == [["b/d7"], ["a/d3"]]
