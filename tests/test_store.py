import json
import pickle
import resource
import shutil
import signal
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dense_jax.artifact import check_settings, claim, is_finished, read_claim
from dense_jax.data.stores.passage_store import PassageStore, StoreWriter
from dense_jax.data.stores.shards import Entry, Group, decode_passage, decode_spans, encode_passage, encode_spans
from dense_jax.errors import ConfigError, StorageError
from dense_jax.types import NO_SPANS, Document, SourceRows


def entry(name, tokens=(7, 8, 9), sentences=(0, 2), title=(5,)):
    arrays = (np.array(ids, np.int32) for ids in (title, tokens, sentences))
    return Entry(*arrays, Document(name, f"title of {name}", f"text of {name} é"))


def written(folder, documents, shard_size=2, vocab_size=100):
    return written_from({"source": documents}, folder, shard_size, vocab_size)


def written_from(sources, folder, shard_size=2, vocab_size=100):
    """What is left to write of the documents of each source, and the finished store."""
    writer = started(folder, shard_size, vocab_size)
    for name, documents in sources.items():
        for entries in documents[writer.begin(name) :]:
            writer.add(alone(entries))
    return writer.finish()


def alone(entries):
    """One document, as it is stored."""
    return Group(entries, 1, int(not entries))


def started(folder, shard_size=2, vocab_size=100):
    if not read_claim(folder):
        claim(folder, {"length": 9}, {"rejected": 3})
    return StoreWriter(folder, shard_size, vocab_size)


DOCUMENTS = [
    [entry("a#0"), entry("a#1")],
    [],
    [entry("b#0", tokens=(1, 2)), entry("b#1"), entry("b#2")],
    [entry("c#0")],
]
IDS = ["a#0", "a#1", "b#0", "b#1", "b#2", "c#0"]


@pytest.fixture
def folder(tmp_path):
    written(tmp_path / "passages", DOCUMENTS)
    return tmp_path / "passages"


ids16, ids32 = (st.lists(st.integers(0, 2**bits - 1), max_size=50) for bits in (16, 31))


@given(ids16, ids16, st.lists(st.integers(0, 2**31 - 1), max_size=9), st.integers(0, 2**40))
def test_a_passage_of_16_bit_ids_survives_the_round_trip_through_a_record(title, tokens, sentences, row):
    _round_trip(title, tokens, sentences, row, np.dtype("uint16"))


@given(ids32, ids32, st.lists(st.integers(0, 2**31 - 1), max_size=9), st.integers(0, 2**40))
def test_a_passage_of_32_bit_ids_survives_the_round_trip_through_a_record(title, tokens, sentences, row):
    _round_trip(title, tokens, sentences, row, np.dtype("uint32"))


def _round_trip(title, tokens, sentences, row, dtype):
    passage = decode_passage(encode_passage(entry("x", tokens, sentences, title), dtype), row, dtype)
    assert passage.row == row
    assert passage.title.tolist() == title
    assert passage.tokens.tolist() == tokens
    assert passage.sentences.tolist() == sentences
    assert passage.tokens.dtype == np.int32


@settings(deadline=None)
@given(st.lists(st.integers(0, 2**31 - 1), max_size=9))
def test_salient_spans_survive_the_round_trip_through_a_record(ends):
    spans = np.array([*pairwise(ends)], np.int32).reshape(-1, 2)
    found = decode_spans(encode_spans(spans))
    assert found.tolist() == spans.tolist()
    assert (found.shape, found.dtype) == (spans.shape, np.int32)


def test_spans_are_read_with_their_passages_where_they_were_written(tmp_path):
    spans = {"a": [[0, 2], [2, 3]], "b": [], "c": [[1, 2]]}
    claim(tmp_path / "p", {}, {})
    writer = StoreWriter(tmp_path / "p", 2, 100, salient=True)
    writer.begin("source")
    for name, own in spans.items():
        writer.add(alone([entry(name)._replace(spans=np.array(own, np.int32).reshape(-1, 2))]))
    found = writer.finish()
    assert [p.spans.tolist() for p in found.passages([2, 0, 1])] == [spans["c"], spans["a"], spans["b"]]
    assert found.manifest["spans"] == {"count": 3, "tokens": 4, "passages": 2}
    assert sorted(found.manifest["files"]) == [
        f"{kind}-0000{i}.array_record" for kind in ("passages", "spans", "texts") for i in range(2)
    ]
    assert pickle.loads(pickle.dumps(found))[0].spans.tolist() == spans["a"]


