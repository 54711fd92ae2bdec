"""Chunks of running text: how documents are cut, what is stored, and what a visit of training sees."""

import pickle

import numpy as np
import pytest

from dense_jax.artifact import claim
from dense_jax.config import PassagesConfig, Unit
from dense_jax.data.preparation import prepare as module
from dense_jax.data.preparation import running_text
from dense_jax.data.preparation.prepare import open_passages, prepare
from dense_jax.data.preparation.running_text import ChunkStore, chunks, cut
from dense_jax.data.sentences import Tokenised
from dense_jax.data.stores.passage_store import StoreWriter
from dense_jax.data.stores.shards import Group
from dense_jax.data.tokenizer import Tokenizer
from dense_jax.errors import DataError
from dense_jax.types import Document
from tests.sources import config, contents, killed_at, rows, sentence, write

A, B, C = (Document(name, name.upper(), "") for name in "abc")


def ids(*numbers):
    return np.array(numbers, np.int32)


def lists(entries):
    return [(entry.tokens.tolist(), entry.sentences.tolist()) for entry in entries]


LINES = [(A, "A", ids(1, 2)), (A, "One.", ids(3, 4, 5)), (B, "Two.", ids(6, 7, 8, 9, 10))]


def test_running_text_is_cut_every_so_many_tokens_and_the_rest_is_kept():
    found = cut(LINES, 4)
    assert lists(found) == [([1, 2, 3, 4], [0, 2]), ([5, 6, 7, 8], [1]), ([9, 10], [])]
    assert all(len(entry.title) == 0 for entry in found)


def test_a_chunk_is_shown_as_the_sentences_it_has_a_part_of_under_the_first_ones_document():
    assert [entry.document for entry in cut(LINES, 4)] == [
        Document("a", "A", "A One."),
        Document("a", "A", "One. Two."),
        Document("b", "B", "Two."),
    ]


DOCUMENTS = [
    Tokenised(A, ids(1, 2), [("One.", ids(3, 4, 5))]),
    Tokenised(B, ids(6), []),
    Tokenised(C, ids(), [("Two.", ids(7, 8)), ("Three.", ids(9, 10, 11))]),
]


def test_each_document_is_its_title_if_it_is_to_be_seen_and_its_text():
    (titled,) = chunks(DOCUMENTS, 4, titled=True)
    (untitled,) = chunks(DOCUMENTS, 4, titled=False)
    assert lists(titled.entries) == [([1, 2, 3, 4], [0, 2]), ([5, 7, 8, 9], [1, 3]), ([10, 11], [])]
    assert lists(untitled.entries) == [([3, 4, 5, 7], [0, 3]), ([8, 9, 10, 11], [1])]


def test_a_document_of_a_title_alone_is_left_out_and_counted():
    (group,) = chunks(DOCUMENTS, 4, titled=True)
    assert (group.documents, group.left_out) == (3, 1)
    assert list(chunks([DOCUMENTS[1]], 4, titled=True)) == [Group([], 1, 1)]


def test_documents_are_cut_together_until_they_have_enough_tokens(monkeypatch):
    monkeypatch.setattr(running_text, "GROUP", 5)
    groups = list(chunks(DOCUMENTS * 2, 4, titled=True))
    assert [(len(g.entries), g.documents) for g in groups] == [(2, 1), (2, 2), (2, 1), (2, 2)]
    assert lists(groups[1].entries) == [([7, 8, 9, 10], [0, 2]), ([11], [])]


@pytest.fixture
def source(tmp_path):
    return write(tmp_path / "rows.jsonl", rows(30))


def prepared(source, workdir, **passages):
    asked = {"unit": Unit.CHUNKS, "length": 16} | passages
    counts = prepare(config(source, vocab_size=200, **asked), workdir)
    return counts, open_passages(workdir, PassagesConfig(**asked))


@pytest.mark.parametrize("titled", [True, False])
def test_chunks_in_a_row_are_the_text_of_the_corpus(source, tmp_path, titled):
    counts, store = prepared(source, tmp_path, titled=titled)
    tokenizer = Tokenizer.load(tmp_path / "tokenizer")
    texts = [text for row in rows(30) for text in ((row["title"], row["text"]) if titled else (row["text"],))]
    text = np.concatenate(tokenizer.encode(texts))
    found = store.passages(range(len(store)))
    assert np.concatenate([chunk.tokens for chunk in found]).tolist() == text.tolist()
    assert {len(chunk.tokens) for chunk in found[:-1]} == {16}
    assert (counts["documents"], counts["without text"], counts["tokens"]) == (30, 0, len(text))


def test_sentences_of_a_chunk_start_with_it_and_where_they_do_in_the_text(source, tmp_path):
    _, store = prepared(source, tmp_path, titled=False)
    for chunk in store.passages(range(10)):  # sentences of nine tokens
        starts = [i for i in range(16) if i == 0 or (16 * chunk.row + i) % 9 == 0]
        assert chunk.sentences.tolist() == starts
    assert store[1].sentence(0) == slice(0, 2)
    assert store[1].sentences.dtype == np.int32


