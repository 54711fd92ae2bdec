"""Real processes embed and search together: what they write and find is what one writes and finds, and none hangs."""

import json
import signal
from pathlib import Path

import jax
import numpy as np
import pytest

from dense_jax.config import MeshConfig
from dense_jax.io import digests
from dense_jax.mesh import make_mesh
from dense_jax.retrieval import index
from dense_jax.retrieval.vectors import Vectors
from tests.processes import Processes
from tests.search_together import EXACT, QUERIES, K, embedded, hybrid, mined, validated

DEVICES = 2  # of one process
FILES, COUNT, WIDTH = 6, 600, 8
WITH_TIES = np.random.default_rng(0).integers(-1, 2, (COUNT, WIDTH)).astype(np.float32)


def write_vectors(folder: Path, array: np.ndarray) -> Vectors:
    """Vectors in six files; row r is document `doc{r}`."""
    folder.mkdir()
    for i, part in enumerate(np.split(array, FILES)):
        np.save(folder / f"vectors-{i:05}-of-{FILES:05}.npy", part)
    (folder / "ids.json").write_text(json.dumps([f"doc{row}" for row in range(len(array))]))
    about = {"count": len(array), "width": WIDTH, "views": 1, "dtype": "float32"}
    manifest = about | {"settings": {"made_by": {}}, "files": digests(folder)}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return Vectors(folder)


def best_by_numpy() -> np.ndarray:
    """The rows that a search finds, of equal ones the lower first."""
    return np.argsort(-(QUERIES @ WITH_TIES.T), axis=1, kind="stable")[:, :K]


@pytest.fixture(scope="module")
def mesh():
    return make_mesh(MeshConfig(), jax.devices()[:DEVICES])


@pytest.fixture(scope="module")
def alone(mesh, tmp_path_factory):
    """What one process makes of the toy's passages."""
    return digests(embedded(tmp_path_factory.mktemp("alone") / "embedded", mesh).folder)


@pytest.fixture(scope="module")
def two(together, tmp_path_factory):
    """The folder in which two processes embedded, searched and failed. Of all vectors there are many equal ones."""
    folder = tmp_path_factory.mktemp("two")
    write_vectors(folder / "vectors", WITH_TIES)
    for task in ("embed_all", "build_and_search", "search_hybrid", "mine_all", "validate", "fail"):
        together(2).do(f"tests.search_together.{task}", folder)
    return folder


@pytest.mark.slow
def test_two_processes_embed_what_one_embeds_byte_for_byte(two, alone):
    assert digests(two / "embedded") == alone
    assert len([name for name in alone if name.endswith(".npy")]) == 9


@pytest.mark.slow
def test_exact_search_in_two_parts_equals_one_part_including_ties(two, mesh, tmp_path):
    vectors, found = Vectors(two / "vectors"), np.load(two / "found.npz")
    one = index.build_index(vectors, EXACT, tmp_path / "index", mesh).search(QUERIES, K)
    np.testing.assert_array_equal(found["exact_rows"], one.rows)
    np.testing.assert_array_equal(found["exact_scores"], one.scores)  # of whole numbers, so no sum is rounded
    np.testing.assert_array_equal(one.rows, best_by_numpy())
    equal = np.diff(one.scores, axis=1) == 0
    assert (np.diff(one.rows // (COUNT // FILES) % 2, axis=1)[equal] != 0).any()  # ties lie in both parts


@pytest.mark.slow
def test_four_processes_embed_and_search_as_one_does(together, tmp_path, alone):
    write_vectors(tmp_path / "vectors", WITH_TIES)
    for task in ("embed_all", "build_and_search"):
        together(4).do(f"tests.search_together.{task}", tmp_path)
    assert digests(tmp_path / "embedded") == alone
    np.testing.assert_array_equal(np.load(tmp_path / "found.npz")["exact_rows"], best_by_numpy())


@pytest.mark.slow
def test_scann_in_two_parts_finds_what_exact_search_finds_and_one_process_finds_the_same(two, mesh):
    found = np.load(two / "found.npz")
    np.testing.assert_array_equal(found["leaves_scores"], found["exact_scores"])  # all leaves are searched
    opened = index.open_index(two / "leaves", Vectors(two / "vectors"), mesh)
    assert (opened.manifest["parts"], opened.manifest["recall@10"]) == (2, 1.0)
    alone = opened.search(QUERIES, K)
    np.testing.assert_array_equal(found["leaves_rows"], alone.rows)
    np.testing.assert_array_equal(found["leaves_scores"], alone.scores)


@pytest.mark.slow
def test_two_processes_mine_the_negatives_that_one_mines(two, mesh, tmp_path):
    ours, theirs = (
        [json.loads(line) for line in path.read_text().splitlines()]
        for path in (mined(tmp_path, mesh), two / "mined.jsonl")
    )
    assert len(ours) == 52
    for one, other in zip(ours, theirs, strict=True):
        for name in ("negative_scores", "positive_scores"):
            assert other.pop(name) == pytest.approx(one.pop(name), abs=2e-6)  # rounded to six digits
        assert other == one


@pytest.mark.slow
def test_two_processes_index_words_and_search_by_both_as_one_does(two, mesh, tmp_path):
    one = hybrid(tmp_path, mesh)
    assert digests(two / "words") == digests(tmp_path / "words")
    for process in range(2):
        found = np.load(two / f"hybrid-{process}.npz")
        np.testing.assert_array_equal(found["rows"], one.rows)
        np.testing.assert_array_equal(found["scores"], one.scores)


@pytest.mark.slow
def test_a_validation_in_two_processes_finds_what_one_finds(two, mesh):
    first, second = (json.loads((two / f"figures-{i}.json").read_text()) for i in range(2))
    assert first == second == pytest.approx(validated(mesh))


@pytest.mark.slow
def test_an_error_in_one_process_stops_both_with_the_same_message(two):
    (peer_nan, peer_disk), (own_nan, own_disk) = (json.loads((two / f"said-{i}.json").read_text()) for i in range(2))
    diverged = "2 documents became vectors with NaN or infinity, first 'doc11', 'doc12'"
    assert own_nan == ["DataError", f"{diverged}; the checkpoint has diverged: embed an earlier one"]
    assert peer_nan == ["DataError", f"process 1: {own_nan[1]}"]
    assert own_disk[1].endswith(
        "vectors-00001-of-00009.npy: the disk is full; free some space and start again, finished parts stay"
    )
    assert peer_disk == ["StorageError", f"process 1: {own_disk[1]}"]


@pytest.mark.slow
def test_one_process_goes_on_where_one_of_two_was_killed(tmp_path, mesh, alone):
    ends = Processes(2).end_with("tests.search_together.die", tmp_path)
    assert all(one.status for one in ends), ends
    assert ends[1].status == -signal.SIGKILL
    left = sorted(path.name for path in (tmp_path / "killed").glob("*.npy"))
    assert 2 <= len(left) < 9
    before = {name: (tmp_path / "killed" / name).stat().st_mtime_ns for name in left}
    assert digests(embedded(tmp_path / "killed", mesh).folder) == alone
    assert {name: (tmp_path / "killed" / name).stat().st_mtime_ns for name in left} == before
