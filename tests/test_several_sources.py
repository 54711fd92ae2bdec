"""A corpus of several sources: whose rows are whose, and how they are prepared, searched and evaluated together."""

import json
from dataclasses import replace

import numpy as np
import pytest

from dense_jax.config import CorpusConfig, PassagesConfig, Unit
from dense_jax.data.preparation import prepare as module
from dense_jax.data.preparation import running_text
from dense_jax.data.preparation.collection import open_collection
from dense_jax.data.preparation.prepare import open_passages, prepare
from dense_jax.data.sources.corpus import open_corpus
from dense_jax.data.stores.passage_store import PassageStore
from dense_jax.data.tokenizer import Tokenizer
from dense_jax.errors import ConfigError, DataError
from dense_jax.retrieval.beir import read_test_set
from dense_jax.types import Document, Reject, Tower
from dense_jax.workdir import Workdir
from tests.sources import config, contents, killed_at, rows, sentence, write
from tests.toys import MeanEmbedding


@pytest.fixture
def wiki(tmp_path):
    return write(tmp_path / "in" / "wiki.jsonl", rows(20))


@pytest.fixture
def news(tmp_path):
    """Ten documents whose ids are those of the first ten of the wiki."""
    texts = [" ".join(sentence(10_000 + 10 * i + j) for j in range(4)) for i in range(10)]
    return write(tmp_path / "in" / "news.jsonl", [{"_id": f"d{i}", "text": text} for i, text in enumerate(texts)])


def of_both(wiki, news, limit=0, **settings):
    asked = config(wiki, **settings)
    return replace(asked, corpus=replace(asked.corpus, also=(str(news),), limit=limit))


def read(*sources, **settings):
    first, *others = map(str, sources)
    return list(open_corpus(CorpusConfig(source=first, also=tuple(others), **settings)))


def test_rows_come_source_after_source_with_the_sources_name_before_their_ids(wiki, news):
    found = read(wiki, news)
    assert [row.id for row in found[:3]] == ["wiki.jsonl/d0", "wiki.jsonl/d1", "wiki.jsonl/d2"]
    assert [row.id for row in found[20:]] == [f"news.jsonl/d{i}" for i in range(10)]
    assert found[0] == Document("wiki.jsonl/d0", "Title 0", rows(1)[0]["text"])


def test_a_source_alone_keeps_its_ids(wiki):
    assert [row.id for row in read(wiki)[:2]] == ["d0", "d1"]


def test_white_space_in_a_sources_name_stays_out_of_ids_which_could_be_no_test_queries_else(wiki, news):
    spaced = news.rename(news.with_name("the news.jsonl"))
    assert read(wiki, spaced)[-1].id == "the_news.jsonl/d9"


def test_every_source_has_its_own_form(wiki, tmp_path):
    write(tmp_path / "beir" / "corpus.jsonl", [{"_id": "a", "title": "T", "text": "x"}])
    (tmp_path / "rows.tsv").write_text("7\ty\n")
    found = read(wiki, tmp_path / "beir", tmp_path / "rows.tsv")[20:]
    assert found == [Document("beir/a", "T", "x"), Document("rows.tsv/7", "", "y")]


def test_a_rejected_row_is_named_by_its_own_file_and_line(wiki, news):
    write(news, [{"_id": "a", "text": "x"}, {"_id": "a", "text": "y"}])
    assert read(wiki, news)[-1] == Reject(f"{news}:2", f"has the id 'a' of {news}:1")


def test_a_limit_is_of_each_source(wiki, news):
    assert [row.id for row in read(wiki, news, limit=1)] == ["wiki.jsonl/d0", "news.jsonl/d0"]


def test_two_sources_of_one_name_are_refused(wiki, tmp_path):
    other = write(tmp_path / "elsewhere" / "wiki.jsonl", rows(2))
    message = (
        "corpus.source and corpus.also name two sources that are called wiki.jsonl; rename one of them, since the name "
        "stands before the ids of its documents"
    )
    with pytest.raises(ConfigError) as error:
        read(wiki, other)
    assert str(error.value) == message


