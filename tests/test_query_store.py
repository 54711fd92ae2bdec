"""Training queries read by row, and another model's vectors beside them."""

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest

from dense_jax.artifact import claim
from dense_jax.data.stores.passage_store import PassageStore, StoreWriter
from dense_jax.data.stores.query_store import QueryStore, QueryWriter, StoredQuery
from dense_jax.data.stores.shards import Entry, Group
from dense_jax.errors import DataError, StorageError
from dense_jax.types import Candidates, Document, SourceRows
from tests.faults.pickles import write_pickle
from tests.sources import KilledError, contents
from tests.test_supervised import METHOD

RNG = np.random.default_rng(0)  # nothing is drawn with it


def candidates(*rows, scores=None):
    return Candidates(np.array(rows, np.int32), np.array(scores or [np.nan] * len(rows), np.float32))


QUERIES = [
    StoredQuery("q0", "wer läutet?", candidates(1), candidates(2, 3, scores=[0.5, 0.25])),
    StoredQuery("q1", "oil", candidates(2, 0, scores=[2.0, 1.0]), candidates()),
    StoredQuery("q2", "fog", candidates(4), candidates(1)),
]
TOKENS = {"wer läutet?": [7, 70_000], "oil": [9], "fog": [8, 6, 5]}
SOURCES = [SourceRows("a", range(3), 0), SourceRows("empty", range(3, 3), 0), SourceRows("b", range(3, 6), 0)]


def tokenise(texts):
    return [np.array(TOKENS[text], np.int32) for text in texts]


def write(folder, queries, shard_size=2):
    claim(folder, {})
    writer = QueryWriter(folder, SOURCES, shard_size, tokenise)
    for query in queries:
        writer.add(query)
    writer.finish({})


@pytest.fixture
def folder(tmp_path):
    """The three queries, beside documents doc0 to doc5."""
    claim(tmp_path / "documents", {}, {})
    writer = StoreWriter(tmp_path / "documents", shard_size=10, vocab_size=50)
    writer.begin("")
    entries = [
        Entry(np.empty(0, np.int32), np.array([i], np.int32), np.zeros(1, np.int32), Document(name, "", str(i)))
        for i, name in enumerate(IDS["documents"])
    ]
    writer.add(Group(entries, documents=len(entries), left_out=0))
    writer.finish()
    write(tmp_path / "queries", QUERIES)
    return tmp_path / "queries"


def store(folder, guide=""):
    return QueryStore(folder, PassageStore(folder.parent / "documents"), guide)


def test_a_question_has_its_tokens_and_what_it_was_judged_with(folder):
    found = store(folder)
    assert len(found) == 3
    first, second = (found.sample(row, 3, RNG) for row in (0, 1))
    assert (first.row, first.epoch, first.tokens.tolist()) == (0, 3, [7, 70_000])
    assert (first.positives.rows.tolist(), first.negatives.rows.tolist()) == ([1], [2, 3])
    assert np.isnan(first.positives.scores).all()
    assert first.negatives.scores.tolist() == [0.5, 0.25]
    assert (second.positives.rows.tolist(), second.positives.scores.tolist()) == ([2, 0], [2.0, 1.0])
    assert second.negatives.rows.tolist() == []
    assert [p.tokens.tolist() for p in first.documents.passages([3, 2])] == [[3], [2]]
    assert first.guide is None


def test_a_query_has_its_tokens_and_is_shown_as_a_document(folder):
    found = store(folder)
    assert found.sample(2, 0, RNG).tokens.tolist() == [8, 6, 5]
    assert found.document(0) == Document("q0", "", "wer läutet?")
    assert found.ids() == ["q0", "q1", "q2"]


def test_queries_with_more_positives_than_the_loss_masks_are_counted_in_a_note(folder):
    assert replace(METHOD, known=2).notes(store(folder)) == []
    (note,) = replace(METHOD, known=1).notes(store(folder))
    assert note.startswith("1 of 3 queries have more known positives than objective.known=1;")
    assert note.endswith("use --objective.known=2 to mask all")


