"""Exact maximum inner product search: every query against every vector, over all devices.

The corpus is split over the devices by rows. Each device scores its rows block by block and keeps the best k so far;
the devices' results are merged at the end. At most queries x block scores are in memory at a time.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from dense_jax.arrays import Array, Float, Int, np
from dense_jax.mesh import BATCH_AXES, batch_sharding, batch_shards, replicated
from dense_jax.types import Ranking

_BLOCK = 16_384  # vectors scored at a time on one device
_QUERIES = 1_024  # queries at a time: with a block, 64 MiB of scores


class ExactSearch:
    """Search in a corpus in the memory of a mesh's devices: float32 vectors, or int8 codes."""

    def __init__(
        self, vectors: Float[np.ndarray, "p d"] | Int[np.ndarray, "p d"], mesh: Mesh, *, approximate: bool = False
    ) -> None:
        """`vectors` may be a memory map: each device's rows are read once.

        With `approximate`, TPUs divide each block into bins and keep the best of each (Chern et al. 2022, "TPU-KNN").
        The number of bins is chosen for a recall of 0.95 on rows in random order. Other devices sort each block and
        keep the same number of its rows.
        """
        self._mesh = mesh
        self._approximate = approximate
        self._count = len(vectors)
        rows = -(-self._count // batch_shards(mesh))  # per device
        self._blocks = max(1, -(-rows // _BLOCK))
        self._block = max(1, -(-rows // self._blocks))
        self._corpus = _to_devices(vectors, self._blocks * self._block, mesh)

    def search(self, queries: Float[np.ndarray, "q d"], k: int) -> Ranking:
        """Return the k largest inner products of each query, best first; ties by lower row.

        Where the corpus holds fewer than k vectors the last rows are -1 and their scores -inf.
        """
        size = min(_QUERIES, 1 << (len(queries) - 1).bit_length())  # few sizes, so that few programs are compiled
        parts = [self._search(queries[start : start + size], size, k) for start in range(0, len(queries), size)]
        return Ranking(np.concatenate([s for s, _ in parts]), np.concatenate([r for _, r in parts]))

    def _search(
        self, queries: Float[np.ndarray, "q d"], size: int, k: int
    ) -> tuple[Float[np.ndarray, "q k"], Int[np.ndarray, "q k"]]:
        padded = np.zeros((size, queries.shape[1]), np.float32)
        padded[: len(queries)] = queries
        everywhere = jax.device_put(padded, replicated(self._mesh))
        settings = {"count": self._count, "block": self._block, "approximate": self._approximate}
        scores, rows = _top_k(everywhere, self._corpus, k=k, mesh=self._mesh, **settings)
        return np.asarray(scores)[: len(queries)], np.asarray(rows)[: len(queries)]


def _to_devices(vectors: np.ndarray, rows: int, mesh: Mesh) -> Array:
    """Return `vectors` on the devices, `rows` rows on each, zeros after the last."""
    shape = (rows * batch_shards(mesh), vectors.shape[1])

    def shard(index: Any) -> np.ndarray:
        start, stop, _ = index[0].indices(shape[0])
        part = np.zeros((stop - start, shape[1]), vectors.dtype)
        for first in range(start, min(stop, len(vectors)), _BLOCK):  # so that no second copy of all is in memory
            rows = vectors[first : min(first + _BLOCK, stop)]
            part[first - start : first - start + len(rows)] = rows
        return part

    return jax.make_array_from_callback(shape, batch_sharding(mesh), shard)


@functools.partial(jax.jit, static_argnames=("k", "count", "block", "approximate", "mesh"))
def _top_k(
    queries: Float[Array, "q d"],
    corpus: Float[Array, "p d"] | Int[Array, "p d"],
    *,
    k: int,
    count: int,
    block: int,
    approximate: bool,
    mesh: Mesh,
) -> tuple[Float[Array, "q k"], Int[Array, "q k"]]:
    local = functools.partial(_top_k_of_shard, k=k, count=count, block=block, approximate=approximate)
    split = P(None, BATCH_AXES)  # concatenates the devices' candidates, so that rows ascend from left to right
    candidates = jax.shard_map(local, mesh=mesh, in_specs=(P(), P(BATCH_AXES)), out_specs=(split, split))
    scores, rows = candidates(queries, corpus)
    values, columns = jax.lax.top_k(
        scores, k
    )  # takes the leftmost of equal scores: rows ascend, so it is the lower row
    return values, jnp.take_along_axis(rows, columns, 1)


def _top_k_of_shard(
    queries: Float[Array, "q d"],
    shard: Float[Array, "p d"] | Int[Array, "p d"],
    *,
    k: int,
    count: int,
    block: int,
    approximate: bool,
) -> tuple[Float[Array, "q k"], Int[Array, "q k"]]:
    first = jax.lax.axis_index(BATCH_AXES) * len(shard)  # the shard's first row of the corpus

    def step(best: tuple[Array, Array], i: Array) -> tuple[tuple[Array, Array], None]:
        start = first + i * block
        part = jax.lax.dynamic_slice_in_dim(shard, i * block, block).astype(jnp.float32)
        scores = jnp.einsum("qd,pd->qp", queries, part, precision=jax.lax.Precision.HIGHEST)
        scores = jnp.where((start + jnp.arange(block) < count)[None, :], scores, -jnp.inf)
        picked = None  # columns of the block that were kept, if not all
        if approximate and k < block:
            # The bins are sized for the whole corpus, so a block may have fewer than k bins: no top k is taken of them.
            scores, picked = jax.lax.approx_max_k(
                scores, k, reduction_input_size_override=max(count, block), aggregate_to_topk=False
            )
        values, columns = jax.lax.top_k(jnp.concatenate([best[0], scores], 1), k)  # as above: lower rows stay left
        kept = jnp.take_along_axis(best[1], jnp.minimum(columns, k - 1), 1)
        found = columns - k if picked is None else jnp.take_along_axis(picked, jnp.maximum(columns - k, 0), 1)
        return (values, jnp.where(columns < k, kept, start + found)), None

    nothing = jnp.full((len(queries), k), -jnp.inf), jnp.full((len(queries), k), -1)
    nothing = jax.lax.pcast(nothing, BATCH_AXES, to="varying")  # the loop's result differs from device to device
    return jax.lax.scan(step, nothing, jnp.arange(len(shard) // block))[0]