def test_a_further_source_that_is_missing_is_named(wiki, tmp_path):
    with pytest.raises(DataError, match=r"corpus source .*absent.jsonl: no such file or folder; name"):
        read(wiki, tmp_path / "absent.jsonl")


def test_too_many_rejects_in_one_source_are_too_many_however_large_the_other_is(wiki, news, tmp_path):
    write(news, [{"_id": "a", "text": "Some text."}, {"text": 3}])
    with pytest.raises(DataError) as error:
        prepare(of_both(wiki, news, max_rejects=0.4), tmp_path / "work")
    assert str(error.value).startswith("1 of 2 rows cannot be used (corpus.max_rejects=0.4):")
    assert "wiki" not in str(error.value)
    counts = prepare(of_both(wiki, news, max_rejects=0.5), tmp_path / "work")
    assert (counts["documents"], counts["rejected rows"]) == (21, 1)
    assert json.loads((tmp_path / "work" / "rejects.jsonl").read_text())["file"] == str(news)


def test_every_source_with_too_many_rejects_is_reported(wiki, news, tmp_path):
    for path in (wiki, news):
        write(path, [{"_id": "a", "text": "Some text."}, {"text": 3}])
    with pytest.raises(DataError, match=rf"(?s){wiki}:2: .*{news}:2: "):
        prepare(of_both(wiki, news), tmp_path / "work")


def test_a_source_that_gives_nothing_to_train_on_is_refused_by_name(wiki, news, tmp_path):
    write(news, [{"_id": "a", "title": "A title alone", "text": ""}])
    with pytest.raises(DataError, match=r"^news.jsonl: no document has a text, only titles"):
        prepare(of_both(wiki, news), tmp_path / "work")


def test_the_store_knows_where_each_source_begins_and_ends(wiki, news, tmp_path):
    counts = prepare(of_both(wiki, news), tmp_path / "work")
    store = PassageStore(tmp_path / "work" / "passages-32")
    first, second = store.parts()
    assert (first.name, second.name) == ("wiki.jsonl", "news.jsonl")
    assert (first.rows.start, first.rows.stop, second.rows.stop) == (0, second.rows.start, len(store))
    assert {name.partition("/")[0] for name in store.ids()[: first.rows.stop]} == {"wiki.jsonl"}
    assert {name.partition("/")[0] for name in store.ids()[first.rows.stop :]} == {"news.jsonl"}
    for part in store.parts():
        assert part.tokens == sum(len(passage.tokens) for passage in store.passages(part.rows))
        assert counts[f"of {part.name}"] == f"{len(part.rows)} passages, {part.tokens:,} tokens"


def test_no_shard_holds_passages_of_two_sources(wiki, news, tmp_path):
    prepare(of_both(wiki, news, shard_size=1_000), tmp_path / "work")
    store = PassageStore(tmp_path / "work" / "passages-32")
    assert store.manifest["passages_per_shard"] == [len(part.rows) for part in store.parts()]


def test_each_source_is_prepared_as_it_would_be_alone(wiki, news, tmp_path):
    prepare(of_both(wiki, news), tmp_path / "both")
    alone = config(news, tokenizer=tmp_path / "both" / "tokenizer")
    prepare(alone, tmp_path / "alone")
    both, one = PassageStore(tmp_path / "both" / "passages-32"), PassageStore(tmp_path / "alone" / "passages-32")
    ours = both.passages(both.parts()[1].rows)
    assert [p.tokens.tolist() for p in ours] == [p.tokens.tolist() for p in one.passages(range(len(one)))]


def test_no_chunk_crosses_from_one_source_into_the_next(wiki, news, tmp_path):
    prepare(of_both(wiki, news, unit=Unit.CHUNKS, length=16), tmp_path / "work")
    store = open_passages(tmp_path / "work", PassagesConfig(unit=Unit.CHUNKS, length=16))
    texts = [json.loads(line)["text"] for line in news.read_text().splitlines()]
    of_news = Tokenizer.load(tmp_path / "work" / "tokenizer").encode(texts)
    found = store.passages(store.parts()[1].rows)
    assert np.concatenate([chunk.tokens for chunk in found]).tolist() == np.concatenate(of_news).tolist()