def test_places_of_negatives_that_no_query_has_are_reported_as_padding(folder, tmp_path):
    write(tmp_path / "positive", [QUERIES[1]])
    (note,) = METHOD.notes(store(tmp_path / "positive"))
    assert note.startswith("none of 1 queries has a negative, so 2 of 3 passages that are encoded are padding;")
    assert note.endswith("use --objective.negatives=0, or mine some and name their file by --corpus.queries")
    assert replace(METHOD, negatives=0).notes(store(tmp_path / "positive")) == []


def test_queries_that_are_mostly_padding_are_reported_with_a_length_that_loses_nothing(folder):
    assert replace(METHOD, query_length=10).notes(store(folder)) == []  # the longest has 3, and [CLS] and [SEP]
    (note,) = replace(METHOD, query_length=11).notes(store(folder))
    assert note == (
        "training queries have up to 5 tokens, and objective.query_length=11 pads all to that; "
        "--objective.query_length=5 trains faster, and 11 again at search cuts no longer query"
    )
    (note,) = replace(METHOD, query_length=15, query_prompts=("?", "", "?!")).notes(store(folder))
    assert "up to 7 tokens" in note


def test_parts_are_the_sources_with_their_tokens(folder):
    parts = [(part.name, part.rows, part.tokens) for part in store(folder).parts()]
    assert parts == [("a", range(2), 3), ("empty", range(2, 2), 0), ("b", range(2, 3), 3)]


def test_a_query_knows_the_number_of_its_source_among_all(folder):
    assert [store(folder).sample(row, 0, RNG).source for row in range(3)] == [0, 0, 2]


@pytest.mark.parametrize("shard_size", [1, 2, 3])
def test_sources_that_alternate_are_stored_one_after_the_other(folder, tmp_path, shard_size):
    turns = [QUERIES[i] for i in (0, 2, 1)]
    write(tmp_path / "turns", turns, shard_size)
    found = store(tmp_path / "turns")
    assert found.ids() == ["q0", "q1", "q2"]
    assert [sample.tokens.tolist() for sample in found.samples([2, 0, 1], 0)] == [[8, 6, 5], [7, 70_000], [9]]


@pytest.mark.parametrize("finished", [1, 2, 3])
def test_a_new_writer_passes_over_finished_shards_and_ends_with_the_same_files(folder, tmp_path, finished):
    turns, calls = [QUERIES[i] for i in (0, 2, 1)], []

    def killed_at(texts):
        calls.append(texts)
        if len(calls) > finished:
            raise KilledError
        return tokenise(texts)

    write(tmp_path / "whole", turns, shard_size=1)
    claim(tmp_path / "again", {})
    writer = QueryWriter(tmp_path / "again", SOURCES, 1, killed_at)
    with pytest.raises(KilledError):
        for query in [*turns, *turns]:
            writer.add(query)
    calls.clear()
    writer = QueryWriter(tmp_path / "again", SOURCES, 1, lambda texts: calls.append(texts) or tokenise(texts))
    for query in turns:
        writer.add(query)
    writer.finish({})
    assert len(calls) == 3 - finished
    assert contents(tmp_path / "again") == contents(tmp_path / "whole")


def test_finished_shards_keep_their_size_where_another_one_is_wanted_later(folder, tmp_path):
    claim(tmp_path / "again", {})
    begun = QueryWriter(tmp_path / "again", SOURCES, 1, tokenise)
    begun.add(QUERIES[0])
    write(tmp_path / "again", QUERIES, shard_size=9)
    assert store(tmp_path / "again").ids() == ["q0", "q1", "q2"]


def test_queries_without_any_negative_can_be_stored(folder, tmp_path):
    write(tmp_path / "positive", [QUERIES[1]])
    assert store(tmp_path / "positive").sample(0, 0, RNG).negatives.rows.tolist() == []


def test_the_fingerprint_changes_with_what_is_stored(folder, tmp_path):
    write(tmp_path / "same", QUERIES)
    write(tmp_path / "other", QUERIES[:1])
    assert store(folder).fingerprint == store(tmp_path / "same").fingerprint != store(tmp_path / "other").fingerprint


