"""Blockwise log-sum-exp over in-batch negatives: a block of passages at a time, forward and backward.

Inf-CL (Cheng et al. 2024, "Breaking the Memory Barrier"), section 3, without its ring between devices.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dense_jax.arrays import Array, Bool, Float, Int
from dense_jax.losses.similarity import MASKED_SCORE, NegativeMask, TextIds, dot_scores


class BlockwiseSums(NamedTuple):
    """Reductions over the scores of each query's candidates: all passages that are not masked."""

    log_sum_exp: Float[Array, " q"]
    score_sum: Float[Array, " q"]
    candidates: Int[Array, " q"]  # their number
    argmax: Int[Array, " q"]  # the first of equals
    above: Int[Array, " q"]  # number of candidates that score above `BlockInputs.positive_score`


class BlockInputs(NamedTuple):
    """Positives and mask of each query; no gradient passes through them."""

    own: Int[Array, " q"]  # index of the query's own passage, which is never masked; -1: no such passage
    positive_score: Float[Array, " q"]  # its score, with which the others are compared
    negative_mask: NegativeMask | None


def _blockwise_sums(
    queries: Float[Array, "q d"], passages: Float[Array, "p d"], inputs: BlockInputs, temperature: float, chunk: int
) -> BlockwiseSums:
    """Reduce the inner products over the temperature, `chunk` passages at a time, relative to a running maximum.

    Memory: one [q, chunk] block of scores. The backward pass computes each block again.
    """

    def add(running: tuple[Array, BlockwiseSums], block: _Block) -> tuple[tuple[Array, BlockwiseSums], None]:
        largest, sums = running
        scores, is_candidate = _block_scores(queries, block, inputs, temperature)
        highest = jnp.max(scores, axis=1)
        now = jnp.maximum(largest, highest)
        # where() as well: in a block without candidates the maximum is a masked score, whose exponential is 1
        terms = jnp.where(is_candidate, jnp.exp(scores - now[:, None]), 0.0)
        # the first of equals wins, as in one argmax over all, whatever the order of the blocks
        first = jnp.min(jnp.where(scores == highest[:, None], block.numbers[None], passages.shape[0]), axis=1)
        tied = jnp.where(highest == largest, jnp.minimum(sums.argmax, first), sums.argmax)
        is_other = (
            block.numbers[None] != inputs.own[:, None]
        )  # its own score may differ from `positive_score` in a last digit
        return (
            now,
            BlockwiseSums(
                log_sum_exp=sums.log_sum_exp * jnp.exp(largest - now) + jnp.sum(terms, axis=1),
                score_sum=sums.score_sum + jnp.sum(jnp.where(is_candidate, scores, 0.0), axis=1),
                candidates=sums.candidates + jnp.sum(is_candidate, axis=1),
                argmax=jnp.where(highest > largest, first, tied),
                above=sums.above + jnp.sum(is_other & (scores > inputs.positive_score[:, None]), axis=1),
            ),
        ), None

    zero, zeros = jnp.zeros(queries.shape[:1], queries.dtype), jnp.zeros(queries.shape[:1], int)
    start = zero + MASKED_SCORE, BlockwiseSums(zero, zero, zeros, zeros + passages.shape[0], zeros)
    (largest, sums), _ = jax.lax.scan(add, start, _blocks(passages, inputs.negative_mask, chunk))
    return sums._replace(log_sum_exp=largest + jnp.log(sums.log_sum_exp))


blockwise_sums: Any = jax.custom_vjp(_blockwise_sums, nondiff_argnums=(3, 4))


def _forward(
    queries: Array, passages: Array, inputs: BlockInputs, temperature: float, chunk: int
) -> tuple[BlockwiseSums, Any]:
    sums = blockwise_sums(queries, passages, inputs, temperature, chunk)
    return sums, (queries, passages, inputs, sums.log_sum_exp)


def _backward(temperature: float, chunk: int, residuals: Any, cotangents: BlockwiseSums) -> tuple[Array, Array, None]:
    queries, passages, inputs, log_sum_exp = residuals

    def add(query_gradient: Array, block: _Block) -> tuple[Array, Array]:
        scores, is_candidate = _block_scores(queries, block, inputs, temperature)
        softmax = jnp.exp(scores - log_sum_exp[:, None])
        weights = softmax * cotangents.log_sum_exp[:, None] + cotangents.score_sum[:, None]
        weights = jnp.where(is_candidate, weights, 0.0) / temperature
        return query_gradient + jnp.einsum("qp,pd->qd", weights, block.vectors), jnp.einsum(
            "qp,qd->pd", weights, queries
        )

    query_gradient, by_block = jax.lax.scan(
        add, jnp.zeros_like(queries), _blocks(passages, inputs.negative_mask, chunk)
    )
    passage_gradient = by_block.swapaxes(0, 1).reshape(-1, passages.shape[1])[: passages.shape[0]]
    return query_gradient, passage_gradient, None


blockwise_sums.defvjp(_forward, _backward)


class _Block(NamedTuple):
    """Some passages, with their indices; -1 fills up."""

    vectors: Float[Array, "*n c d"]
    numbers: Int[Array, "*n c"]
    text_ids: TextIds | None


def _blocks(passages: Float[Array, "p d"], negative_mask: NegativeMask | None, chunk: int) -> _Block:
    """Split passages into n blocks of `chunk`. A block takes every n-th passage, so it is spread over all devices."""
    size = passages.shape[0]
    count = -(-size // chunk)

    def split(x: Array) -> Array:
        padded = jnp.pad(x, ((0, count * chunk - size), *((0, 0) for _ in x.shape[1:])))
        return padded.reshape(chunk, count, *x.shape[1:]).swapaxes(0, 1)

    numbers = jnp.arange(count * chunk)
    numbers = jnp.where(numbers < size, numbers, -1).reshape(chunk, count).swapaxes(0, 1)
    return _Block(split(passages), numbers, jax.tree.map(split, negative_mask and negative_mask.passages))


def _block_scores(
    queries: Float[Array, "q d"], block: _Block, inputs: BlockInputs, temperature: float
) -> tuple[Float[Array, "q c"], Bool[Array, "q c"]]:
    """Scores of a block, and which of them are candidates; the others are MASKED_SCORE."""
    scores, numbers = dot_scores(queries, block.vectors), block.numbers[None]
    is_candidate = jnp.broadcast_to(numbers >= 0, scores.shape)
    if inputs.negative_mask is not None:
        is_masked = inputs.negative_mask._replace(passages=block.text_ids).mask(scores)
        is_candidate &= ~is_masked | (numbers == inputs.own[:, None])
    return jnp.where(is_candidate, scores / temperature, MASKED_SCORE), is_candidate