def test_passages_without_spans_share_none(folder):
    assert PassageStore(folder)[0].spans is PassageStore(folder)[1].spans is NO_SPANS
    assert not list(folder.glob("spans-*"))


def test_passages_are_read_by_row_one_by_one_and_many_at_once_in_the_order_asked_for(folder):
    passages = PassageStore(folder)
    assert len(passages) == 6
    assert passages[2].tokens.tolist() == [1, 2]
    assert [p.row for p in passages.passages([5, 0, 3, 0])] == [5, 0, 3, 0]
    assert passages[3].sentence(1) == slice(2, 3)


def test_the_text_of_a_passage_is_kept_beside_its_tokens(folder):
    passages = PassageStore(folder)
    assert passages.document(3) == Document("b#1", "title of b#1", "text of b#1 é")
    assert [document.id for document in passages.texts([5, 0, 3, 0])] == ["c#0", "a#0", "b#1", "a#0"]
    assert passages.ids() == IDS


def test_a_row_outside_the_store_is_an_index_error(folder):
    with pytest.raises(IndexError, match="rows 6 to 6 of 6"):
        PassageStore(folder)[6]
    with pytest.raises(IndexError, match="rows -1 to -1 of 6"):
        PassageStore(folder)[-1]


def test_a_store_travels_to_another_process(folder):
    passages = PassageStore(folder)
    before = passages[4].tokens.tolist()
    assert pickle.loads(pickle.dumps(passages))[4].tokens.tolist() == before


def test_a_shard_ends_with_a_document_and_the_manifest_counts_everything(folder):
    manifest = PassageStore(folder).manifest
    assert manifest["passages_per_shard"] == [2, 3, 1]
    assert (manifest["count"], manifest["documents"], manifest["tokens"]) == (6, 4, 17)
    assert manifest["settings"] == {"length": 9}
    assert manifest["notes"] == {"rejected": 3}


@pytest.mark.parametrize(("vocab_size", "dtype"), [(65_536, "uint16"), (65_537, "uint32")])
def test_ids_take_two_bytes_where_the_vocabulary_allows_it(tmp_path, vocab_size, dtype):
    top = vocab_size - 1
    passages = written(tmp_path / "p", [[entry("a", tokens=(top,))]], vocab_size=vocab_size)
    assert passages.manifest["dtype"] == dtype
    assert passages[0].tokens.tolist() == [top]


def test_an_interrupted_writer_goes_on_after_the_last_finished_shard_and_ends_with_the_same_files(tmp_path):
    whole = written(tmp_path / "whole", DOCUMENTS)
    first = started(tmp_path / "again", 2)
    first.begin("source")
    for entries in DOCUMENTS[:3]:
        first.add(alone(entries))
    first.add(alone([entry("lost")]))  # in no finished shard yet

    second = started(tmp_path / "again", 2)
    assert second.documents == second.begin("source") == 3
    assert written(tmp_path / "again", DOCUMENTS).manifest == whole.manifest


def test_a_store_tells_which_rows_are_of_which_source_and_a_shard_ends_with_its_source(tmp_path):
    passages = written_from({"first": DOCUMENTS[:2], "none": [[]], "last": DOCUMENTS[2:]}, tmp_path, shard_size=9)
    assert passages.parts() == [
        SourceRows("first", range(2), 6),
        SourceRows("none", range(2, 2), 0),
        SourceRows("last", range(2, 6), 11),
    ]
    assert passages.manifest["passages_per_shard"] == [2, 4]
    assert [part["documents"] for part in passages.manifest["parts"]] == [2, 1, 2]
    assert (passages.manifest["documents"], passages.manifest["left_out"]) == (5, 2)


@pytest.mark.parametrize("left", range(5))
def test_an_interrupted_writer_of_several_sources_ends_with_the_same_files(tmp_path, left):
    sources = {"first": DOCUMENTS[:2], "last": DOCUMENTS[2:]}
    whole = written_from(sources, tmp_path / "whole")
    first = started(tmp_path / "again")
    for name, documents in sources.items():
        first.begin(name)
        for entries in documents[:left]:
            first.add(alone(entries))
        left -= len(documents)
        if left <= 0:
            break
    assert written_from(sources, tmp_path / "again").manifest == whole.manifest


