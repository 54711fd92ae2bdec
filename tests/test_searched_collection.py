"""Collections: `search`, `embed`, `index` and `answer` cover the whole corpus of the user, `evaluate` the test set."""

from dataclasses import replace

import jax
import pytest

from dense_jax.config import Unit
from dense_jax.data.preparation.prepare import prepare
from dense_jax.errors import ConfigError
from dense_jax.train.restore import Trained
from dense_jax.types import Tower, Towers
from dense_jax.workdir import Workdir
from tests import test_prepare_queries as fine_tuning
from tests.sources import config, rows, sentence, write
from tests.toys import MeanEmbedding

TOWER = Tower(MeanEmbedding(), {}, 16)


@pytest.fixture
def wiki(tmp_path):
    return write(tmp_path / "in" / "wiki.jsonl", rows(20))


@pytest.fixture
def news(tmp_path):
    """Ten documents of other texts, whose ids are those of the first ten of the wiki."""
    texts = [" ".join(sentence(10_000 + 10 * i + j) for j in range(4)) for i in range(10)]
    return write(tmp_path / "in" / "news.jsonl", [{"_id": f"d{i}", "text": text} for i, text in enumerate(texts)])


def opened(asked, workdir):
    prepare(asked, workdir)
    return Workdir(workdir, asked)


def texts(store):
    """Document id -> the texts of its passages, joined."""
    found = {}
    for document in store.texts(range(len(store))):
        found[document.id] = f"{found.get(document.id, '')} {document.text}".strip()
    return found


def whole(count=20, prefix=""):
    return {prefix + row["_id"]: row["text"] for row in rows(count)}


@pytest.mark.parametrize("unit", [Unit.PASSAGES, Unit.SPANS, Unit.CHUNKS])
def test_documents_are_searched_with_the_first_sentences_that_the_test_set_holds_out(wiki, tmp_path, unit):
    work = opened(config(wiki, held_out=8, unit=unit), tmp_path / "work")
    assert texts(work.collection(TOWER).store) == whole()
    held_out = texts(work.collection(TOWER, str(work.test_folder)).store)
    assert sum(held_out[name] != text for name, text in whole().items()) == 8


def test_a_split_corpus_keeps_the_first_sentences_that_the_test_set_holds_out(wiki, tmp_path):
    asked = config(wiki, held_out=8)
    work = opened(replace(asked, embed=replace(asked.embed, split=True)), tmp_path / "work")
    found = work.collection(TOWER).store
    assert len(found) > 20
    without_spaces = {name: text.replace(" ", "") for name, text in texts(found).items()}  # a piece may end in a word
    assert without_spaces == {name: text.replace(" ", "") for name, text in whole().items()}


@pytest.mark.parametrize("unit", [Unit.PASSAGES, Unit.SPANS, Unit.CHUNKS])
@pytest.mark.parametrize("held_out", [0, 8])
def test_all_sources_are_searched_by_the_ids_of_the_corpus(wiki, news, tmp_path, unit, held_out):
    asked = config(wiki, held_out=held_out, unit=unit, length=20)
    asked = replace(asked, corpus=replace(asked.corpus, also=(str(news),)))
    found = texts(opened(asked, tmp_path / "work").collection(TOWER).store)
    assert {name: found[name] for name in found if name.startswith("wiki")} == whole(prefix="wiki.jsonl/")
    assert sum(name.startswith("news.jsonl/d") for name in found) == 10


def test_a_corpus_without_a_test_set_is_searched_by_its_prepared_passages(wiki, tmp_path):
    work = opened(config(wiki), tmp_path / "work")
    assert work.collection(TOWER).store.folder == tmp_path / "work" / "passages-32"
    assert not (tmp_path / "work" / "collections").exists()


def test_a_named_collection_is_searched_in_place_of_the_corpus(wiki, news, tmp_path):
    asked = config(wiki, held_out=8)
    work = opened(replace(asked, embed=replace(asked.embed, collection=str(news))), tmp_path / "work")
    assert work.collection(TOWER).store.ids() == [f"d{i}" for i in range(10)]


@pytest.mark.parametrize("held_out", [0, 8])
def test_near_duplicates_that_were_left_out_stay_out_and_are_reported(tmp_path, held_out):
    copies = [row | {"_id": f"copy of {row['_id']}"} for row in rows(3)]
    source = write(tmp_path / "in" / "rows.jsonl", [*rows(20), *copies])
    asked = config(source, held_out=held_out)
    work = opened(replace(asked, corpus=replace(asked.corpus, near_duplicates=1.0)), tmp_path / "work")
    found = work.collection(TOWER)
    assert texts(found.store) == whole()
    assert ": 20 documents, 3 near-duplicates left out (see duplicates.jsonl)" in found.described


def test_a_changed_corpus_is_not_searched_by_an_older_list_of_near_duplicates(tmp_path):
    source = write(tmp_path / "in" / "rows.jsonl", [*rows(20), rows(1)[0] | {"_id": "copy"}])
    asked = config(source, held_out=8)
    work = opened(replace(asked, corpus=replace(asked.corpus, near_duplicates=1.0)), tmp_path / "work")
    write(source, rows(21))
    with pytest.raises(ConfigError, match=r"rows.jsonl changed since .*work was prepared, and .*duplicates.jsonl"):
        work.collection(TOWER)
    named = Workdir(work.path, replace(work.asked, embed=replace(work.asked.embed, collection=str(source))))
    assert texts(named.collection(TOWER).store) == whole(21)


