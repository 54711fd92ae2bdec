"""Near-duplicates are left out of the prepared text, and listed."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from dense_jax.config import CorpusConfig, PassagesConfig, Unit
from dense_jax.config.tree import checked
from dense_jax.data.dedup import first_of_each_group, similar_pairs
from dense_jax.data.preparation import prepare as module
from dense_jax.data.preparation import text
from dense_jax.data.preparation.prepare import prepare
from dense_jax.data.stores.passage_store import PassageStore
from dense_jax.errors import ConfigError, DataError, StorageError
from tests.sources import config, contents, killed_at, rows, write

PASSAGES = "passages-32"
LONG = " ".join(f"word{i}" for i in range(200))


def first_of(texts, similarity):
    return first_of_each_group(similar_pairs(texts, similarity), len(texts)).tolist()


def copied(count=12):
    """Documents, of which d2 comes again as `copy`, changed in case and points, and as `again`; d5 with a new word."""
    found = rows(count)
    found.append({"_id": "copy", "title": "Other", "text": found[2]["text"].upper().replace(".", " !")})
    found.append({"_id": "near", "title": "Near", "text": found[5]["text"].replace(".", " nowhere.", 1)})
    return [*found, {**found[2], "_id": "again"}]


@pytest.fixture
def source(tmp_path):
    return write(tmp_path / "in" / "rows.jsonl", copied())


def asked(source, similarity, **settings):
    found = config(source, **settings)
    return checked(replace(found, corpus=replace(found.corpus, near_duplicates=similarity)))


def listed(workdir):
    lines = (workdir / "duplicates.jsonl").read_text().splitlines()
    return {line["id"]: line["duplicate_of"] for line in map(json.loads, lines)}


def test_texts_with_most_of_their_three_word_runs_in_common_are_alike():
    other = LONG.replace("word100", "changed")  # 3 of 198 runs are new: Jaccard 195 / 201
    assert first_of([LONG, "a b c d e f", other], 0.8) == [0, 1, 0]


def test_texts_of_little_in_common_are_not_alike():
    half = " ".join(LONG.split()[:100] + [f"other{i}" for i in range(100)])  # 98 of 298 runs: Jaccard 0.33
    assert first_of([LONG, half], 0.8) == [0, 1]


def test_at_one_only_the_same_words_are_alike():
    assert first_of(["The sea, the storm.", LONG, "the SEA the storm", LONG + " more"], 1.0) == [0, 1, 0, 3]


@pytest.mark.parametrize("similarity", [0.8, 1.0])
def test_texts_without_a_word_are_like_no_other(similarity):
    assert first_of(["", "?!", "", "?!"], similarity) == [0, 1, 2, 3]


def test_what_alike_texts_join_is_one_kind_whose_first_stays():
    words = LONG.split()
    steps = [" ".join(words[: 200 - 10 * i]) for i in range(9)]  # neighbours share 95 % of their runs, the ends 60 %
    assert first_of(steps, 0.8) == [0] * 9
    assert first_of(steps[::8], 0.8) == [0, 1]


def test_the_kinds_are_the_same_in_whatever_order_the_texts_come():
    words = LONG.split()
    texts = [" ".join(words[i : i + 150]) for i in range(0, 50, 5)] + [f"{LONG} {i}" for i in range(5)]
    order = np.random.default_rng(0).permutation(len(texts))
    kinds, shuffled = first_of(texts, 0.8), first_of([texts[i] for i in order], 0.8)
    same = {(a, b) for a in range(len(texts)) for b in range(a) if kinds[a] == kinds[b]}
    assert same
    assert same == {
        (max(a, b), min(a, b))
        for i, a in enumerate(order)
        for j, b in enumerate(order[:i])
        if shuffled[i] == shuffled[j]
    }


def test_near_duplicates_are_left_out_and_listed_with_what_they_repeat(source, tmp_path):
    counts = prepare(asked(source, 0.5), tmp_path / "work")
    assert (counts["documents"], counts["near-duplicates"]) == (12, 3)
    assert listed(tmp_path / "work") == {"copy": "d2", "near": "d5", "again": "d2"}
    assert set(PassageStore(tmp_path / "work" / PASSAGES).ids()) == {f"d{i}" for i in range(12)}


def test_a_similarity_of_one_leaves_out_equal_texts_only(source, tmp_path):
    assert prepare(asked(source, 1.0), tmp_path / "work")["near-duplicates"] == 2
    assert listed(tmp_path / "work") == {"copy": "d2", "again": "d2"}


def test_what_is_left_is_prepared_as_if_the_duplicates_had_never_been_there(source, tmp_path):
    prepare(asked(source, 0.5, held_out=3), tmp_path / "work")
    prepare(config(write(tmp_path / "clean" / "rows.jsonl", rows(12)), held_out=3), tmp_path / "clean" / "work")
    ours, clean = contents(tmp_path / "work"), contents(tmp_path / "clean" / "work")
    made_with = {"text.json", "duplicates.jsonl", f"{PASSAGES}/claim.json", f"{PASSAGES}/manifest.json"}
    assert {n: c for n, c in ours.items() if n not in made_with} == {
        n: c for n, c in clean.items() if n not in made_with
    }


def test_nothing_is_recorded_of_a_search_that_was_not_asked_for(source, tmp_path):
    prepare(config(source), tmp_path / "work")
    assert not (tmp_path / "work" / "duplicates.jsonl").exists()
    recorded = json.loads((tmp_path / "work" / "text.json").read_text())
    assert set(recorded["settings"]["corpus"]) == {"source", "max_characters", "held_out", "limit"}
    assert set(recorded["notes"]) == {"usable", "rejected", "vocabulary", "tokenizer"}


def test_another_similarity_is_another_text(source, tmp_path):
    prepare(config(source), tmp_path / "work")
    with pytest.raises(ConfigError, match=r"other settings:\n  corpus.near_duplicates: None -> 0.5\n"):
        prepare(asked(source, 0.5), tmp_path / "work")


def test_an_interrupted_preparation_goes_on_without_comparing_again(source, tmp_path, monkeypatch):
    settings = asked(source, 0.5, shard_size=8)
    prepare(settings, tmp_path / "whole")

    with killed_at(module, "entries", 7):
        prepare(settings, tmp_path / "again")
    monkeypatch.setattr(text, "similar_pairs", None)
    prepare(settings, tmp_path / "again")
    assert contents(tmp_path / "again") == contents(tmp_path / "whole")


def test_a_lost_list_is_noticed_before_duplicates_are_prepared(source, tmp_path):
    prepare(asked(source, 0.5), tmp_path / "work")
    shutil.rmtree(tmp_path / "work" / PASSAGES)
    path = tmp_path / "work" / "duplicates.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:2]))
    with pytest.raises(StorageError, match=r"duplicates.jsonl: lists 2 documents, not the 3 that were left out"):
        prepare(asked(source, 0.5), tmp_path / "work")
    path.unlink()
    with pytest.raises(StorageError, match=r"duplicates.jsonl: missing, and it lists the documents left out"):
        prepare(asked(source, 0.5), tmp_path / "work")


def test_a_source_that_repeats_another_is_named(source, tmp_path):
    other = write(tmp_path / "in" / "other.jsonl", rows(12)[:4])
    settings = asked(source, 0.5)
    settings = replace(settings, corpus=replace(settings.corpus, also=(str(other),)))
    with pytest.raises(DataError, match=r"other.jsonl: .*; or all are near-duplicates: see .*duplicates.jsonl"):
        prepare(settings, tmp_path / "work")


@pytest.mark.parametrize("similarity", [-0.1, 0.99, 1.5])
def test_a_similarity_that_cannot_be_told_is_refused(similarity):
    with pytest.raises(ConfigError, match=rf"corpus.near_duplicates={similarity} is a similarity up to 0.98"):
        CorpusConfig(near_duplicates=similarity)


def test_documents_of_queries_are_not_left_out(source):
    with pytest.raises(ConfigError, match=r"near_duplicates=0.8 leaves out documents that queries may be about"):
        replace(asked(source, 0.8), passages=PassagesConfig(unit=Unit.QUERIES))
