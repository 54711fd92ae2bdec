"""Encoders as pure functions: parameters and tokens in, one vector of a text out, or several (MVR)."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import linen as nn

from dense_jax.arrays import Array, Bool, Float, Int, Params, PRNGKeyArray, l2_normalize, np, split_key, to_float32
from dense_jax.config.rules import NotNegative, Positive
from dense_jax.errors import require
from dense_jax.models.layers import apply_module, init_params
from dense_jax.models.pooling import Pooler, Pooling, Projection, mean_pool, pool_segments
from dense_jax.models.transformer import TransformerConfig
from dense_jax.types import Layout, PackedTokens, Tokens


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

    def apply(
        self, params: Params, tokens: Tokens, *, rng: PRNGKeyArray | None = None, unpooled: int = 0
    ) -> Float[Array, "b d"]:
        """Float32 vectors of `tokens`; mean pooling ignores the first `unpooled` tokens."""
        bert, head = split_key(rng, 2)
        mask = tokens.mask & (np.arange(tokens.mask.shape[-1])[None] >= unpooled) if unpooled else tokens.mask
        return self.pool(params, self.hidden_states(params, tokens, rng=bert), mask, rng=head)

    def apply_packed(
        self, params: Params, packed: PackedTokens, *, rng: PRNGKeyArray | None = None
    ) -> Float[Array, "r s d"]:
        """Float32 vectors of the s texts packed into each row, equal to those that `apply` gives of each text alone."""
        bert, head = split_key(rng, 2)
        places = jnp.asarray(packed.positions), jnp.asarray(packed.segments)
        hidden = apply_module(self.bert.model(), params["bert"], packed.tokens, *places, rng=bert)
        return self._finished(params, pool_segments(hidden, places[1], jnp.asarray(packed.starts), self.pooling), head)

    def hidden_states(
        self,
        params: Params,
        tokens: Tokens,
        *,
        positions: Int[Array, "b l"] | None = None,
        rng: PRNGKeyArray | None = None,
    ) -> Float[Array, "b l d"]:
        """Last hidden states, in the compute type. `positions` replace 0, 1, 2, ..."""
        return apply_module(self.bert.model(), params["bert"], tokens, positions, rng=rng)

    def all_hidden_states(
        self, params: Params, tokens: Tokens, *, rng: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, "b l d"], ...]:
        """Hidden states from the embeddings (index 0) to the last layer (index `bert.layers`)."""
        return apply_module(self.bert.model(), params["bert"], tokens, rng=rng, method="hidden_states")

    def pool(
        self,
        params: Params,
        hidden: Float[Array, "b l d"],
        mask: Bool[Array | np.ndarray, "b l"],
        *,
        rng: PRNGKeyArray | None = None,
    ) -> Float[Array, "b p"]:
        """Float32 vectors of texts from their last hidden states."""
        pooled = mean_pool(hidden, mask) if self.pooling is Pooling.MEAN else to_float32(hidden[:, 0])
        return self._finished(params, pooled, rng)

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