@pytest.mark.parametrize(
    ("change", "message"),
    [({"sources": ["a"]}, "a shard is of none of its sources"), ({"positives": {"many": 3}}, "positives.many")],
)
def test_a_damaged_manifest_is_refused(folder, change, message):
    path = folder / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(StorageError, match=rf"manifest\.json: damaged .*{message}"):
        store(folder)


def test_an_unfinished_folder_is_refused(folder):
    (folder / "manifest.json").unlink()
    with pytest.raises(StorageError, match="holds no finished queries"):
        store(folder)


def test_a_changed_file_is_noticed(folder):
    path = folder / "queries-00000.array_record"
    path.write_bytes(path.read_bytes()[:-1] + b"\x07")
    with pytest.raises(StorageError, match=r"queries-00000\.array_record: digest"):
        store(folder)


def test_a_missing_file_is_named(folder):
    (folder / "texts-00001.array_record").unlink()
    with pytest.raises(StorageError, match=r"texts-00001\.array_record: missing"):
        store(folder)


VECTORS = {"queries": np.arange(6, dtype=np.float32).reshape(3, 2),
           "documents": np.arange(12, dtype=np.float32).reshape(6, 2)}  # fmt: skip
IDS = {"queries": ["q0", "q1", "q2"], "documents": [f"doc{i}" for i in range(6)]}


def guide(folder, order=slice(None), without=""):
    """Vectors as `mine` writes them, in another order, or without one id."""
    folder.mkdir()
    for name, vectors in VECTORS.items():
        kept = [i for i in range(len(vectors)) if IDS[name][i] != without][order]
        np.save(folder / f"{name}.npy", vectors[kept])
        (folder / f"{name}.json").write_text(json.dumps([IDS[name][i] for i in kept]))
    return str(folder)


def is_mapped(array):
    while array is not None:
        if isinstance(array, np.memmap) and array._mmap is not None:  # what was pickled has the class only
            return True
        array = array.base
    return False


@pytest.mark.parametrize("order", [slice(None), slice(None, None, -1)])
def test_a_guide_s_vectors_are_those_of_the_same_ids(folder, tmp_path, order):
    found = store(folder, guide(tmp_path / "guide", order))
    for row in range(3):
        given = found.sample(row, 0, RNG).guide
        np.testing.assert_array_equal(given.query, VECTORS["queries"][row])
        np.testing.assert_array_equal(given.documents[[4, 1]], VECTORS["documents"][[4, 1]])


def test_a_guide_in_the_same_order_is_not_copied_into_memory(folder, tmp_path):
    assert is_mapped(store(folder, guide(tmp_path / "guide")).sample(0, 0, RNG).guide.documents)


@pytest.mark.parametrize(("missing", "of"), [("q1", "1 of 3 queries"), ("doc5", "1 of 6 documents")])
def test_a_guide_that_lacks_a_vector_is_refused_by_the_name_of_what_it_lacks(folder, tmp_path, missing, of):
    with pytest.raises(DataError, match=rf"{of}, such as '{missing}'"):
        store(folder, guide(tmp_path / "guide", without=missing))


def test_a_guide_that_is_not_there_is_an_error_that_names_it(folder, tmp_path):
    with pytest.raises(StorageError, match=r"nowhere: queries\.npy cannot be read"):
        store(folder, str(tmp_path / "nowhere"))


def test_a_store_travels_to_another_process_by_its_paths(folder, tmp_path):
    named = guide(tmp_path / "guide")
    sent = pickle.loads(pickle.dumps(store(folder, named)))
    question, same = sent.sample(0, 0, RNG), store(folder, named).sample(0, 0, RNG)
    assert question.tokens.tolist() == same.tokens.tolist()
    np.testing.assert_array_equal(question.guide.query, same.guide.query)
    assert is_mapped(question.guide.documents)  # else each worker would hold all vectors


@pytest.mark.parametrize("name", ["queries", "documents"])
def test_a_pickled_guide_is_refused_and_not_run(folder, tmp_path, name):
    named = guide(tmp_path / "guide")
    canary = write_pickle(tmp_path / "guide" / f"{name}.npy")
    with pytest.raises(StorageError, match=rf"{name}\.npy cannot be read"):
        store(folder, named)
    assert not canary.exists()
