"""The index: right results, honest recall, and everything that would end or mislead ScaNN caught before."""

import json
import shutil

import numpy as np
import pytest

from dense_jax.config import IndexConfig, IndexKind, MeshConfig
from dense_jax.errors import ConfigError, DataError, StorageError
from dense_jax.io import digests
from dense_jax.mesh import make_mesh
from dense_jax.retrieval.index import build_index, open_index, open_or_build, recall
from dense_jax.retrieval.vectors import Vectors

COUNT, WIDTH = 600, 8
EXACT = IndexConfig(kind=IndexKind.EXACT, sample=0)
SCANN = IndexConfig(kind=IndexKind.SCANN, sample=0)
PARTS = IndexConfig(kind=IndexKind.SCANN, parts=2, leaves=24, leaves_searched=24, reorder=COUNT, sample=50)
EVERYTHING = IndexConfig(kind=IndexKind.SCANN, leaves=24, leaves_searched=24, reorder=COUNT, sample=0)


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(MeshConfig())


@pytest.fixture
def stored(tmp_path):
    """A function that writes an array as an embeddings folder of two shards; row r is document `doc{r}`."""

    def write(array: np.ndarray, name: str = "embeddings", step: int = 7) -> Vectors:
        folder = tmp_path / name
        folder.mkdir()
        cut = len(array) // 2
        for i, part in enumerate((array[:cut], array[cut:])):
            np.save(folder / f"vectors-{i:05}-of-00002.npy", part.astype(np.float32))
        (folder / "ids.json").write_text(json.dumps([f"doc{row}" for row in range(len(array))]))
        about = {"count": len(array), "width": array.shape[1], "views": 1, "dtype": "float32"}
        manifest = about | {"settings": {"made_by": {"step": step}}, "files": digests(folder)}
        (folder / "manifest.json").write_text(json.dumps(manifest))
        return Vectors(folder)

    return write


def unit_vectors(count: int = COUNT, seed: int = 0) -> np.ndarray:
    vectors = np.random.default_rng(seed).normal(size=(count, WIDTH))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def by_numpy(queries: np.ndarray, vectors: np.ndarray, k: int) -> np.ndarray:
    return np.argsort(-(queries @ vectors.T), axis=1, kind="stable")[:, :k]


def flip_a_bit(path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


# Results


@pytest.mark.parametrize("config", [EXACT, EVERYTHING, PARTS], ids=["exact", "scann, all leaves", "scann, two parts"])
def test_an_exhaustive_search_equals_numpy(stored, mesh, tmp_path, config):
    vectors, queries = unit_vectors(), unit_vectors(20, seed=1)
    found = build_index(stored(vectors), config, tmp_path / "index", mesh).search(queries, 10)
    np.testing.assert_array_equal(found.rows, by_numpy(queries, vectors, 10))
    expected = np.take_along_axis(queries @ vectors.T, found.rows, 1)
    np.testing.assert_allclose(found.scores, expected, atol=1e-6)  # two orders of summing 8 float32 products


def test_scann_orders_equal_scores_by_row(stored, mesh, tmp_path):
    vectors = np.repeat(unit_vectors(COUNT // 4), 4, axis=0)  # rows 0-3 are equal, and so on
    found = build_index(stored(vectors), EVERYTHING, tmp_path / "index", mesh).search(vectors[40:41], 4)
    assert found.rows.tolist() == [[40, 41, 42, 43]]


@pytest.mark.parametrize("config", [EXACT, SCANN, PARTS], ids=["exact", "scann, few leaves", "scann, two parts"])
def test_the_whole_corpus_can_be_asked_for(stored, mesh, tmp_path, config):
    index = build_index(stored(unit_vectors()), config, tmp_path / "index", mesh)
    assert sorted(index.search(unit_vectors(1, seed=1), COUNT).rows[0]) == list(range(COUNT))


def test_long_vectors_win_by_inner_product(stored, mesh, tmp_path):
    vectors = unit_vectors()
    vectors[5] *= 100
    found = build_index(stored(vectors), EVERYTHING, tmp_path / "index", mesh).search(vectors[5:6] / 100, 1)
    assert found.rows.tolist() == [[5]]


def test_recall_of_an_exhaustive_index_is_one(stored, mesh, tmp_path):
    assert recall(build_index(stored(unit_vectors()), EVERYTHING, tmp_path / "index", mesh), sample=50) == 1.0


def test_recall_counts_what_a_poor_index_misses(stored, mesh, tmp_path):
    vectors = unit_vectors()
    poor = build_index(
        stored(vectors), IndexConfig(kind=IndexKind.SCANN, leaves_searched=1, sample=0), tmp_path / "i", mesh
    )
    found = poor.search(vectors, 10).rows
    expected = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, by_numpy(vectors, vectors, 10), strict=True)])
    assert recall(poor, sample=COUNT) == pytest.approx(
        expected, abs=1e-3
    )  # a near-tie may count for one and not the other
    assert expected < 0.9


