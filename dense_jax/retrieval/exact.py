"""Exact maximum inner product search: every query against every vector, over all devices.

The corpus is split over the devices by rows. Each walks through its rows in blocks and keeps the best k so far; the
devices' bests are merged at the end. No more than queries x block scores exist at a time.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from dense_jax.arrays import Array, Float, Int, first_places, np
from dense_jax.mesh import BATCH_AXES, batch_parts, batch_sharding, replicated
from dense_jax.types import Ranking

_BLOCK = 16_384  # vectors scored at a time on one device
_QUERIES = 1_024  # queries at a time: with a block, 64 MiB of scores


VectorSearch = Callable[[Float[np.ndarray, "q d"], int], Ranking]  # queries and k -> the k best of each


class ExactSearch:
    """Search in a corpus that lies in the memory of a mesh's devices, in float32."""

    def __init__(self, vectors: Float[np.ndarray, "p d"], mesh: Mesh, *, approximate: bool = False) -> None:
        """`vectors` may be a memory map: each device's rows are read once.

        With `approximate`, TPUs divide each block into bins and keep the best of each (Chern et al. 2022, "TPU-KNN"):
        so many that, were the rows in random order, one in twenty of the best k would be missed. Other devices sort,
        and keep as many of a block.
        """
        self._mesh = mesh
        self._approximate = approximate
        self._count = len(vectors)
        rows = -(-self._count // batch_parts(mesh))  # per device
        self._blocks = max(1, -(-rows // _BLOCK))
        self._block = max(1, -(-rows // self._blocks))
        self._corpus = _placed(vectors, self._blocks * self._block, mesh)

    def search(self, queries: Float[np.ndarray, "q d"], k: int) -> Ranking:
        """The k largest inner products of each query, best first; ties by lower row.

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


def best_per_passage(find: VectorSearch, views: int) -> VectorSearch:
    """`find` over vectors of which so many, one after another, are of the same passage -> a search for passages.

    Each is found once, by its best view. Of the best k n vectors at most n are of the same passage: so the result is
    exact if `find` is.
    """
    if views == 1:
        return find

    def search(queries: Float[np.ndarray, "q d"], k: int) -> Ranking:
        found = find(queries, k * views)
        result = Ranking(np.full((len(queries), k), -np.inf, np.float32), np.full((len(queries), k), -1))
        for i, (scores, rows) in enumerate(zip(found.scores, found.rows // views, strict=True)):  # -1 stays -1
            places = first_places(rows[rows >= 0])[:k]
            result.scores[i, : len(places)], result.rows[i, : len(places)] = scores[places], rows[places]
        return result

    return search


def _placed(vectors: Float[np.ndarray, "p d"], rows: int, mesh: Mesh) -> Float[Array, "padded d"]:
    """`vectors` with `rows` rows on each device, zeros after the last."""
    shape = (rows * batch_parts(mesh), vectors.shape[1])

    def shard(index: Any) -> np.ndarray:
        start, stop, _ = index[0].indices(shape[0])
        part = np.asarray(vectors[start:stop], np.float32)
        return np.pad(part, ((0, stop - start - len(part)), (0, 0)))

    return jax.make_array_from_callback(shape, batch_sharding(mesh), shard)


@functools.partial(jax.jit, static_argnames=("k", "count", "block", "approximate", "mesh"))
def _top_k(
    queries: Float[Array, "q d"],
    corpus: Float[Array, "p d"],
    *,
    k: int,
    count: int,
    block: int,
    approximate: bool,
    mesh: Mesh,
) -> tuple[Float[Array, "q k"], Int[Array, "q k"]]:
    local = functools.partial(_top_k_of_shard, k=k, count=count, block=block, approximate=approximate)
    split = P(None, BATCH_AXES)  # the devices' candidates side by side, so that rows ascend from left to right
    candidates = jax.shard_map(local, mesh=mesh, in_specs=(P(), P(BATCH_AXES)), out_specs=(split, split))
    scores, rows = candidates(queries, corpus)
    values, columns = jax.lax.top_k(scores, k)  # of equal ones the leftmost: rows ascend, so it is the lower row
    return values, jnp.take_along_axis(rows, columns, 1)


def _top_k_of_shard(
    queries: Float[Array, "q d"], shard: Float[Array, "p d"], *, k: int, count: int, block: int, approximate: bool
) -> tuple[Float[Array, "q k"], Int[Array, "q k"]]:
    first = jax.lax.axis_index(BATCH_AXES) * len(shard)  # row of the corpus at which this shard starts

    def step(best: tuple[Array, Array], i: Array) -> tuple[tuple[Array, Array], None]:
        start = first + i * block
        part = jax.lax.dynamic_slice_in_dim(shard, i * block, block)
        scores = jnp.einsum("qd,pd->qp", queries, part, precision=jax.lax.Precision.HIGHEST)
        scores = jnp.where((start + jnp.arange(block) < count)[None, :], scores, -jnp.inf)
        picked = None  # columns of the block that are left, if not all
        if approximate and k < block:
            # The bins are those of the whole corpus, so that a block may have fewer than k; hence no best k of them.
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
