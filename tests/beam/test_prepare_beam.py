"""What the workers of a Beam pipeline prepare is what one process prepares, to the last byte."""

import json
from dataclasses import replace

import pytest

from dense_jax.config import PrepareConfig, Runner, SpansConfig, Unit
from dense_jax.config.tree import checked
from dense_jax.data import beam
from dense_jax.data.preparation import entries, running_text
from dense_jax.data.preparation import prepare as module
from dense_jax.data.preparation.collection import open_collection, prepare_collection
from dense_jax.data.preparation.prepare import prepare
from dense_jax.data.stores import passage_store as store
from dense_jax.data.stores.passage_store import PassageStore
from dense_jax.data.tokenizer import Tokenizer
from dense_jax.errors import MachineError
from tests.sources import KilledError, config, contents, rows, write

HERE = "--runner=FnApiRunner --direct_running_mode=in_memory"
PASSAGES = "passages-32"


@pytest.fixture(autouse=True)
def small_bundles(monkeypatch):
    monkeypatch.setattr(beam, "_BUNDLE", 1_500)  # characters: some six documents


@pytest.fixture
def sources(tmp_path):
    """Forty documents, of which five come again and two have no text, and a source of nine others."""
    found = rows(40)
    found[11:11] = [{"_id": "title alone", "title": "storm lamp", "text": ""}]
    found += [{**row, "_id": f"again {row['_id']}"} for row in found[3:8]]
    found += [{"_id": "last", "title": "Nothing more", "text": ""}]
    others = rows(69)[60:]
    return [write(tmp_path / "in" / name, of) for name, of in (("rows.jsonl", found), ("others.jsonl", others))]


def asked(source, *also, near_duplicates=0.0, spans=None, options="", staging="", runner=Runner.LOCAL, **settings):
    found = config(source, **{"shard_size": 8} | settings)
    corpus = replace(found.corpus, also=tuple(map(str, also)), near_duplicates=near_duplicates)
    where = PrepareConfig(runner, options, staging)
    return checked(replace(found, corpus=corpus, spans=spans or SpansConfig(), prepare=where))


def on_workers(*sources, options=HERE, **settings):
    return asked(*sources, runner=Runner.BEAM, options=options, **settings)


def check(sources, tmp_path, **settings):
    """Prepares both ways, and returns the counts of both."""
    here = prepare(asked(*sources, **settings), tmp_path / "here")
    there = prepare(on_workers(*sources, **settings), tmp_path / "there")
    assert contents(tmp_path / "there") == contents(tmp_path / "here")
    assert not list((tmp_path / "there").rglob("staging*"))
    return here, there


@pytest.mark.parametrize("shard_size", [8, 20, 1_000])
def test_the_shards_of_several_sources_are_the_same(sources, tmp_path, shard_size):
    here, there = check(sources, tmp_path, shard_size=shard_size)
    assert {**there, "folder": ""} == {**here, "folder": ""}
    shards = len(list((tmp_path / "there" / PASSAGES).glob("passages-*")))
    assert (shards == 2) == (shard_size == 1_000)


def test_test_sets_salient_spans_and_near_duplicates_are_the_same(sources, tmp_path):
    spans = SpansConfig(capitals=True, titles=True)
    here, there = check(sources, tmp_path, held_out=4, near_duplicates=0.8, spans=spans)
    assert (here["near-duplicates"], here["held-out queries"]) == (5, 4)
    assert there["salient spans"] > 0


def test_documents_as_spans_are_the_same(sources, tmp_path):
    here, _ = check(sources, tmp_path, unit=Unit.SPANS)
    assert here["of fewer than two spans"] > 0


@pytest.mark.parametrize(("group", "shard_size"), [(100, 8), (330, 20), (1 << 20, 1_000)])
def test_running_text_is_cut_at_the_same_places(sources, tmp_path, group, shard_size, monkeypatch):
    monkeypatch.setattr(running_text, "GROUP", group)  # tokens that are cut together: some documents
    here, _ = check(sources, tmp_path, unit=Unit.CHUNKS, length=24, shard_size=shard_size, held_out=3)
    assert here["without text"] == 2


def test_workers_in_processes_of_their_own_do_the_same(sources, tmp_path):
    options = "--runner=FnApiRunner --direct_running_mode=multi_processing --direct_num_workers=2"
    prepare(asked(*sources), tmp_path / "here")
    prepare(on_workers(*sources, options=options), tmp_path / "there")
    assert contents(tmp_path / "there") == contents(tmp_path / "here")


def test_a_collection_is_the_same(sources, tmp_path):
    prepare(asked(sources[0]), tmp_path / "work")
    tokenizer = Tokenizer.load(tmp_path / "work" / "tokenizer")
    for name, settings in (("here", asked(sources[0])), ("there", on_workers(sources[0]))):
        corpus = open_collection(str(sources[0]), settings)
        prepare_collection(corpus, settings, tokenizer, tmp_path / name, "rows", split=24)
    assert contents(tmp_path / "there") == contents(tmp_path / "here")


def test_files_in_passing_may_lie_elsewhere_and_are_gone_afterwards(sources, tmp_path):
    prepare(asked(*sources), tmp_path / "here")
    prepare(on_workers(*sources, staging=f"{tmp_path}/staging/"), tmp_path / "there")
    assert contents(tmp_path / "there") == contents(tmp_path / "here")
    assert contents(tmp_path / "staging") == {}


def killed(*arguments):
    raise KilledError


@pytest.mark.parametrize("step", ["_bundled", "_Plan", "record"])
def test_an_interrupted_pipeline_goes_on_with_what_is_there(sources, tmp_path, step, monkeypatch):
    prepare(asked(*sources), tmp_path / "whole")
    with monkeypatch.context() as patched, pytest.raises(KilledError):
        place = store.StoreWriter if step == "record" else beam
        patched.setattr(place, "finish" if step == "record" else step, killed)
        prepare(on_workers(*sources), tmp_path / "again")
    if step != "_bundled":
        monkeypatch.setattr(entries, "tokenised", killed)  # nothing is tokenised a second time
    prepare(on_workers(*sources), tmp_path / "again")
    assert contents(tmp_path / "again") == contents(tmp_path / "whole")


def test_what_one_process_began_workers_finish(sources, tmp_path, monkeypatch):
    prepare(asked(*sources), tmp_path / "whole")

    def interrupted(*arguments):
        for i, group in enumerate(entries.entries(*arguments)):
            if i == 17:
                raise KilledError
            yield group

    with monkeypatch.context() as patched, pytest.raises(KilledError):
        patched.setattr(module, "entries", interrupted)
        prepare(asked(*sources), tmp_path / "again")
    assert json.loads((tmp_path / "again" / PASSAGES / "progress.json").read_text())["documents"] > 0
    prepare(on_workers(*sources), tmp_path / "again")
    assert contents(tmp_path / "again") == contents(tmp_path / "whole")


def test_a_pipeline_that_breaks_says_so_and_how_to_go_on(sources, tmp_path, monkeypatch):
    monkeypatch.setattr(beam, "unpack_documents", killed)
    with pytest.raises(MachineError, match=r"the Beam pipeline failed; the same command continues it(?s:.*)Killed"):
        prepare(on_workers(*sources), tmp_path / "work")


def test_nothing_of_the_pipeline_is_recorded(sources, tmp_path):
    prepare(on_workers(*sources), tmp_path / "work")
    assert prepare(asked(*sources), tmp_path / "work") == prepare(on_workers(*sources), tmp_path / "work")
    assert len(PassageStore(tmp_path / "work" / PASSAGES)) > 0
