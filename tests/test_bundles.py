"""A corpus cut into bundles for workers: the same documents, and the same shards as one writer makes."""

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dense_jax.config import PrepareConfig, Runner
from dense_jax.data.preparation.bundles import (
    bundles,
    count_groups,
    full_ends,
    pack_documents,
    slices,
    unpack_documents,
)
from dense_jax.data.preparation.prepare import prepare
from dense_jax.data.stores.shards import Group
from dense_jax.errors import ConfigError, MachineError
from dense_jax.types import Document
from tests.sources import config, rows, write


def written_in_one_go(passages, shard_size):
    """Where shards end by the rule of `StoreWriter`: when they are full, and with the source."""
    ends, held = [], 0
    for group, count in enumerate(passages, start=1):
        held += count
        if held >= shard_size:
            ends.append(group)
            held = 0
    return [*ends, len(passages)] if held else ends


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(0, 5), max_size=30), st.integers(1, 12))
def test_shards_end_where_one_writer_ends_them(passages, shard_size):
    assert full_ends(np.array(passages, np.int64), shard_size) == written_in_one_go(passages, shard_size)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(1, 4), max_size=8), st.data())
def test_slices_hold_every_group_up_to_the_last_end_once_and_in_order(sizes, data):
    total = sum(sizes)
    ends = sorted(data.draw(st.sets(st.integers(1, total)))) if total else []
    groups = [(bundle, group) for bundle, size in enumerate(sizes) for group in range(size)]
    found = [[(b, g) for b, start, stop in run for g in range(start, stop)] for run in slices(sizes, ends)]
    assert found == [groups[start:stop] for start, stop in zip([0, *ends], ends, strict=False)]
    assert all(start < stop for run in slices(sizes, ends) for _, start, stop in run)


def test_bundles_are_runs_of_documents_of_about_a_size():
    documents = [Document(str(i), "t", "x" * i) for i in range(6)]  # of 1 to 6 characters
    assert [[d.id for d in bundle] for bundle in bundles(documents, 5)] == [["0", "1", "2"], ["3", "4"], ["5"]]


def test_documents_come_out_of_a_bundle_as_they_went_in():
    documents = [Document("a\u2028", 'of "two"\nlines', "é \U0001f600\t\\n"), Document("b", "", " ")]
    assert unpack_documents(pack_documents(documents)) == documents


def test_what_is_counted_of_groups_is_passages_documents_and_those_left_out():
    groups = [Group([], documents=1, left_out=1), Group([], documents=3, left_out=2)]
    assert [part.tolist() for part in count_groups(groups)] == [[0, 0], [1, 3], [1, 2], [0, 0]]


def test_without_beam_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    settings = config(write(tmp_path / "rows.jsonl", rows(9)))
    settings.prepare = PrepareConfig(Runner.BEAM)
    with pytest.raises(MachineError, match=r"prepare.runner=beam needs Apache Beam; .* 'dense_jax\[beam\]'"):
        prepare(settings, tmp_path / "work")


@pytest.mark.parametrize("settings", [{"options": "--runner=DataflowRunner"}, {"staging": "gs://bucket/staging"}])
def test_settings_of_a_pipeline_without_one_are_refused(settings):
    (name,) = settings
    with pytest.raises(ConfigError, match=rf"prepare.{name} can be given to a Beam pipeline alone"):
        PrepareConfig(**settings)


def test_options_of_a_pipeline_name_what_runs_it():
    with pytest.raises(ConfigError, match=r"prepare.options=--project=p names no runner, such as --runner="):
        PrepareConfig(Runner.BEAM, options="--project=p")