@pytest.mark.parametrize("unit", [Unit.PASSAGES, Unit.SPANS, Unit.CHUNKS])
@pytest.mark.parametrize("groups", [0, 5, 19, 20, 21, 29])
def test_an_interrupted_preparation_ends_with_the_same_files(wiki, news, tmp_path, unit, groups, monkeypatch):
    monkeypatch.setattr(running_text, "GROUP", 1)  # every document is a group of chunks
    asked = of_both(wiki, news, held_out=4, shard_size=12, unit=unit, length=20)
    prepare(asked, tmp_path / "whole")
    with killed_at(module, "entries", groups):
        prepare(asked, tmp_path / "again")
    prepare(asked, tmp_path / "again")
    assert contents(tmp_path / "again") == contents(tmp_path / "whole")


def test_a_further_source_or_a_changed_one_is_another_text(wiki, news, tmp_path):
    prepare(of_both(wiki, news), tmp_path / "work")
    with pytest.raises(ConfigError, match=r"other settings:\n  corpus.source.also: \{'1': \{'name': 'news.jsonl'"):
        prepare(config(wiki), tmp_path / "work")
    write(news, rows(3))
    with pytest.raises(ConfigError, match=r"other settings:\n  corpus.source.also.1.digest: \w+ -> \w+\n"):
        prepare(of_both(wiki, news), tmp_path / "work")


def test_sources_in_another_order_are_another_text(wiki, news, tmp_path):
    prepare(of_both(wiki, news), tmp_path / "work")
    with pytest.raises(ConfigError, match=r"  corpus.source.name: wiki.jsonl -> news.jsonl\n"):
        prepare(of_both(news, wiki), tmp_path / "work")


def test_test_queries_are_held_out_of_all_sources_and_found_by_the_ids_of_the_corpus(wiki, news, tmp_path):
    asked = of_both(wiki, news, held_out=20)
    prepare(asked, tmp_path / "work")
    test_set = read_test_set(tmp_path / "work" / "test", "test")
    relevant = {name: next(iter(grades)) for name, grades in test_set.qrels.items()}
    assert {name.partition("/")[0] for name in relevant.values()} == {"wiki.jsonl", "news.jsonl"}
    store = PassageStore(tmp_path / "work" / "passages-32")
    text = " ".join(store.document(row).text for row in range(len(store)))
    assert not any(query in text for query in test_set.queries.values())
    assert set(relevant.values()) < set(store.ids())


def test_bm25_searches_the_held_out_test_set_of_several_sources(wiki, news, tmp_path):
    prepare(of_both(wiki, news, held_out=8), tmp_path / "work")
    work = Workdir(tmp_path / "work", of_both(wiki, news, held_out=8))
    found = work.bm25(work.collection(Tower(MeanEmbedding(), {}, length=32), str(work.test_folder)))
    assert found.ids == [row.id for row in read(wiki, news)]
    judged = read_test_set(work.test_folder, "test").qrels.values()
    assert {name for grades in judged for name in grades} < set(found.ids)


def test_a_collection_is_one_source_whose_documents_keep_their_ids(wiki, news):
    found = open_collection(str(news), of_both(wiki, news, limit=1))
    assert [row.id for row in found] == [f"d{i}" for i in range(10)]


def collection(asked, workdir):
    prepare(asked, workdir)
    return Workdir(workdir, asked).collection(Tower(MeanEmbedding(), {}, 16))


def test_passages_of_all_sources_are_searched_together(wiki, news, tmp_path):
    assert len(collection(of_both(wiki, news), tmp_path / "work").store.parts()) == 2


def test_instead_of_chunks_the_corpus_itself_is_searched(wiki, tmp_path):
    found = collection(config(wiki, unit=Unit.CHUNKS), tmp_path / "work")
    assert found.store.ids() == [f"d{i}" for i in range(20)]
