"""Tasks of several processes that embed and search a toy together (tests/processes.py)."""

import contextlib
import errno
import os
import signal
from pathlib import Path

import jax
import numpy as np

from dense_jax.config import FusionConfig, IndexConfig, IndexKind, MeshConfig, MineConfig
from dense_jax.errors import UserError
from dense_jax.io import naming_storage_errors, read_json, whole_file, write_json
from dense_jax.mesh import make_mesh, process_mesh, replicated
from dense_jax.processes.multihost import is_process_0
from dense_jax.processes.signals import StopSignals
from dense_jax.retrieval import embed as embedding
from dense_jax.retrieval import index
from dense_jax.retrieval.beir import TestSet
from dense_jax.retrieval.bm25 import BM25Settings, open_or_index
from dense_jax.retrieval.embed import embed
from dense_jax.retrieval.mine import DenseRetriever, mine
from dense_jax.retrieval.search import dense_search, hybrid_search
from dense_jax.retrieval.vectors import Vectors
from dense_jax.train.validator import Sample, Validator
from dense_jax.types import Ranking, Tower
from tests.toys import BagOfTokens, MeanEmbedding, MemoryStore, QuestionStore, ToyTokenizer

STORE = MemoryStore(60)
EXACT = IndexConfig(kind=IndexKind.EXACT, sample=0)
LEAVES = IndexConfig(kind=IndexKind.SCANN, leaves=4, leaves_searched=4, reorder=600, sample=50)
QUERIES = np.random.default_rng(1).integers(-3, 4, (20, 8)).astype(np.float32)
K = 30


def table() -> dict[str, np.ndarray]:
    return {"embedding": np.random.default_rng(2).normal(size=(50, 4)).astype(np.float32)}


def embedded(folder: Path, mesh, **changes) -> Vectors:
    """The toy's passages in nine files."""
    tower = Tower(MeanEmbedding(), table() | changes, 6)
    return embed(STORE, tower, ToyTokenizer(), mesh, folder, batch=8, shard_size=7, made_by={"step": 7})


def embed_all(folder: Path) -> None:
    embedded(folder / "embedded", process_mesh())


def build_and_search(folder: Path) -> None:
    """An exact and an approximate index over FOLDER/vectors, and what is found in them."""
    found, mesh = {}, process_mesh()
    for name, config in {"exact": EXACT, "leaves": LEAVES}.items():
        index.build_index(Vectors(folder / "vectors"), config, folder / name, mesh)
        ranking = index.open_index(folder / name, Vectors(folder / "vectors"), mesh).search(QUERIES, K)
        found |= {f"{name}_rows": ranking.rows, f"{name}_scores": ranking.scores}
    if is_process_0():
        np.savez(folder / "found.npz", **found)


def hybrid(folder: Path, mesh) -> Ranking:
    """What BM25 and a tower that is not trained find together for every fifth passage, by its first tokens."""
    bm25 = open_or_index(STORE, [folder / "words"], BM25Settings(collection="toy", k1=0.9, b=0.4))
    meaning = index.build_index(embedded(folder / "meant", mesh), EXACT, folder / "meant-index", mesh)
    find = dense_search(meaning, Tower(MeanEmbedding(), table(), 6), ToyTokenizer())
    queries = [" ".join(map(str, STORE.tokens[row][:2])) for row in range(0, len(STORE), 5)]
    return hybrid_search(bm25, find, STORE.ids(), FusionConfig(depth=20))(queries, 10)


def search_hybrid(folder: Path) -> None:
    """Twice: the second time the index of words is opened, and not built."""
    first, again = (hybrid(folder, process_mesh()) for _ in range(2))
    np.testing.assert_array_equal(first.rows, again.rows)
    np.savez(folder / f"hybrid-{jax.process_index()}.npz", rows=first.rows, scores=first.scores)


def mined(folder: Path, mesh) -> Path:
    """Negatives for 52 questions about 60 documents, by a retriever that is not trained."""
    questions, tower = QuestionStore(52), Tower(MeanEmbedding(), table(), 6)
    vectors = embed(
        questions.documents, tower, ToyTokenizer(), mesh, folder / "documents", batch=8, shard_size=7, made_by={}
    )
    meaning = DenseRetriever(index.build_index(vectors, EXACT, folder / "documents-index", mesh), tower, ToyTokenizer())
    return mine(questions, questions.documents, meaning, MineConfig(depth=10, negatives=5), folder / "mined", {})


def validated(mesh) -> dict[str, float]:
    """Every third passage is found by every second one of its tokens: how well, with a table that is not trained."""
    queries = {f"q{i}": " ".join(map(str, STORE.tokens[i][::2])) for i in range(0, 60, 3)}
    judged = TestSet("toys", "dev", queries, {query: {query.replace("q", "doc"): 1} for query in queries}, ())
    params = jax.device_put({"encoder": table()}, replicated(mesh))
    return Validator(Sample(judged, STORE, ToyTokenizer(), "toys"), BagOfTokens(), 8)(params)


def mine_all(folder: Path) -> None:
    mined(folder, process_mesh())


def validate(folder: Path) -> None:
    write_json(folder / f"figures-{jax.process_index()}.json", validated(make_mesh(MeshConfig())))


def call_verbs(folder: Path) -> None:
    """Those of FOLDER/commands.json, one after another."""
    from dense_jax import verbs  # here, since it imports everything
    from dense_jax.config.command_line import parse

    for verb, *argv in read_json(folder / "commands.json"):
        verbs.call(verb, parse(argv, verb), StopSignals())


def fail(folder: Path) -> None:
    """Token 21 becomes NaN, first met by the second process; then its disk is full. Notes what each process says."""
    mesh, broken = process_mesh(), table()["embedding"]
    broken[21] = np.nan  # in passages 11 and 12, of the second file, and in passage 15
    said = [_error(lambda: embedded(folder / "broken", mesh, embedding=broken))]
    if not is_process_0():
        embedding.whole_file = _full
    said.append(_error(lambda: embedded(folder / "full", mesh)))
    embedding.whole_file = whole_file
    write_json(folder / f"said-{jax.process_index()}.json", said)


def die(folder: Path) -> None:
    """The second process is killed while it writes its second file."""
    written = []

    def deadly(path: Path):
        written.append(path)
        if len(written) == 2 and not is_process_0():
            os.kill(os.getpid(), signal.SIGKILL)
        return whole_file(path)

    embedding.whole_file = deadly
    embedded(folder / "killed", process_mesh())


def _error(work) -> list:
    try:
        work()
    except UserError as error:
        return [type(error).__name__, str(error)]
    return []


@contextlib.contextmanager
def _full(path: Path):
    with naming_storage_errors(path):
        raise OSError(errno.ENOSPC, "")
    yield path
