"""A corpus that is written while it is read is refused, and what to do then works."""

import json
import re
import shutil

import pytest

from dense_jax.artifact import is_finished
from dense_jax.config import Config, CorpusConfig, LoaderConfig, Order, PassagesConfig, TokenizerConfig, Unit
from dense_jax.data.preparation import collection, text
from dense_jax.data.preparation import prepare as module
from dense_jax.data.preparation import queries as queries_module
from dense_jax.data.preparation.collection import open_collection, prepare_collection
from dense_jax.data.preparation.prepare import prepare
from dense_jax.data.tokenizer import Tokenizer
from dense_jax.errors import DataError
from dense_jax.models.bert import bert
from dense_jax.models.encoder import Encoder
from dense_jax.objectives.supervised import Supervised
from tests.sources import config, rows, write


@pytest.fixture
def source(tmp_path):
    return write(tmp_path / "source" / "rows.jsonl", rows(30))


def growing(monkeypatch, target, name, path, times=1):
    """`target.name`, before which one row more is written to `path`, the first few `times`."""
    called, left = getattr(target, name), [times]

    def grown(*arguments, **settings):
        if left[0]:
            left[0] -= 1
            with path.open("a") as file:
                file.write(json.dumps({"_id": f"more {left[0]}", "title": "", "text": "One more. And another."}) + "\n")
        return called(*arguments, **settings)

    monkeypatch.setattr(target, name, grown)


def test_a_corpus_that_grows_while_its_rows_are_checked_is_refused_and_taken_once_it_rests(
    source, tmp_path, monkeypatch
):
    growing(monkeypatch, text, "_make_tokenizer", source)
    with pytest.raises(
        DataError, match=r"rows\.jsonl changed while it was read:\n  digest: .*\n.*give the same command"
    ):
        prepare(config(source), tmp_path / "work")
    assert prepare(config(source), tmp_path / "work")["documents"] == 31


def test_a_corpus_that_grows_while_it_is_tokenised_is_refused(source, tmp_path, monkeypatch):
    growing(monkeypatch, module, "entries", source)
    with pytest.raises(DataError, match=r"changed while it was read(.|\n)*prepare it in another --workdir"):
        prepare(config(source), tmp_path / "work")
    assert not is_finished(tmp_path / "work" / "passages-32")
    assert prepare(config(source), tmp_path / "other")["documents"] == 31


@pytest.mark.parametrize("during", ["scan", "whole_documents"])
def test_a_collection_that_grows_while_it_is_read_is_refused_and_made_as_the_message_says(
    source, tmp_path, monkeypatch, during
):
    tokenizer, settings = Tokenizer.train(["a b c d"], 40, True), config(source)

    def made():
        return prepare_collection(
            open_collection(str(source), settings), settings, tokenizer, tmp_path / "made", "rows"
        )

    growing(monkeypatch, collection, during, source)
    with pytest.raises(DataError, match="changed while it was read") as refused:
        made()
    if found := re.search(r"remove (\S+) and", str(refused.value)):
        shutil.rmtree(found[1])
    assert len(made()) == 31


def test_queries_that_grow_while_they_are_read_are_refused_and_taken_once_they_rest(source, tmp_path, monkeypatch):
    queries = write(
        tmp_path / "queries.jsonl",
        [{"query_id": "q1", "query_text": "light", "positive_document_ids": ["d1"], "negative_document_ids": []}],
    )
    objective = Supervised(Encoder(bert("tiny")), query_length=16, passage_length=32, negatives=2)
    asked = Config(
        objective=objective,
        steps=1,
        batch=1,
        corpus=CorpusConfig(source=str(source), queries=(str(queries),)),
        tokenizer=TokenizerConfig(vocab_size=80),
        passages=PassagesConfig(unit=Unit.QUERIES),
        loader=LoaderConfig(order=Order.DISTINCT),
    )

    def more(*arguments):
        line = {"query_id": "q2", "query_text": "sea", "positive_document_ids": ["d2"], "negative_document_ids": []}
        with queries.open("a") as file:
            file.write(json.dumps(line) + "\n")
        monkeypatch.undo()
        return queries_module._check_rejected(*arguments)

    monkeypatch.setattr(queries_module, "_check_rejected", more)
    with pytest.raises(DataError, match=r"corpus\.queries changed while it was read; give the same command again"):
        prepare(asked, tmp_path / "work")
    assert prepare(asked, tmp_path / "work")["queries"] == 2


def test_a_corpus_that_rests_is_read_in_full(source, tmp_path):
    assert prepare(config(source), tmp_path / "work")["documents"] == 30
