"""Exact search of generated vectors: ours against PyTorch's matrix products and top-k, in one process.

    python benchmarks/exact.py                                          200,000 vectors of width 256
    python benchmarks/exact.py --vectors=21000000 --width=768           65 GB of a GPU for ours, 33 for PyTorch's

Ours is that of `index.kind=exact`, in float32; PyTorch's computes in bfloat16 on a GPU, and its recall says what that
costs. Vectors of length 1 in all directions, and queries near some of them. Prints a Markdown table and one JSON line a
row; README.md in this folder explains the columns.
"""

import argparse
from collections.abc import Iterator

import arguments
import numpy as np
import report
from machine import provenance, set_up
from timing import Program, Timing, interleaved, ratio

from dense_jax.arrays import Float, Int
from dense_jax.config import MeshConfig
from dense_jax.mesh import make_mesh
from dense_jax.retrieval.exact import ExactSearch

K = 100
_TILE = 65_536  # vectors that are drawn; the others are these with their columns turned


class Generated:
    """As many vectors as an array of `shape`, made as they are read, so that only some are in the host's memory."""

    dtype = np.dtype(np.float32)

    def __init__(self, count: int, width: int) -> None:
        self.shape = count, width
        self._tile = _unit(np.random.default_rng(0).normal(size=(min(count, _TILE), width)).astype(np.float32))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> Float[np.ndarray, "n d"]:
        start, stop, _ = rows.indices(len(self))
        parts = []
        while start < stop:
            turn, first = divmod(start, len(self._tile))
            part = self._tile[first : first + stop - start]
            parts.append(np.roll(part, turn, axis=1))
            start += len(part)
        return np.concatenate(parts)

    def tiles(self) -> Iterator[Float[np.ndarray, "n d"]]:
        """All of them, in pieces of at most _TILE rows."""
        return (self[start : start + _TILE] for start in range(0, len(self), _TILE))


def main() -> None:
    asked = _parser().parse_args()
    until = arguments.deadline(asked.seconds)
    here = set_up(asked.threads, asked.dtype)
    vectors = Generated(asked.vectors, asked.width)
    rng = np.random.default_rng(1)
    near = vectors[: asked.queries] + 0.05 * rng.normal(size=(asked.queries, asked.width))
    queries = _unit(near.astype(np.float32))
    search = ExactSearch(vectors, make_mesh(MeshConfig()))  # pyright: ignore[reportArgumentType]  read like an array
    programs = [Program("dense_jax, exact", lambda i: search.search(queries, K).rows, lambda: None)]
    if arguments.peer_kinds(asked.peer):
        import peers  # imported here: PyTorch may be missing

        peers.set_up(here)
        programs.append(peers.exact_search(vectors.tiles(), queries, K, here.dtype))
    timings = interleaved(programs, asked.steps, asked.warmup, until)
    rows = [
        _row(program.name, timing, timings[0], asked.queries) for program, timing in zip(programs, timings, strict=True)
    ]
    title = f"The {K} best of {asked.vectors:,} vectors of width {asked.width} for {asked.queries} queries at once"
    report.publish(f"{title}, {here}", rows, vars(asked) | provenance(here))


def _parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(description=__doc__, formatter_class=arguments.Formatter)
    made.add_argument("--vectors", type=arguments.at_least(2 * K), default=200_000, help="number of vectors")
    made.add_argument("--width", type=arguments.at_least(8), default=256, help="of vectors")
    made.add_argument("--queries", type=arguments.at_least(1), default=128, help="that are searched at once")
    made.add_argument("--steps", type=arguments.at_least(2), default=10, help="timed turns of each program")
    made.add_argument("--warmup", type=arguments.at_least(1), default=2, help="steps before that")
    made.add_argument("--peer", choices=("none", "tuned"), default="tuned", help="PyTorch program")
    made.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto", help="of PyTorch's products")
    made.add_argument("--threads", type=arguments.at_least(0), default=0, help="cores to use; 0: all")
    arguments.add_seconds(made)
    return made


def _row(name: str, timing: Timing, ours: Timing, queries: int) -> report.Row:
    seconds = float(np.median(timing.wall))
    return {
        "program": name,
        "ms": 1e3 * seconds,
        "queries/s": queries / seconds,
        "recall@100": _recall(timing.outputs[-1], ours.outputs[-1]),
        "time / ours": ratio(timing.wall, ours.wall),
        "CPU / ours": ratio(timing.cpu, ours.cpu),
        "first s": timing.first,
        "drift": timing.drift,
    }


def _recall(found: Int[np.ndarray, "q k"], best: Int[np.ndarray, "q k"]) -> float:
    return float(np.mean([len(np.intersect1d(a, b)) / K for a, b in zip(found, best, strict=True)]))


def _unit(rows: Float[np.ndarray, "n d"]) -> Float[np.ndarray, "n d"]:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


if __name__ == "__main__":
    arguments.run(main)
