"""Scaled dot-product attention, by the kernel that a device runs fastest."""

import enum
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from dense_jax.arrays import Array, Bool, Float, Int, PRNGKeyArray
from dense_jax.errors import ConfigError
from dense_jax.mesh import BATCH_AXES, TENSOR
from dense_jax.models.layers import dropout

_MASKED = -1e9  # a score whose softmax weight is 0; finite, so that no gradient is NaN
_LANES = 128  # splash needs lengths that are multiples of this


class Attention(enum.Enum):
    """The attention kernel."""

    AUTO = "auto"  # the fastest one that the device and the compute type allow
    XLA = "xla"  # plain einsum and softmax; the only one with dropout on the attention weights
    CUDNN = "cudnn"  # fused, on NVIDIA GPUs, bfloat16 only
    SPLASH = "splash"  # fused, Pallas, on TPUs


def attend(
    query: Float[Array, "b q h d"],
    key: Float[Array, "b k h d"],
    value: Float[Array, "b k h d"],
    mask: Bool[Array, "b #q k"] | Int[Array, "b k"],
    *,
    kernel: Attention,
    window: int | None = None,
    rate: float = 0.0,
    rng: PRNGKeyArray | None = None,
) -> Float[Array, "b q h d"]:
    """softmax(query key' / sqrt(d)) value over the keys that are visible in `mask` (True: visible to the query).

    An integer mask gives the segment of each token in self-attention: a token sees those of its own segment. With a
    `window`, it sees only those at most `window` places away (Beltagy et al. 2020, "Longformer"). A query without a
    visible key sees all keys, so that padded rows give finite values and gradients. The softmax is float32.
    `rate` is the dropout of attention weights; it needs an `rng` and the xla kernel.
    Vaswani et al. 2017, "Attention Is All You Need", section 3.2.

    Raises:
        ConfigError: the splash kernel has a mask that differs from query to query.
    """
    if kernel is Attention.SPLASH:
        return _over_shards(functools.partial(_splash, window), query, key, value, _segments(mask, query))
    if mask.dtype != jnp.bool_:
        mask = mask[:, :, None] == mask[:, None, :]
    if window is not None:
        places = jnp.arange(key.shape[1])
        mask = mask & (jnp.abs(places[: query.shape[1], None] - places[None]) <= window)[None]
    mask = mask | ~mask.any(-1, keepdims=True)
    if kernel is Attention.CUDNN:
        b, q, _, _ = query.shape
        full_mask = jnp.broadcast_to(mask[:, None], (b, 1, q, key.shape[1]))
        return jax.nn.dot_product_attention(query, key, value, mask=full_mask, implementation="cudnn")
    return _xla(query, key, value, mask, rate, rng)


def _xla(query: Array, key: Array, value: Array, mask: Array, rate: float, rng: PRNGKeyArray | None) -> Array:
    query, key, value = (x.swapaxes(1, 2) for x in (query / math.sqrt(query.shape[-1]), key, value))
    exact = jnp.promote_types(query.dtype, jnp.float32)
    scores = jnp.einsum("bhqd,bhkd->bhqk", query, key, preferred_element_type=exact)
    scores = jnp.where(mask[:, None], scores, _MASKED)
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
    total = weights.sum(-1, keepdims=True)  # divides the short rows of the result, not the long ones here
    weights = dropout(weights, rate, rng).astype(value.dtype)
    mixed = jnp.einsum("bhqk,bhkd->bhqd", weights, value, preferred_element_type=exact)
    return (mixed / total).astype(value.dtype).swapaxes(1, 2)


def _segments(mask: Array, query: Array) -> Int[Array, "b k"]:
    """Segment ids of all tokens, the form of a mask that splash takes; masked tokens are segment 0.

    Raises:
        ConfigError: the mask differs from query to query.
    """
    if mask.dtype != jnp.bool_:
        return mask + 1
    if mask.shape[1] != 1 or query.shape[1] != mask.shape[2]:
        raise ConfigError("attention=splash masks the same keys for all queries; use attention=xla for this model")
    return (mask | ~mask.any(-1, keepdims=True))[:, 0].astype(jnp.int32)


def _splash(window: int | None, query: Array, key: Array, value: Array, segments: Array) -> Array:
    """Splash attention; lengths are padded to whole lanes by masked tokens."""
    from jax.experimental.pallas.ops.tpu import splash_attention as splash  # slow to import, and for TPUs only

    _, length, heads, width = query.shape
    spare = -length % _LANES
    query, key, value = (
        jnp.pad(x, ((0, 0), (0, spare), (0, 0), (0, 0))).swapaxes(1, 2) for x in (query / math.sqrt(width), key, value)
    )
    segments = jnp.pad(segments, ((0, 0), (0, spare)))
    shape = (length + spare, length + spare)
    seen = splash.FullMask(shape) if window is None else splash.LocalMask(shape, (window, window), 0)
    block = _largest_block(length + spare)
    sizes = splash.BlockSizes(
        block_q=block, block_kv=block, block_q_dkv=block, block_kv_dkv=block, use_fused_bwd_kernel=True
    )
    mask = splash.MultiHeadMask([seen] * heads)
    kernel = splash.make_splash_mha(mask, block_sizes=sizes, head_shards=1, q_seq_shards=1)
    mixed: Any = jax.vmap(kernel)(query, key, value, segment_ids=splash.SegmentIds(segments, segments))
    return mixed.swapaxes(1, 2)[:, :length]


def _largest_block(length: int) -> int:
    """Largest multiple of _LANES up to 512 that divides `length`."""
    return max(block for block in range(_LANES, min(length, 512) + 1, _LANES) if length % block == 0)


def _over_shards(kernel, query: Array, key: Array, value: Array, segments: Array) -> Array:
    """Run `kernel` on each device's rows and heads: the compiler does not shard a Pallas call by itself.

    The mesh is that of `jax.set_mesh`; without one the call is not sharded.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty:
        return kernel(query, key, value, segments)
    heads = P(BATCH_AXES, None, TENSOR)
    split = jax.shard_map(
        kernel, mesh=mesh, in_specs=(heads, heads, heads, P(BATCH_AXES)), out_specs=heads, check_vma=False
    )
    return split(query, key, value, segments)
