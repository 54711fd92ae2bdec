"""The gradient cache: any batch on a device that holds `chunk` examples of it.

Gao et al. 2021, "Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup". Examples are encoded a chunk
at a time and only what `Objective.encode` returns is kept. The backward pass encodes each chunk again, with the same
noise, so the gradient is that of the whole batch, for a third more work.
"""

import functools

import jax

from dense_jax.arrays import Array, Batch, Carry, Encoded, Float, Int, Metrics, Params, PRNGKeyArray
from dense_jax.contracts import Objective


def loss_in_chunks(
    objective: Objective,
    params: Params,
    carry: Carry,
    batch: Batch,
    *,
    rng: PRNGKeyArray,
    step: Int[Array, ""],
    chunk: int,
) -> tuple[Float[Array, ""], tuple[Metrics, Carry]]:
    """`objective.loss`, `chunk` examples at a time; `chunk` divides the batch."""
    carry = objective.update_carry(params, carry)
    encoded = encode_in_chunks(objective, params, carry, batch, rng=rng, chunk=chunk)
    return objective.combine(carry, encoded, batch, step=step)


def encode_in_chunks(
    objective: Objective, params: Params, carry: Carry, batch: Batch, *, rng: PRNGKeyArray, chunk: int
) -> Encoded:
    """`objective.encode`, `chunk` examples at a time, each chunk with a key of its own."""
    size = len(jax.tree.leaves(batch)[0])
    count = size // chunk
    chunks = jax.tree.map(functools.partial(_split, count=count), batch)

    # Nothing is saved of a chunk but its inputs. A scan needs no guard against common subexpressions, which costs time.
    @functools.partial(jax.checkpoint, prevent_cse=False)
    def encode(params: Params, carry: Carry, part: Batch, key: PRNGKeyArray) -> Encoded:
        return objective.encode(params, carry, part, rng=key)

    def visit(_: None, inputs: tuple[Batch, PRNGKeyArray]) -> tuple[None, Encoded]:
        return None, encode(params, carry, *inputs)

    _, encoded = jax.lax.scan(visit, None, (chunks, jax.random.split(rng, count)))
    return jax.tree.map(_joined, encoded)


def _split(x: Array, count: int) -> Array:
    """[b, ...] -> [count, b/count, ...]. A chunk takes every count-th row: as many from each device's part."""
    return x.reshape(-1, count, *x.shape[1:]).swapaxes(0, 1)


def _joined(x: Array) -> Array:
    """The reverse of `_split`."""
    return x.swapaxes(0, 1).reshape(-1, *x.shape[2:])
