"""Approximate search: our index against faiss, on the same vectors and queries in one process.

    python benchmarks/search.py                                         100,000 synthetic vectors of width 256
    python benchmarks/search.py --vectors=1000000 --threads=1
    python benchmarks/search.py --embeddings=DIR --questions=DIR        vectors that `dense-jax embed` wrote

Each library builds its index once, and searches with the least effort whose recall@10 reaches each aim; then all take
turns with the same 1,000 queries at once. Synthetic vectors lie around centres, which have numbers of vectors by Zipf's
law; queries lie twice as far from the centres. The last table has our index as `dense-jax index` leaves it. Needs
faiss-cpu for the other libraries. Prints a Markdown table for each aim and one JSON line a row.
"""

import importlib.util
import json
import sys
import tempfile
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import arguments
import numpy as np
import report
from machine import Machine, provenance, set_up
from timing import Program, Timing, interleaved, ratio

from dense_jax.arrays import Float, Int
from dense_jax.config import IndexConfig, IndexKind, MeshConfig
from dense_jax.io import digests
from dense_jax.mesh import make_mesh
from dense_jax.retrieval.index import build_index
from dense_jax.retrieval.vectors import Vectors

K = 10
AIMS = (0.90, 0.95, 0.99)  # recall@10
QUERIES = 1_000

Find = Callable[[Float[np.ndarray, "q d"], int], Int[np.ndarray, "q k"]]  # rows of the k best at an effort


@dataclass(frozen=True)
class Library:
    """An index that was built, and its search."""

    name: str
    find: Find  # of queries and an effort
    efforts: Sequence[int]  # ascending: leaves searched, or the breadth of a graph search; one of an exact search
    seconds: float  # to build it
    megabytes: float  # of its files


@dataclass(frozen=True)
class Point:
    """A library at one effort."""

    library: Library
    effort: int
    recall: float


def main() -> None:
    asked = _parser().parse_args()
    here = set_up(asked.threads, "float32")
    vectors, queries = _data(asked)
    with tempfile.TemporaryDirectory() as folder:
        stored = _stored(vectors, Path(folder) / "vectors")
        exact, (ours, as_built) = _exact(stored, Path(folder)), _ours(stored, Path(folder))
        best = exact.find(queries, 1)
        libraries = [ours, *_faiss(vectors, here, Path(folder)), exact]
        sweeps = [_sweep(library, queries, best) for library in libraries]
        for aim in AIMS:
            points = [point for sweep in sweeps if (point := _least(sweep, aim))]
            _publish(points, asked, here, queries, f"recall@{K} of {aim:.2f} or more")
        built = Point(ours, as_built, _recall(ours.find(queries, as_built), best))
        _publish([built, *sweeps[-1]], asked, here, queries, "our index as built")


def _parser() -> ArgumentParser:
    made = ArgumentParser(description=__doc__, formatter_class=arguments.Formatter)
    made.add_argument("--vectors", type=arguments.at_least(1_000), default=100_000, help="number of synthetic vectors")
    made.add_argument("--width", type=arguments.at_least(8), default=256, help="of synthetic vectors")
    made.add_argument("--embeddings", help="folder that `dense-jax embed` wrote, in place of synthetic vectors")
    made.add_argument(
        "--questions", help="folder with embeddings of queries; without it, rows of --embeddings are held out"
    )
    made.add_argument("--steps", type=arguments.at_least(2), default=10, help="timed turns of each library")
    made.add_argument("--threads", type=arguments.at_least(0), default=0, help="cores to use; 0: all")
    return made


# Vectors


def _data(asked: Namespace) -> tuple[Float[np.ndarray, "p d"], Float[np.ndarray, "q d"]]:
    rng = np.random.default_rng(0)
    if not asked.embeddings:
        return _synthetic(asked.vectors, asked.width, rng)
    vectors = np.array(Vectors(Path(asked.embeddings)).array())
    if asked.questions:
        queries = np.array(Vectors(Path(asked.questions)).array())
        return vectors, queries[rng.permutation(len(queries))[:QUERIES]]
    order = rng.permutation(len(vectors))
    return vectors[np.sort(order[QUERIES:])], vectors[order[:QUERIES]]