def test_passages_of_another_workdir_are_searched_whole_only_if_the_corpus_is_theirs(wiki, news, tmp_path):
    prepare(config(wiki, held_out=8), tmp_path / "data")
    asked = config(news, workdir=str(tmp_path / "data"))
    with pytest.raises(ConfigError, match=r"data was prepared from wiki.jsonl, but .* are news.jsonl; name what is to"):
        Workdir(tmp_path / "work", asked).collection(TOWER)
    asked = config(wiki, workdir=str(tmp_path / "data"))
    assert texts(Workdir(tmp_path / "work", asked).collection(TOWER).store) == whole()


def test_a_corpus_that_was_moved_and_renamed_is_searched(wiki, tmp_path):
    work = opened(config(wiki, held_out=8), tmp_path / "work")
    moved = replace(work.asked.corpus, source=str(wiki.rename(tmp_path / "other.jsonl")))
    assert texts(Workdir(work.path, replace(work.asked, corpus=moved)).collection(TOWER).store) == whole()


def test_no_more_documents_are_searched_than_the_limit_of_the_corpus(wiki, tmp_path):
    asked = config(wiki, held_out=4)
    work = opened(replace(asked, corpus=replace(asked.corpus, limit=12)), tmp_path / "work")
    assert texts(work.collection(TOWER).store) == whole(12)


def test_collections_of_one_name_and_other_content_have_stores_of_their_own(wiki, tmp_path):
    work = opened(config(wiki), tmp_path / "work")
    found = {}
    for place, count in (("a", 3), ("b", 5)):
        write(tmp_path / place / "set" / "corpus.jsonl", rows(count))
        found[place] = work.collection(TOWER, str(tmp_path / place / "set")).store
    assert [len(store) for store in found.values()] == [3, 5]
    assert len(work.collection(TOWER, str(tmp_path / "a" / "set")).store) == 3


def test_a_corpus_that_grows_is_searched_as_it_is_now(wiki, tmp_path):
    work = opened(config(wiki, held_out=8), tmp_path / "work")
    assert len(work.collection(TOWER).store) == 20
    write(wiki, rows(25))
    assert texts(work.collection(TOWER).store) == whole(25)


def test_a_collection_is_described_by_its_source_and_its_number_of_documents(wiki, news, tmp_path):
    asked = config(wiki, held_out=8, unit=Unit.CHUNKS)
    work = opened(replace(asked, corpus=replace(asked.corpus, also=(str(news),))), tmp_path / "work")
    assert work.collection(TOWER).described == f"{wiki}, {news}: 30 documents"
    test_set = work.collection(TOWER, str(work.test_folder))
    assert test_set.described == f"{tmp_path / 'work' / 'test'} (the held-out test set): 30 documents"


def test_documents_without_a_text_that_passages_lack_are_reported(tmp_path):
    source = write(tmp_path / "in" / "rows.jsonl", [*rows(4), {"_id": "title", "title": "Light", "text": ""}])
    found = opened(config(source), tmp_path / "work").collection(TOWER)
    count = len(found.store)
    assert found.described == f"rows.jsonl: 5 documents, 1 of them without text and left out, as {count} passages"


def test_documents_that_are_mined_and_those_of_a_test_set_are_the_same_content(tmp_path):
    source = fine_tuning.folder(tmp_path / "toys")
    write(source / "qrels" / "test.tsv", [])
    work = opened(fine_tuning.config(source), tmp_path / "work")
    mined, evaluated = work.documents_of_queries, work.collection(TOWER, str(source))
    assert mined.store.folder != evaluated.store.folder
    assert mined.store.content == evaluated.store.content
    assert (mined.described, evaluated.described) == ("toys: 12 documents", f"{source}: 12 documents")
    assert work.collection(TOWER).store.folder == mined.store.folder


def test_the_same_texts_are_embedded_once_whatever_their_source_is_called(wiki, tmp_path, capsys):
    work = opened(config(wiki), tmp_path / "work")
    work.__dict__["config"] = work.asked
    folders = []
    for name, count in (("a", 3), ("b", 3), ("c", 4)):
        source = write(tmp_path / f"{name}.jsonl", rows(count))
        folders.append(work.embeddings(work.collection(TOWER, str(source)), trained()).folder)
    assert folders[0] == folders[1] != folders[2]
    assert folders[0].name.startswith("a-00000007-")
    said = capsys.readouterr().err
    assert f"{tmp_path / 'b.jsonl'}: 3 documents; checkpoint of step 7" in said
    assert said.count("embed: 100%") == 2


def test_other_parameters_of_the_same_step_and_other_layouts_have_vectors_of_their_own(wiki, tmp_path):
    work = opened(config(wiki), tmp_path / "work")
    changed = [trained(), trained(passage_fingerprint="other"), trained(replace(PASSAGES, length=12))]
    found = [work.embeddings(work.collection(TOWER, str(wiki)), each).folder for each in changed]
    assert len(set(found)) == 3


PASSAGES = Tower(MeanEmbedding(vocab_size=80), MeanEmbedding(vocab_size=80).init(jax.random.key(0)), 16)


def trained(tower=PASSAGES, **changes):
    about = {"step": 7, "passage_step": 7, "fingerprint": "a", "passage_fingerprint": "a"} | changes
    return Trained(Towers(tower, tower), None, described="checkpoint of step 7", **about)