def test_an_unfinished_store_is_not_opened_and_its_settings_are_known(tmp_path):
    writer = started(tmp_path / "p", 1)
    writer.begin("source")
    writer.add(alone([entry("a")]))
    with pytest.raises(
        StorageError, match=r"holds no finished passages \(manifest.json is missing\); run `dense-jax prepare`"
    ):
        PassageStore(tmp_path / "p")
    assert read_claim(tmp_path / "p")["settings"] == {"length": 9}
    assert not is_finished(tmp_path / "p")


def test_a_store_made_with_other_settings_is_not_gone_on_with_and_the_differences_are_listed(tmp_path):
    started(tmp_path / "p")
    message = r"p was made with other settings:\n  length: 9 -> 8\nuse these settings again, or another --workdir"
    with pytest.raises(ConfigError, match=message):
        check_settings(tmp_path / "p", {"length": 8})


def test_the_fingerprint_changes_with_the_content(tmp_path):
    same = [written(tmp_path / name, DOCUMENTS).fingerprint for name in ("a", "b")]
    assert same[0] == same[1] != written(tmp_path / "c", DOCUMENTS[:3]).fingerprint


def test_a_folder_without_a_store_takes_any_settings(tmp_path):
    assert read_claim(tmp_path) is None
    check_settings(tmp_path, {"length": 8})


def test_a_moved_store_still_opens(folder, tmp_path):
    shutil.move(folder, tmp_path / "elsewhere")
    assert PassageStore(tmp_path / "elsewhere").ids() == IDS


def test_a_missing_shard_is_named(folder):
    (folder / "texts-00001.array_record").unlink()
    with pytest.raises(
        StorageError, match=r"texts-00001.array_record: missing; remove its folder and run `dense-jax prepare` again"
    ):
        PassageStore(folder)


def test_a_shard_that_goes_missing_after_opening_is_named(folder):
    passages = PassageStore(folder)
    (folder / "texts-00001.array_record").unlink()
    with pytest.raises(
        StorageError, match=r"texts-00001.array_record: missing; remove its folder and run `dense-jax prepare` again"
    ):
        passages.document(3)


def test_a_shard_that_cannot_be_written_is_named_with_the_cause(tmp_path):
    (tmp_path / "p" / "passages-00000.array_record" / "x").mkdir(parents=True)
    with pytest.raises(StorageError, match=r"passages-00000.array_record: may not be written \(Is a directory"):
        written(tmp_path / "p", DOCUMENTS)


def test_a_changed_bit_in_a_small_shard_is_found_at_opening(folder):
    path = folder / "passages-00001.array_record"
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.write_bytes(data)
    with pytest.raises(StorageError, match=r"passages-00001.array_record: digest \w+ is not the recorded"):
        PassageStore(folder)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """A store of one shard above a megabyte, where ArrayRecord itself finds damage."""
    folder = tmp_path_factory.mktemp("large")
    tokens = np.random.default_rng(0).integers(0, 100, (3_000, 200))
    written(folder, [[entry(f"d{i}", row)] for i, row in enumerate(tokens)], shard_size=5_000)
    return folder


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty"])
def test_a_damaged_large_shard_is_named_when_it_is_read(large, tmp_path, damage):
    folder = shutil.copytree(large, tmp_path / "copy")
    path = folder / "passages-00000.array_record"
    data = bytearray(path.read_bytes())
    assert len(data) > 1 << 20
    data[len(data) // 2] ^= 1
    path.write_bytes({"flip": data, "truncate": data[: len(data) // 2], "empty": b""}[damage])
    with pytest.raises(StorageError, match=r"passages-00000.array_record: d"):
        PassageStore(folder).passages(range(3_000))


def test_a_shard_with_another_number_of_passages_is_refused(large, tmp_path):
    folder = shutil.copytree(large, tmp_path / "copy")
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["parts"][0]["count"] = 3_001
    (folder / "manifest.json").write_text(json.dumps(manifest | {"passages_per_shard": [3_001], "count": 3_001}))
    with pytest.raises(StorageError, match=r"passages-00000.array_record: damaged, 3000 records instead of 3001"):
        PassageStore(folder)[0]


def test_a_full_disk_is_said_and_leaves_no_half_written_shard(tmp_path):
    writer = started(tmp_path / "p", 10_000)
    writer.begin("source")
    writer.add(alone([entry(f"d{i}", range(200)) for i in range(5_000)]))
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 19, limits[1]))  # half a megabyte a file
    try:
        with pytest.raises(StorageError, match=r"passages-00000.array_record: the disk is full"):
            writer.finish()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert not is_finished(tmp_path / "p")
    assert not list((tmp_path / "p").glob("*.array_record"))