# Settings


@pytest.mark.parametrize(("count", "kind"), [(19_999, "exact"), (20_000, "scann")])
def test_auto_takes_scann_from_twenty_thousand_vectors(stored, mesh, tmp_path, count, kind):
    index = build_index(stored(unit_vectors(count)), IndexConfig(sample=0), tmp_path / "index", mesh)
    assert index.manifest["kind"] == kind


def test_settings_follow_from_the_number_of_vectors(stored, mesh, tmp_path):
    index = build_index(stored(unit_vectors()), SCANN, tmp_path / "index", mesh)
    assert index.manifest["scann"] == {"leaves": 24, "leaves_searched": 2, "reorder": 100, "spherical": True}


def test_leaves_are_added_until_recall_on_the_sample_is_good(stored, mesh, tmp_path):
    manifest = build_index(
        stored(unit_vectors()), IndexConfig(kind=IndexKind.SCANN, sample=200), tmp_path / "i", mesh
    ).manifest
    assert manifest["scann"]["leaves_searched"] in (4, 8, 16, 24)  # 2, a tenth of 24, finds too little
    assert manifest["recall@10"] >= 0.99


def test_the_tree_is_spherical_only_on_unit_vectors(stored, mesh, tmp_path):
    index = build_index(stored(2 * unit_vectors()), SCANN, tmp_path / "index", mesh)
    assert index.manifest["scann"]["spherical"] is False


def test_the_summary_tells_kind_size_settings_and_recall(stored, mesh, tmp_path):
    config = IndexConfig(kind=IndexKind.SCANN, leaves=24, leaves_searched=24, reorder=COUNT, sample=10)
    assert build_index(stored(unit_vectors()), config, tmp_path / "index", mesh).summary == (
        "scann index: 600 vectors of width 8, "
        "leaves 24, leaves_searched 24, reorder 600, spherical True, recall@10 1.000"
    )


def test_an_index_in_parts_says_so_and_its_recall_is_that_of_all_parts(stored, mesh, tmp_path):
    index = build_index(stored(unit_vectors()), PARTS, tmp_path / "index", mesh)
    assert "600 vectors of width 8, 2 parts, leaves 24" in index.summary
    assert index.manifest["recall@10"] == 1.0
    assert sorted(path.name for path in (tmp_path / "index").glob("scann*")) == [
        "scann-00000-of-00002", "scann-00001-of-00002",
    ]  # fmt: skip


def test_the_summary_says_what_to_raise_where_recall_is_low(stored, mesh, tmp_path):
    config = IndexConfig(kind=IndexKind.SCANN, leaves_searched=1, sample=100)
    summary = build_index(stored(unit_vectors()), config, tmp_path / "index", mesh).summary
    assert summary.endswith("(low: raise index.leaves_searched or index.reorder)")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (IndexConfig(kind=IndexKind.SCANN, leaves=301), "index.leaves=301 must be from 2 to half of the 600 vectors"),
        (
            IndexConfig(kind=IndexKind.SCANN, leaves_searched=25),
            "index.leaves_searched=25 is more than the 24 leaves",
        ),
        (
            IndexConfig(kind=IndexKind.SCANN, parts=3),  # there are two files
            "index.parts=3 leaves 0 vectors to one of them, and ScaNN needs 256: a part is made of whole files",
        ),
    ],
)
def test_settings_that_do_not_fit_are_refused(stored, mesh, tmp_path, config, message):
    with pytest.raises(ConfigError, match=message):
        build_index(stored(unit_vectors()), config, tmp_path / "index", mesh)


