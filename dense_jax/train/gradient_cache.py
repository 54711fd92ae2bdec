"""The gradient cache: any batch on a device that holds `chunk` examples of it.

Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup". Examples are encoded a chunk
at a time and only what `Objective.encode` returns is kept. The backward pass encodes each chunk again, with the same
noise, so the gradient is that of the whole batch, for a third more work.
"""

import functools

import jax

from dense_jax.arrays import Array, Batch, Carry, Encoded, Float, Int, Metrics, Params, PRNGKeyArray
from dense_jax.config import require
from dense_jax.objective import Objective


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
    """`objective.loss` of a batch that is encoded in so many `chunks`, which divide it."""
    carry = objective.update_carry(params, carry)
    encoded = encode_in_chunks(objective, params, carry, batch, rng=rng, chunks=chunks)
    return objective.combine(carry, encoded, batch, step=step)


def encode_in_chunks(
    objective: Objective, params: Params, carry: Carry, batch: Batch, *, rng: PRNGKeyArray, chunks: int
) -> Encoded:
    """`objective.encode` of one chunk after the other, each with a key of its own.

    Raises:
        ConfigError: the rows of the batch, in which several examples may be packed, do not divide into the chunks.
    """
    rows = len(jax.tree.leaves(batch)[0])
    require(rows % chunks == 0, f"{rows} rows of examples do not divide into {chunks} chunks; use a larger chunk")
    parts = jax.tree.map(functools.partial(_split, count=chunks), batch)

    # Nothing is saved of a chunk but its inputs. A scan needs no guard against common subexpressions, which costs time.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def encode(params: Params, carry: Carry, part: Batch, key: PRNGKeyArray) -> Encoded:
        return objective.encode(params, carry, part, rng=key)

    def visit(_: None, inputs: tuple[Batch, PRNGKeyArray]) -> tuple[None, Encoded]:
        return None, encode(params, carry, *inputs)

    _, encoded = jax.lax.scan(visit, None, (parts, jax.random.split(rng, chunks)))
    return jax.tree.map(_joined, encoded)


def _split(x: Array, count: int) -> Array:
    """[b, ...] -> [count, b/count, ...]. A chunk takes every count-th row: as many from each device's part."""
    return x.reshape(-1, count, *x.shape[1:]).swapaxes(0, 1)


def _joined(x: Array) -> Array:
    """The reverse of `_split`."""
    return x.swapaxes(0, 1).reshape(-1, *x.shape[2:])
