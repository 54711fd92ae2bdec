"""What training visits: passages with and without room for a title, now and then short, and documents as spans."""

import numpy as np
import pytest

from dense_jax.config import PassagesConfig, Unit
from dense_jax.data.preparation import entries
from dense_jax.data.preparation import prepare as module
from dense_jax.data.preparation.prepare import passages_folder, prepare
from dense_jax.data.stores.passage_store import PassageStore
from dense_jax.data.tokenizer import Tokenizer
from dense_jax.errors import DataError
from dense_jax.types import Document
from tests.sources import WORDS, config, contents, killed_at, rows, sentence, write

WHOLE_WORDS = 200  # entries of a vocabulary that holds every word, so that a sentence is nine tokens


@pytest.fixture
def source(tmp_path):
    return write(tmp_path / "rows.jsonl", rows(30))


def prepared(source, workdir, **passages):
    """What `prepare` counts and stores."""
    counts = prepare(config(source, vocab_size=WHOLE_WORDS, **passages), workdir)
    store = PassageStore(passages_folder(workdir, PassagesConfig(**{"length": 32} | passages)))
    return counts, store


def all_of(store):
    return store.passages(range(len(store)))


def test_each_kind_of_passage_has_a_folder_of_its_own(tmp_path):
    def name(**passages):
        return passages_folder(tmp_path, PassagesConfig(length=64, **passages)).relative_to(tmp_path).as_posix()

    assert name() == "passages-64"
    assert name(titled=False) == "passages-64-untitled"
    assert name(titled=False, short_rate=0.1) == "passages-64-untitled-10-percent-short"
    assert name(unit=Unit.CHUNKS) == "chunks-64"
    assert name(unit=Unit.CHUNKS, titled=False) == "chunks-64-untitled"
    assert name(unit=Unit.SPANS) == name(unit=Unit.SPANS, titled=False) == "spans-64"  # spans have no titles anyway


def test_passages_and_spans_share_the_tokenizer_the_test_set_and_the_account_of_the_text(source, tmp_path):
    work = tmp_path / "work"
    prepare(config(source, held_out=4), work)
    before, times = contents(work), {path: path.stat().st_mtime_ns for path in work.rglob("*.json*")}
    prepare(config(source, held_out=4, unit=Unit.SPANS), work)
    after = contents(work)
    assert {path.partition("/")[0] for path in after.keys() - before.keys()} == {"spans-32"}
    assert {path: after[path] for path in before} == before
    assert {path: path.stat().st_mtime_ns for path in times} == times

    prepare(config(source, held_out=4, unit=Unit.SPANS), tmp_path / "alone")
    assert contents(tmp_path / "alone") == {path: after[path] for path in after if not path.startswith("passages-32")}


def test_another_workdir_that_the_config_names_is_filled_in_the_place_of_the_runs_own(source, tmp_path):
    shared = {"workdir": str(tmp_path / "shared")}
    first = prepare(config(source, **shared), tmp_path / "first")
    assert first["folder"] == str(tmp_path / "shared" / "passages-32")
    assert {path.name for path in (tmp_path / "shared").iterdir()} == {
        "tokenizer", "text.json", "rejects.jsonl", "passages-32",
    }  # fmt: skip
    before = contents(tmp_path / "shared")
    assert prepare(config(source, **shared), tmp_path / "second") == first
    assert prepare(config(source), tmp_path / "shared") == first
    assert contents(tmp_path / "shared") == before
    assert not (tmp_path / "first").exists() and not (tmp_path / "second").exists()