def test_t27_scann_is_refused_on_a_handful_of_vectors(stored, mesh, tmp_path):
    with pytest.raises(ConfigError, match=r"index.kind=scann needs at least 256 vectors and there are 12; use .*exact"):
        build_index(stored(unit_vectors(12)), SCANN, tmp_path / "index", mesh)


# Bad vectors and queries


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_t27_vectors_that_are_not_finite_are_refused_with_their_document(stored, mesh, tmp_path, value):
    vectors = unit_vectors()
    vectors[599, 3] = value
    with pytest.raises(DataError, match="1 embeddings are NaN or infinite, of documents 'doc599'"):
        build_index(stored(vectors), SCANN, tmp_path / "index", mesh)


def test_a_query_that_is_not_finite_is_refused(stored, mesh, tmp_path):
    index = build_index(stored(unit_vectors()), SCANN, tmp_path / "index", mesh)
    queries = unit_vectors(3)
    queries[1, 0] = np.nan
    with pytest.raises(DataError, match="query 1 is NaN or infinite"):
        index.search(queries, 3)


@pytest.mark.parametrize("k", [0, 601])
def test_more_results_than_passages_are_refused_with_both_numbers(stored, mesh, tmp_path, k):
    index = build_index(stored(unit_vectors()), EXACT, tmp_path / "index", mesh)
    with pytest.raises(ConfigError, match=f"k={k} is not from 1 to 600, the passages of the index; use at most 600"):
        index.search(unit_vectors(1), k)


def test_queries_of_another_width_are_refused(stored, mesh, tmp_path):
    index = build_index(stored(unit_vectors()), EXACT, tmp_path / "index", mesh)
    with pytest.raises(ConfigError, match="queries of width 9 do not fit an index of width 8"):
        index.search(np.zeros((1, 9), np.float32), 1)


# On disk


@pytest.mark.parametrize("config", [EXACT, SCANN, PARTS], ids=["exact", "scann", "scann, two parts"])
def test_a_moved_index_finds_the_same(stored, mesh, tmp_path, config):
    vectors, queries = stored(unit_vectors()), unit_vectors(5, seed=1)
    before = build_index(vectors, config, tmp_path / "index", mesh).search(queries, 10)
    shutil.move(tmp_path / "index", tmp_path / "elsewhere")
    after = open_index(tmp_path / "elsewhere", vectors, mesh).search(queries, 10)
    np.testing.assert_array_equal(after.rows, before.rows)
    # Where a candidate stands in its leaf decides in which order ScaNN adds up its score, and that may differ.
    np.testing.assert_allclose(after.scores, before.scores, rtol=0 if config is EXACT else 3e-7)


def test_recall_is_written_in_the_manifest(stored, mesh, tmp_path):
    vectors = stored(unit_vectors())
    built = build_index(vectors, IndexConfig(kind=IndexKind.SCANN, sample=50), tmp_path / "index", mesh)
    assert open_index(tmp_path / "index", vectors, mesh).manifest["recall@10"] == built.manifest["recall@10"] > 0


def test_a_rebuilt_index_leaves_nothing_of_the_old_one(stored, mesh, tmp_path):
    vectors = stored(unit_vectors())
    build_index(vectors, PARTS, tmp_path / "index", mesh)
    build_index(vectors, SCANN, tmp_path / "index", mesh)
    assert sorted(path.name for path in (tmp_path / "index").iterdir()) == ["claim.json", "manifest.json", "scann"]
    build_index(vectors, EXACT, tmp_path / "index", mesh)
    assert sorted(path.name for path in (tmp_path / "index").iterdir()) == ["claim.json", "manifest.json"]