def test_a_corpus_of_titles_alone_is_refused(tmp_path):
    titles = [{"_id": f"t{i}", "title": sentence(i), "text": ""} for i in range(3)]
    with pytest.raises(DataError, match=r"titles.jsonl: no document has a text, only titles; use another --corpus"):
        prepared(write(tmp_path / "titles.jsonl", titles), tmp_path / "work")


@pytest.mark.parametrize("groups", [0, 1, 4, 7])
def test_an_interrupted_preparation_ends_with_the_same_files(source, tmp_path, groups, monkeypatch):
    monkeypatch.setattr(running_text, "GROUP", 100)  # tokens, of three documents or so
    asked = config(source, vocab_size=200, held_out=4, unit=Unit.CHUNKS, length=16, shard_size=10)
    prepare(asked, tmp_path / "whole")

    with killed_at(module, "entries", groups):
        prepare(asked, tmp_path / "again")
    prepare(asked, tmp_path / "again")
    assert contents(tmp_path / "again") == contents(tmp_path / "whole")


TEXT = np.arange(5, 75, dtype=np.int32)  # seventy tokens that tell where they are from


def stored(folder, *sources):
    """A store of chunks of 16 tokens: of each source some groups, each of sentences of ten tokens."""
    claim(folder, {"passages": {"length": 16}}, {})
    writer = StoreWriter(folder, shard_size=3, vocab_size=100)
    for number, groups in enumerate(sources):
        writer.begin(f"source{number}")
        for tokens in groups:
            lines = [(A, "", tokens[i : i + 10]) for i in range(0, len(tokens), 10)]
            writer.add(Group(cut(lines, 16), 1, 0))
    writer.finish()
    return ChunkStore(folder)


def draws(store, row, count=400):
    rng = np.random.default_rng(0)
    return [store.sample(row, 0, rng) for _ in range(count)]


@pytest.mark.slow
def test_a_visit_sees_a_window_from_any_place_in_its_chunk_on(tmp_path):
    found = draws(stored(tmp_path, [TEXT]), row=1, count=3_200)
    for window in found:
        start = window.tokens[0] - 5
        assert window.tokens.tolist() == TEXT[start : start + 16].tolist()
        assert window.row == 1
    counts = np.bincount([window.tokens[0] - 5 - 16 for window in found])
    # 16 places, drawn 200 times each in the mean: four standard deviations
    assert counts == pytest.approx([200] * 16, abs=4 * (3_200 * 1 / 16 * 15 / 16) ** 0.5)


def test_sentences_of_a_window_start_with_it_and_where_they_do_in_the_text(tmp_path):
    for window in draws(stored(tmp_path, [TEXT]), row=1):
        start = int(window.tokens[0]) - 5
        assert window.sentences.tolist() == [i for i in range(16) if i == 0 or (start + i) % 10 == 0]


def test_before_a_shorter_chunk_the_window_starts_where_there_are_enough_tokens(tmp_path):
    found = draws(stored(tmp_path, [TEXT]), row=3)  # tokens 48 to 63; six are left for the last chunk
    assert {len(window.tokens) for window in found} == {16}
    assert {int(window.tokens[0]) - 5 - 48 for window in found} == set(range(7))


def test_a_shorter_chunk_is_seen_as_it_is_also_if_another_text_follows(tmp_path):
    store = stored(tmp_path, [TEXT, TEXT])
    assert [len(store[row].tokens) for row in (4, 9)] == [6, 6]
    for row in (4, 9):
        assert {tuple(window.tokens) for window in draws(store, row, 20)} == {tuple(TEXT[64:])}
        assert draws(store, row, 1)[0].sentences.tolist() == [0]


def test_no_window_goes_on_from_one_source_into_the_next(tmp_path):
    store = stored(tmp_path, [TEXT[:32]], [TEXT])
    assert {tuple(window.tokens) for window in draws(store, 1, 20)} == {tuple(TEXT[16:32])}
    assert len({tuple(window.tokens) for window in draws(store, 0, 20)}) > 5


def test_a_draw_depends_on_the_generator_only_also_in_another_process(tmp_path):
    store = stored(tmp_path, [TEXT])
    first, again = draws(store, 0, 20), draws(pickle.loads(pickle.dumps(store)), 0, 20)
    assert [window.tokens.tolist() for window in first] == [window.tokens.tolist() for window in again]


def test_other_passages_are_seen_as_they_are_and_nothing_is_drawn(source, tmp_path):
    _, store = prepared(source, tmp_path, unit=Unit.PASSAGES, length=32)
    rng = np.random.default_rng(0)
    assert store.sample(3, 0, rng).tokens.tolist() == store[3].tokens.tolist()
    assert rng.random() == np.random.default_rng(0).random()
