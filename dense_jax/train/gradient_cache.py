"""Gradient cache: contrastive batches of any size in the memory of one chunk of examples.

Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup", section 3. Examples are
encoded one chunk at a time, and only the output of `Objective.encode` is kept. The backward pass encodes each chunk
again with the same noise: the gradient is that of the whole batch, for a third more work.
"""

import functools

import jax

from dense_jax.arrays import Array, Batch, Carry, Encoded, Float, Int, Metrics, Params, PRNGKeyArray
from dense_jax.errors import require
from dense_jax.objective import Objective, unpack


def loss_in_chunks(
    objective: Objective,
    params: Params,
    carry: Carry,
    batch: Batch,
    *,
    rng: PRNGKeyArray,
    step: Int[Array, ""],
    chunks: int,
) -> tuple[Float[Array, ""], tuple[Metrics, Carry]]:
    """`objective.loss` of a batch that is encoded in `chunks` chunks."""
    carry = objective.update_carry(params, carry)
    encoded = encode_in_chunks(objective, params, carry, batch, rng=rng, chunks=chunks)
    return objective.combine(carry, unpack(encoded), batch, step=step)


def encode_in_chunks(
    objective: Objective, params: Params, carry: Carry, batch: Batch, *, rng: PRNGKeyArray, chunks: int
) -> Encoded:
    """Call `objective.encode` on one chunk after the other, each with its own key.

    Raises:
        ConfigError: the rows of the batch, each of which may pack several examples, do not divide into the chunks.
    """
    for rows in sorted({len(x) for x in jax.tree.leaves(batch)}):
        require(rows % chunks == 0, f"{rows} rows of examples do not divide into {chunks} chunks; use a larger --chunk")
    parts = jax.tree.map(functools.partial(_split_chunks, count=chunks), batch)

    # Only the inputs of a chunk are saved. In a scan, the guard against common subexpressions costs time needlessly.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def encode(params: Params, carry: Carry, part: Batch, key: PRNGKeyArray) -> Encoded:
        return objective.encode(params, carry, part, rng=key)

    def visit(_: None, inputs: tuple[Batch, PRNGKeyArray]) -> tuple[None, Encoded]:
        return None, encode(params, carry, *inputs)

    _, encoded = jax.lax.scan(visit, None, (parts, jax.random.split(rng, chunks)))
    return jax.tree.map(_merge_chunks, encoded)


def _split_chunks(x: Array, count: int) -> Array:
    """[b, ...] -> [count, b/count, ...]. A chunk takes every count-th row, so equally many from each device."""
    return x.reshape(-1, count, *x.shape[1:]).swapaxes(0, 1)


def _merge_chunks(x: Array) -> Array:
    """Inverse of `_split_chunks`."""
    return x.swapaxes(0, 1).reshape(-1, *x.shape[2:])
