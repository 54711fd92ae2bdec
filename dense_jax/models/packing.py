"""Padded and packed texts inside a model: encoders and heads take either, and differ in these functions only."""

import jax.numpy as jnp

from dense_jax.arrays import Array, Bool, Float, Int, np, to_float32
from dense_jax.models.pooling import Pooling, mean_pool
from dense_jax.types import PackedTokens, PackedVectors, Tokens


def model_inputs(texts: Tokens | PackedTokens) -> tuple[Tokens, Array | None, Array | None]:
    """Tokens, positions and segments as a `Transformer` takes them; None where texts are padded."""
    if isinstance(texts, Tokens):
        return texts, None, None
    return texts.tokens, jnp.asarray(texts.positions), jnp.asarray(texts.segments)


def replace_ids(texts: Tokens | PackedTokens, ids: Int[Array, "b l"]) -> Tokens | PackedTokens:
    """`texts` with other ids of the same tokens."""
    if isinstance(texts, Tokens):
        return texts._replace(ids=ids)
    return texts._replace(tokens=texts.tokens._replace(ids=ids))


def attention_mask(texts: Tokens | PackedTokens) -> Bool[Array, "b 1 l"] | Int[Array, "b l"]:
    """The mask of `attend` by which each token sees the tokens of its own text."""
    return jnp.asarray(texts.mask)[:, None] if isinstance(texts, Tokens) else jnp.asarray(texts.segments)


def first_tokens(texts: Tokens | PackedTokens) -> Bool[Array, "#b l"]:
    """True at the first token of each text, and of padding wherever it does not matter."""
    if isinstance(texts, Tokens):
        return jnp.arange(texts.mask.shape[1])[None] == 0
    return jnp.asarray(texts.positions) == 0


def inner_tokens(texts: Tokens | PackedTokens) -> Bool[Array, "b l"]:
    """True at all real tokens but the first and the last of each text."""
    real, following = jnp.asarray(texts.mask), jnp.asarray(texts.mask)[:, 1:]
    if isinstance(texts, PackedTokens):
        following = following & (jnp.asarray(texts.segments)[:, 1:] == jnp.asarray(texts.segments)[:, :-1])
    return real & ~first_tokens(texts) & jnp.pad(following, ((0, 0), (0, 1)))


def spread(vectors: Float[Array, "b d"] | PackedVectors, texts: Tokens | PackedTokens) -> Float[Array, "b l d"]:
    """The vector of its text at each token."""
    if isinstance(texts, Tokens):
        assert not isinstance(vectors, PackedVectors)
        return jnp.broadcast_to(vectors[:, None], (*texts.mask.shape, vectors.shape[-1]))
    assert isinstance(vectors, PackedVectors)
    text = jnp.maximum(jnp.asarray(texts.segments), 0)  # at padding that of any text
    return jnp.take_along_axis(vectors.vectors, text[..., None], axis=1)


def pool(hidden: Float[Array, "b l d"], texts: Tokens | PackedTokens, pooling: Pooling) -> Float[Array, "b *s d"]:
    """Pool each text, in float32: [b d] of padded texts, [r s d] of up to s texts packed into each of r rows.

    The mean of an empty text is 0. POOLER returns the first token's hidden state, like CLS.
    """
    if isinstance(texts, Tokens):
        return mean_pool(hidden, texts.mask) if pooling is Pooling.MEAN else to_float32(hidden[:, 0])
    starts = jnp.asarray(texts.starts)
    if pooling is not Pooling.MEAN:
        return to_float32(jnp.take_along_axis(hidden, starts[..., None], axis=1))
    hidden = to_float32(hidden)
    members = (jnp.asarray(texts.segments)[:, None] == np.arange(starts.shape[1])[None, :, None]).astype(hidden.dtype)
    total = jnp.einsum("rld,rsl->rsd", hidden, members)
    return total / jnp.maximum(members.sum(-1)[..., None], 1)
