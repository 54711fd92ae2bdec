"""Encoders as pure functions: parameters and tokens in, one vector of a text out, or several (MVR)."""

from dataclasses import dataclass
from typing import overload

import jax
import jax.numpy as jnp
from flax import linen as nn

from dense_jax.arrays import Array, Float, Int, Params, PRNGKeyArray, l2_normalize, np, split_key, to_float32
from dense_jax.config.rules import NotNegative, Positive
from dense_jax.errors import require
from dense_jax.models.layers import apply_module, init_params
from dense_jax.models.packing import model_inputs, pool
from dense_jax.models.pooling import Pooler, Pooling, Projection
from dense_jax.models.transformer import TransformerConfig
from dense_jax.types import Layout, PackedTokens, PackedVectors, Tokens


@dataclass
class Encoder:
    """A transformer, pooling, an optional projection and an optional normalisation: a `types.TextEncoder`.

    Parameters: {"bert", "pooler", "dense", "projection"}, the last three only if they are used. Dropout is on where an
    `rng` is passed.
    """

    bert: TransformerConfig
    pooling: Pooling = Pooling.CLS
    projection: NotNegative[int] = 0  # width of an affine layer with layer normalisation (ORQA); 0: none
    normalize: bool = False  # vectors of length 1
    dense: NotNegative[int] = 0  # width of an affine layer between pooling and projection, 0: none
    dense_tanh: bool = False  # tanh after that layer

    @property
    def width(self) -> int:
        """Dimensions of a vector."""
        return self.projection or self.dense or self.bert.width

    @property
    def views(self) -> int:
        """Number of vectors of a text."""
        return 1

    def check_input(self, name: str, length: int, layout: Layout) -> None:
        """Call `check_input` with its transformer."""
        check_input(self.bert, name, length, layout)

    def init(self, rng: PRNGKeyArray) -> Params:
        """Initial float32 parameters. Pure: runs under `jit` and `eval_shape`."""
        bert, pooler, projection = jax.random.split(rng, 3)
        width = self.dense or self.bert.width
        word = jnp.zeros((1, 1), jnp.int32)
        params = {"bert": init_params(self.bert.model(), bert, Tokens(word, word, word == 0))}
        if self.pooling is Pooling.POOLER:
            params["pooler"] = init_params(Pooler(self.bert), pooler, jnp.zeros((1, self.bert.width)))
        if self.dense:
            params["dense"] = init_params(self._dense, jax.random.fold_in(rng, 3), jnp.zeros((1, self.bert.width)))
        if self.projection:
            params["projection"] = init_params(self._projection, projection, jnp.zeros((1, width)))
        return params

    @overload
    def apply(
        self, params: Params, tokens: Tokens, *, rng: PRNGKeyArray | None = None, unpooled: int = 0
    ) -> Float[Array, "b d"]: ...

    @overload
    def apply(
        self, params: Params, tokens: PackedTokens, *, rng: PRNGKeyArray | None = None, unpooled: int = 0
    ) -> PackedVectors: ...

    def apply(
        self, params: Params, tokens: Tokens | PackedTokens, *, rng: PRNGKeyArray | None = None, unpooled: int = 0
    ) -> Float[Array, "b d"] | PackedVectors:
        """Float32 vectors of texts, which packing does not change; mean pooling of padded ones ignores the first
        `unpooled` tokens."""
        bert, head = split_key(rng, 2)
        hidden = self.hidden_states(params, tokens, rng=bert)
        if unpooled and isinstance(tokens, Tokens):
            tokens = tokens._replace(mask=tokens.mask & (np.arange(tokens.mask.shape[-1])[None] >= unpooled))
        return self.pool(params, hidden, tokens, rng=head)

    def hidden_states(
        self,
        params: Params,
        tokens: Tokens | PackedTokens,
        *,
        positions: Int[Array, "b l"] | None = None,
        rng: PRNGKeyArray | None = None,
    ) -> Float[Array, "b l d"]:
        """Last hidden states, in the compute type. `positions` replace 0, 1, 2, ..., of padded texts."""
        inputs, own, segments = model_inputs(tokens)
        return apply_module(
            self.bert.model(), params["bert"], inputs, own if positions is None else positions, segments, rng=rng
        )

    def all_hidden_states(
        self, params: Params, tokens: Tokens | PackedTokens, *, rng: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, "b l d"], ...]:
        """Hidden states from the embeddings (index 0) to the last layer (index `bert.layers`)."""
        return apply_module(self.bert.model(), params["bert"], *model_inputs(tokens), rng=rng, method="hidden_states")

    def pool(
        self,
        params: Params,
        hidden: Float[Array, "b l d"],
        tokens: Tokens | PackedTokens,
        *,
        rng: PRNGKeyArray | None = None,
    ) -> Float[Array, "b p"] | PackedVectors:
        """Float32 vectors of texts from their last hidden states."""
        vectors = self._finished(params, pool(hidden, tokens, self.pooling), rng)
        return vectors if isinstance(tokens, Tokens) else PackedVectors(vectors, jnp.asarray(tokens.places))

    def _finished(self, params: Params, pooled: Float[Array, "*n d"], rng: PRNGKeyArray | None) -> Float[Array, "*n p"]:
        if self.pooling is Pooling.POOLER:
            pooled = apply_module(Pooler(self.bert), params["pooler"], pooled)
        if self.dense:
            pooled = apply_module(self._dense, params["dense"], pooled)
            pooled = jnp.tanh(pooled) if self.dense_tanh else pooled
        if self.projection:
            pooled = apply_module(self._projection, params["projection"], pooled, rng=rng)
        return l2_normalize(pooled) if self.normalize else pooled

    @property
    def _dense(self) -> nn.Dense:
        return nn.Dense(self.dense, kernel_init=nn.initializers.glorot_uniform())

    @property
    def _projection(self) -> Projection:
        return Projection(self.projection, self.bert.dropout)