def test_a_document_as_spans_is_one_row_of_runs_of_whole_sentences_without_a_title(source, tmp_path):
    counts, store = prepared(source, tmp_path, unit=Unit.SPANS, length=20)  # [CLS], two sentences, [SEP]
    tokenizer = Tokenizer.load(tmp_path / "tokenizer")
    assert (counts["documents"], counts["passages"]) == (30, 30)
    assert store.ids() == [row["_id"] for row in rows(30)]
    for found, row in zip(all_of(store), rows(30), strict=True):
        spans = [found.tokens[found.sentence(i)] for i in range(len(found.sentences))]
        sentences = len(row["text"].split(". "))
        assert [len(span) for span in spans] == [18] * (sentences // 2) + [9] * (sentences % 2)
        assert " ".join(map(tokenizer.decode, spans)) == store.document(found.row).text.lower() == row["text"].lower()
        assert len(found.title) == 0


def test_documents_of_fewer_than_two_spans_are_left_out_and_counted(source, tmp_path):
    counts, store = prepared(source, tmp_path, unit=Unit.SPANS, length=38)  # four sentences a span
    assert store.ids() == [f"d{i}" for i in range(30) if 3 + i % 4 > 4]
    assert store.manifest["left_out"] == counts["of fewer than two spans"] == 16
    assert (counts["documents"], counts["passages"]) == (30, 14)


def test_a_corpus_in_which_no_document_makes_two_spans_is_refused_each_time(source, tmp_path):
    for _ in range(2):
        with pytest.raises(
            DataError,
            match=r"rows.jsonl: no document makes two spans of 56 tokens; use a shorter --passages.length, "
            "or longer documents",
        ):
            prepared(source, tmp_path, unit=Unit.SPANS, length=56)
        assert not (tmp_path / "spans-56").exists()


def test_documents_of_a_title_alone_are_counted_and_a_corpus_of_nothing_else_is_refused(tmp_path):
    titles = [{"_id": f"t{i}", "title": sentence(i), "text": ""} for i in range(3)]
    counts, _ = prepared(write(tmp_path / "some.jsonl", [*rows(4), *titles]), tmp_path / "work")
    assert (counts["documents"], counts["without text"]) == (7, 3)
    with pytest.raises(DataError, match=r"titles.jsonl: no document has a text, only titles; use another --corpus"):
        prepared(write(tmp_path / "titles.jsonl", titles), tmp_path / "empty")


def test_without_room_for_the_title_a_passage_holds_more_and_keeps_its_title(source, tmp_path):
    most = {}
    for titled in (True, False):
        _, store = prepared(source, tmp_path, length=30, titled=titled)
        most[titled] = max(len(passage.tokens) for passage in all_of(store))
        assert all(len(passage.title) for passage in all_of(store))
    assert most == {True: 18, False: 27}  # 30 less 3 and the title; 30 less 2


def test_short_passages_are_the_same_in_a_second_preparation_and_after_an_interruption(source, tmp_path):
    asked = config(source, vocab_size=WHOLE_WORDS, unit=Unit.SPANS, short_rate=0.5, length=60, shard_size=4)

    with killed_at(module, "entries", 17):
        prepare(asked, tmp_path / "interrupted")
    for name in ("one", "two", "interrupted"):
        counts = prepare(asked, tmp_path / name)
        assert 0 < counts["of fewer than two spans"] < 30
    assert contents(tmp_path / "one") == contents(tmp_path / "two") == contents(tmp_path / "interrupted")


def test_where_short_passages_end_depends_on_their_own_document_only(source, tmp_path):
    fewer = write(tmp_path / "fewer.jsonl", rows(30)[::-3])

    def texts(source, name):
        _, store = prepared(source, tmp_path / name, short_rate=0.5)
        return {(store.document(row).id, store.document(row).text) for row in range(len(store))}

    assert texts(fewer, "fewer") == {(id, text) for id, text in texts(source, "all") if int(id[1:]) % 3 == 2}


@pytest.mark.slow
def test_one_run_in_ten_is_shorter_and_any_shorter_length_is_as_likely():
    tokenizer = Tokenizer.train(WORDS, WHOLE_WORDS, lowercase=True)
    document = Document("d", "", "Sea. " * 100_000)  # sentences of two tokens
    asked = PassagesConfig(length=102, titled=False, short_rate=0.1)
    found = [len(entry.tokens) for entry in next(entries.entries([document], tokenizer, asked)).entries][:-1]
    short = np.array([length for length in found if length < 100])
    assert max(found) == 100  # beside [CLS] and [SEP]
    # about 2,100 runs, of which 99 in 1,000 have room for fewer than 100 tokens: four standard deviations
    assert len(short) / len(found) == pytest.approx(0.099, abs=0.026)
    quarters = np.bincount((short - 1) // 25, minlength=4) / len(short)
    assert quarters == pytest.approx([0.25] * 4, abs=0.12)