def _synthetic(count: int, width: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors around centres, some of which have many more than others."""
    centres = rng.normal(size=(max(16, count // 500), width)).astype(np.float32)
    shares = 1 / np.arange(1, len(centres) + 1)

    def around(number: int, spread: float) -> np.ndarray:
        of = rng.choice(len(centres), number, p=shares / shares.sum())
        found = centres[of] + spread * rng.normal(size=(number, width)).astype(np.float32)
        return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)

    return around(count, 0.7), around(QUERIES, 1.4)


def _stored(vectors: Float[np.ndarray, "p d"], folder: Path) -> Vectors:
    """The vectors in a folder as `dense-jax embed` writes it."""
    folder.mkdir()
    np.save(folder / "vectors-00000-of-00001.npy", vectors)
    (folder / "ids.json").write_text(json.dumps([str(row) for row in range(len(vectors))]))
    about = {"count": len(vectors), "width": vectors.shape[1], "views": 1, "dtype": "float32"}
    manifest = about | {"settings": {"made_by": {}}, "files": digests(folder)}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return Vectors(folder)


# Libraries


def _ours(vectors: Vectors, folder: Path) -> tuple[Library, int]:
    """Our approximate index, and the leaves that it searches as built."""
    start = time.perf_counter()
    index = build_index(vectors, IndexConfig(kind=IndexKind.SCANN), folder / "scann", make_mesh(MeshConfig()))
    seconds, settings = time.perf_counter() - start, index.manifest["scann"]

    def find(queries: Float[np.ndarray, "q d"], leaves: int) -> Int[np.ndarray, "q k"]:
        settings["leaves_searched"] = leaves
        return index.nearest(queries, K).rows

    efforts = _doubled(1, settings["leaves"])
    return Library("dense_jax, ScaNN", find, efforts, seconds, _size(folder / "scann")), settings["leaves_searched"]


def _exact(vectors: Vectors, folder: Path) -> Library:
    config = IndexConfig(kind=IndexKind.EXACT, sample=0)
    index = build_index(vectors, config, folder / "exact", make_mesh(MeshConfig()))
    size = vectors.array().nbytes / 1e6
    return Library("dense_jax, exact", lambda queries, _: index.nearest(queries, K).rows, [1], 0.0, size)


def _faiss(vectors: Float[np.ndarray, "p d"], here: Machine, folder: Path) -> list[Library]:
    """An inverted file with 4-bit codes and exact rescoring, as ScaNN has, and a graph; none without faiss."""
    if importlib.util.find_spec("faiss") is None:
        print("faiss is not installed: our own rows only; `pip install faiss-cpu` for the others", file=sys.stderr)
        return []
    import faiss  # pyright: ignore[reportMissingImports]

    faiss.omp_set_num_threads(here.threads)
    (count, width), leaves = vectors.shape, round(len(vectors) ** 0.5)
    made = []
    for name, kind, setting, efforts in (
        (
            "faiss IVF-PQ fast scan",
            f"IVF{leaves},PQ{width // 2}x4fs,RFlat",
            "nprobe={},k_factor_rf=10",
            _doubled(1, leaves),
        ),  # rescores 100, as ours
        ("faiss HNSW", "HNSW32,Flat", "efSearch={}", _doubled(K, min(count, 2_048))),
    ):
        start = time.perf_counter()
        index = faiss.index_factory(width, kind, faiss.METRIC_INNER_PRODUCT)
        index.train(vectors)
        index.add(vectors)
        seconds = time.perf_counter() - start
        faiss.write_index(index, str(folder / "faiss"))
        find = _faiss_search(faiss.ParameterSpace(), index, setting)
        made.append(Library(name, find, efforts, seconds, _size(folder / "faiss")))
    return made


def _faiss_search(space: Any, index: Any, setting: str) -> Find:
    def find(queries: Float[np.ndarray, "q d"], effort: int) -> Int[np.ndarray, "q k"]:
        space.set_index_parameters(index, setting.format(effort))
        return index.search(queries, K)[1]

    return find


def _size(path: Path) -> float:
    """Megabytes of a file, or of the files in a folder."""
    files = [path] if path.is_file() else path.rglob("*")
    return sum(file.stat().st_size for file in files if file.is_file()) / 1e6


# Effort, recall and time


def _doubled(first: int, last: int) -> list[int]:
    """first, 1.5 first, 2 first, 3 first, ... up to last."""
    steps = (first * 2**i * j // 2 for i in range(64) for j in (2, 3) if first * 2**i < last)
    return sorted({min(step, last) for step in steps} | {last})


def _sweep(library: Library, queries: Float[np.ndarray, "q d"], best: Int[np.ndarray, "q k"]) -> list[Point]:
    """The recall at each effort, until the highest aim is reached."""
    points: list[Point] = []
    for effort in library.efforts:
        points.append(Point(library, effort, _recall(library.find(queries, effort), best)))
        if points[-1].recall >= AIMS[-1]:
            break
    return points


def _recall(found: Int[np.ndarray, "q k"], best: Int[np.ndarray, "q k"]) -> float:
    return float(np.mean([len(np.intersect1d(a, b)) / K for a, b in zip(found, best, strict=True)]))


def _least(sweep: Sequence[Point], aim: float) -> Point | None:
    return next((point for point in sweep if point.recall >= aim), None)


def _publish(points: Sequence[Point], asked: Namespace, here: Machine, queries: np.ndarray, title: str) -> None:
    """Print the table of libraries that take turns, the first of which is the base of ratios."""
    programs = [
        Program(point.library.name, lambda _, point=point: point.library.find(queries, point.effort), lambda: None)
        for point in points
    ]
    timings = interleaved(programs, asked.steps, warm_up=2)
    rows = [_row(point, timing, timings[0], len(queries)) for point, timing in zip(points, timings, strict=True)]
    what = asked.embeddings or f"{asked.vectors:,} synthetic vectors of width {asked.width}"
    report.publish(f"Search in {what}, {title}, {here}", rows, vars(asked) | provenance(here) | {"aim": title})


def _row(point: Point, timing: Timing, base: Timing, queries: int) -> report.Row:
    return {
        "program": point.library.name,
        "recall@10": point.recall,
        "effort": point.effort,
        "queries/s": queries / float(np.median(timing.wall)),
        "time / ours": ratio(timing.wall, base.wall),
        "build s": point.library.seconds,
        "index MB": point.library.megabytes,
        "drift": timing.drift,
    }


if __name__ == "__main__":
    arguments.run(main)