@dataclass
class MultiViewEncoder:
    """A transformer with n view tokens instead of [CLS], each of which yields a vector: a `types.TextEncoder`.

    All view tokens have position 0 and attend to each other; the text begins at position 1, whatever n.
    Parameters: {"bert", "view_tokens": {"embedding" [n d]}}.
    Zhang et al. 2022, "Multi-View Document Representation Learning for Open-Domain Dense Retrieval", section 3.1.
    """

    bert: TransformerConfig
    views: Positive[int] = 8  # view tokens, and so vectors, of a text
    normalize: bool = False  # vectors of length 1

    @property
    def width(self) -> int:
        """Dimensions of a vector."""
        return self.bert.width

    def check_input(self, name: str, length: int, layout: Layout) -> None:
        """Call `check_input` with its transformer: view tokens take no positions of their own."""
        check_input(self.bert, name, length, layout)

    def init(self, rng: PRNGKeyArray) -> Params:
        """Initial float32 parameters; the view tokens differ. Pure: runs under `jit` and `eval_shape`."""
        bert, view_tokens = jax.random.split(rng)
        word = jnp.zeros((1, 1), jnp.int32)
        embedding = self.bert.initializer * jax.random.normal(view_tokens, (self.views, self.width))
        return {
            "bert": init_params(self.bert.model(), bert, Tokens(word, word, word == 0)),
            "view_tokens": {"embedding": embedding},
        }

    def apply(self, params: Params, tokens: Tokens, *, rng: PRNGKeyArray | None = None) -> Float[Array, "b *n d"]:
        """Float32 vectors of `tokens`, which begin with [CLS]: [b n d], or [b d] for one view.

        If the parameters have more view tokens, the first n are used.
        """
        view_tokens = params["view_tokens"]["embedding"][: self.views]
        places = np.maximum(np.arange(1 - self.views, tokens.ids.shape[1]), 0)  # n times that of [CLS]; positions too
        widened = jax.tree.map(lambda x: x[:, places], tokens)
        hidden = apply_module(
            self.bert.model(), params["bert"], widened, jnp.asarray(places)[None], None, view_tokens, rng=rng
        )
        vectors = to_float32(hidden[:, : self.views])
        vectors = l2_normalize(vectors) if self.normalize else vectors
        return vectors[:, 0] if self.views == 1 else vectors


def check_input(bert: TransformerConfig, name: str, length: int, layout: Layout) -> None:
    """
    Raises:
        ConfigError: `length`, the objective's setting `name`, is more than the model takes, or `layout` has more
            segments than it knows.
    """
    kept = f", {bert.first_position} of which RoBERTa keeps for padding" if bert.first_position else ""
    require(
        length <= bert.longest,
        f"objective.{name}={length} exceeds objective.encoder.bert.positions={bert.positions}{kept}",
    )
    require(
        layout is not Layout.PAIR or bert.segments > 1,
        f"objective.layout={layout.value} has two segments, but objective.encoder.bert knows {bert.segments}; "
        "use --objective.layout=joined",
    )
