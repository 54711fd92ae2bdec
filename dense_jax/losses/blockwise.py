"""Sums over the scores of all candidates, some passages at a time, forward and backward.

Inf-CL (Cheng et al. 2024), section 3; without its ring.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dense_jax.arrays import Array, Bool, Float, Int
from dense_jax.losses.similarity import MASKED_SCORE, NegativeMask, TextIds, dot_scores


class BlockwiseSums(NamedTuple):
    """What the scores of each query's candidates, the passages that are not hidden from it, come to."""

    normaliser: Float[Array, " q"]  # logarithm of the sum of their exponentials
    total: Float[Array, " q"]  # their sum
    count: Int[Array, " q"]
    best: Int[Array, " q"]  # the passage that scores highest, the first of equals
    above: Int[Array, " q"]  # how many score above the own one, or another that is given


class BlockInputs(NamedTuple):
    """What the sums are to know of each query beside its vector; no gradient passes through it."""

    own: Int[Array, " q"]  # the passage that is never hidden; -1: none
    positive: Float[Array, " q"]  # what candidates are counted that score above it
    hidden: NegativeMask | None


def _sums_in_tiles(
    queries: Float[Array, "q d"], passages: Float[Array, "p d"], told: BlockInputs, temperature: float, chunk: int
) -> BlockwiseSums:
    """`BlockwiseSums` of the inner products over the temperature. They are kept relative to a running maximum."""

    def add(running: tuple[Array, BlockwiseSums], tile: _Tile) -> tuple[tuple[Array, BlockwiseSums], None]:
        largest, sums = running
        scores, visible = _scores(queries, tile, told, temperature)
        highest = jnp.max(scores, axis=1)
        now = jnp.maximum(largest, highest)
        # where() as well, since in a tile of hidden scores alone the maximum is one of them
        terms = jnp.where(visible, jnp.exp(scores - now[:, None]), 0.0)
        # the first of equals wins, as with argmax over all, whatever the order of the tiles
        candidate = jnp.min(jnp.where(scores == highest[:, None], tile.numbers[None], passages.shape[0]), axis=1)
        tied = jnp.where(highest == largest, jnp.minimum(sums.best, candidate), sums.best)
        other = tile.numbers[None] != told.own[:, None]  # its own score may differ in the last digit from `positive`
        return (
            now,
            BlockwiseSums(
                normaliser=sums.normaliser * jnp.exp(largest - now) + jnp.sum(terms, axis=1),
                total=sums.total + jnp.sum(jnp.where(visible, scores, 0.0), axis=1),
                count=sums.count + jnp.sum(visible, axis=1),
                best=jnp.where(highest > largest, candidate, tied),
                above=sums.above + jnp.sum(other & (scores > told.positive[:, None]), axis=1),
            ),
        ), None

    zero, none = jnp.zeros(queries.shape[:1], queries.dtype), jnp.zeros(queries.shape[:1], int)
    start = zero + MASKED_SCORE, BlockwiseSums(zero, zero, none, none + passages.shape[0], none)
    (largest, sums), _ = jax.lax.scan(add, start, _tiles(passages, told.hidden, chunk))
    return sums._replace(normaliser=largest + jnp.log(sums.normaliser))


blockwise_sums: Any = jax.custom_vjp(_sums_in_tiles, nondiff_argnums=(3, 4))


def _forward(
    queries: Array, passages: Array, told: BlockInputs, temperature: float, chunk: int
) -> tuple[BlockwiseSums, Any]:
    sums = blockwise_sums(queries, passages, told, temperature, chunk)
    return sums, (queries, passages, told, sums.normaliser)


def _backward(temperature: float, chunk: int, residuals: Any, cotangents: BlockwiseSums) -> tuple[Array, Array, None]:
    queries, passages, told, normaliser = residuals

    def add(of_queries: Array, tile: _Tile) -> tuple[Array, Array]:
        scores, visible = _scores(queries, tile, told, temperature)
        weights = jnp.exp(scores - normaliser[:, None]) * cotangents.normaliser[:, None] + cotangents.total[:, None]
        weights = jnp.where(visible, weights, 0.0) / temperature
        return of_queries + jnp.einsum("qp,pd->qd", weights, tile.vectors), jnp.einsum("qp,qd->pd", weights, queries)

    of_queries, of_tiles = jax.lax.scan(add, jnp.zeros_like(queries), _tiles(passages, told.hidden, chunk))
    of_passages = of_tiles.swapaxes(0, 1).reshape(-1, passages.shape[1])[: passages.shape[0]]
    return of_queries, of_passages, None


blockwise_sums.defvjp(_forward, _backward)


class _Tile(NamedTuple):
    """Some passages, with their numbers; -1 fills up."""

    vectors: Float[Array, "*n c d"]
    numbers: Int[Array, "*n c"]
    marks: TextIds | None


def _tiles(passages: Float[Array, "p d"], hidden: NegativeMask | None, chunk: int) -> _Tile:
    """All passages in tiles of `chunk`: each takes every n-th passage, so that it lies on all devices alike."""
    size = passages.shape[0]
    count = -(-size // chunk)

    def split(x: Array) -> Array:
        padded = jnp.pad(x, ((0, count * chunk - size), *((0, 0) for _ in x.shape[1:])))
        return padded.reshape(chunk, count, *x.shape[1:]).swapaxes(0, 1)

    numbers = jnp.arange(count * chunk)
    numbers = jnp.where(numbers < size, numbers, -1).reshape(chunk, count).swapaxes(0, 1)
    return _Tile(split(passages), numbers, jax.tree.map(split, hidden and hidden.passages))


def _scores(
    queries: Float[Array, "q d"], tile: _Tile, told: BlockInputs, temperature: float
) -> tuple[Float[Array, "q c"], Bool[Array, "q c"]]:
    """The scores, and which of them are of candidates; the others are NEVER."""
    scores, numbers = dot_scores(queries, tile.vectors), tile.numbers[None]
    visible = jnp.broadcast_to(numbers >= 0, scores.shape)
    if told.hidden is not None:
        hidden = told.hidden._replace(passages=tile.marks).mask(scores)
        visible &= ~hidden | (numbers == told.own[:, None])
    return jnp.where(visible, scores / temperature, MASKED_SCORE), visible