def test_t27_an_index_of_another_checkpoint_is_refused(stored, mesh, tmp_path):
    build_index(stored(unit_vectors(), "old", step=7), EXACT, tmp_path / "index", mesh)
    with pytest.raises(ConfigError, match=r"was built from other embeddings than .*\n  made_by.step: 7 -> 8"):
        open_index(tmp_path / "index", stored(unit_vectors(), "new", step=8), mesh)


def test_an_unfinished_index_is_refused(stored, mesh, tmp_path):
    with pytest.raises(StorageError, match=r"holds no finished index \(manifest.json is missing\)"):
        open_index(tmp_path / "nothing", stored(unit_vectors()), mesh)


def test_a_finished_index_of_any_folder_is_opened_and_a_new_one_is_built_in_the_last(stored, mesh, tmp_path):
    vectors, folders = stored(unit_vectors()), [tmp_path / "shared", tmp_path / "own"]
    open_or_build(vectors, EXACT, folders, mesh)
    assert [folder.exists() for folder in folders] == [False, True]
    shutil.move(folders[1], folders[0])
    open_or_build(vectors, EXACT, folders, mesh)
    assert [folder.exists() for folder in folders] == [True, False]
    open_or_build(vectors, EXACT, folders, mesh, again=True)
    assert [folder.exists() for folder in folders] == [True, True]


def test_a_damaged_index_is_refused_and_stays_until_it_is_built_again(stored, mesh, tmp_path):
    vectors, folder = stored(unit_vectors()), tmp_path / "index"
    open_or_build(vectors, SCANN, [folder], mesh)
    flip_a_bit(folder / "scann" / "hashed_dataset.npy")
    damaged = digests(folder)
    with pytest.raises(StorageError, match=r"hashed_dataset.npy: digest .*; remove .*index and run `dense-jax index`"):
        open_or_build(vectors, SCANN, [folder], mesh)
    assert digests(folder) == damaged
    open_or_build(vectors, SCANN, [folder], mesh, again=True)
    open_or_build(vectors, SCANN, [folder], mesh)


def test_t27_a_flipped_bit_in_scanns_files_is_refused(stored, mesh, tmp_path):
    vectors = stored(unit_vectors())
    build_index(vectors, SCANN, tmp_path / "index", mesh)
    flip_a_bit(tmp_path / "index" / "scann" / "hashed_dataset.npy")
    with pytest.raises(StorageError, match=r"hashed_dataset.npy: digest .* the file has changed"):
        open_index(tmp_path / "index", vectors, mesh)


def test_a_flipped_bit_under_an_exact_index_is_refused(stored, mesh, tmp_path):
    vectors = stored(unit_vectors())
    build_index(vectors, EXACT, tmp_path / "index", mesh)
    flip_a_bit(vectors.folder / "vectors-00001-of-00002.npy")
    with pytest.raises(StorageError, match=r"vectors-00001-of-00002.npy: digest .* the file has changed"):
        open_index(tmp_path / "index", vectors, mesh)


def test_a_flipped_bit_is_found_before_building(stored, mesh, tmp_path):
    vectors = stored(unit_vectors())
    flip_a_bit(vectors.folder / "vectors-00001-of-00002.npy")
    with pytest.raises(StorageError, match="the file has changed"):
        build_index(vectors, SCANN, tmp_path / "index", mesh)


def test_a_pickle_in_an_index_is_never_opened(stored, mesh, tmp_path):
    vectors = stored(unit_vectors())
    build_index(vectors, SCANN, tmp_path / "index", mesh)
    (tmp_path / "index" / "scann" / "scann_docids.pkl").write_bytes(b"not even a pickle")
    with pytest.raises(StorageError, match=r"scann_docids.pkl: a pickle could run code and is not ours"):
        open_index(tmp_path / "index", vectors, mesh)


def test_a_missing_scann_names_its_package(stored, mesh, tmp_path, monkeypatch):
    from dense_jax.errors import MachineError

    monkeypatch.setitem(__import__("sys").modules, "scann", None)
    with pytest.raises(MachineError, match=r"the package scann is not installed; `pip install scann`"):
        build_index(stored(unit_vectors()), SCANN, tmp_path / "index", mesh)
