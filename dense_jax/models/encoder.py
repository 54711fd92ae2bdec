"""The pure functions that objectives are written with: parameters and tokens in, vectors or logits out."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from dense_jax.arrays import Array, Bool, Float, Int, Params, PRNGKeyArray, l2_normalize, np, split_key, to_float32
from dense_jax.config import require
from dense_jax.config.rules import NotNegative
from dense_jax.models.attention import Attention
from dense_jax.models.bert import Bert, BertConfig, Block
from dense_jax.models.heads import CondenserHead, MlmHead, Pooler, Pooling, Projection, mean_pool, pool_segments
from dense_jax.models.layers import apply_module, init_params
from dense_jax.types import Layout, PackedTokens, Tokens


@dataclass
class Encoder:
    """BERT, pooling, and what may follow: satisfies `contracts.Encodes`.

    Parameters: {"bert", "pooler", "projection"}, the last two where they are used. In all functions dropout is on if
    there is an `rng`.
    """

    bert: BertConfig
    pooling: Pooling = Pooling.CLS
    projection: NotNegative[int] = 0  # width of an affine layer with layer normalisation (ORQA); 0: none
    normalize: bool = False  # vectors of length 1

    @property
    def width(self) -> int:
        """Of the vectors."""
        return self.projection or self.bert.width

    @property
    def views(self) -> int:
        """Vectors of a text."""
        return 1

    def check_input(self, name: str, length: int, layout: Layout) -> None:
        """As `check_input` of its BERT."""
        check_input(self.bert, name, length, layout)

    def init(self, rng: PRNGKeyArray) -> Params:
        """Fresh float32 parameters. Pure: runs under `jit` and `eval_shape`."""
        bert, pooler, projection = jax.random.split(rng, 3)
        word = jnp.zeros((1, 1), jnp.int32)
        params = {"bert": init_params(Bert(self.bert), bert, Tokens(word, word, word == 0))}
        if self.pooling is Pooling.POOLER:
            params["pooler"] = init_params(Pooler(self.bert), pooler, jnp.zeros((1, self.bert.width)))
        if self.projection:
            params["projection"] = init_params(self._projection, projection, jnp.zeros((1, self.bert.width)))
        return params

    def apply(
        self, params: Params, tokens: Tokens, *, rng: PRNGKeyArray | None = None, unpooled: int = 0
    ) -> Float[Array, "b d"]:
        """Return the float32 vectors of `tokens`; a mean leaves the first `unpooled` of them out."""
        bert, head = split_key(rng, 2)
        mask = tokens.mask & (np.arange(tokens.mask.shape[-1])[None] >= unpooled) if unpooled else tokens.mask
        return self.pool(params, self.hidden_states(params, tokens, rng=bert), mask, rng=head)

    def apply_packed(
        self, params: Params, packed: PackedTokens, *, rng: PRNGKeyArray | None = None
    ) -> Float[Array, "r s d"]:
        """The float32 vectors of the texts of each row: as `apply` gives of each alone."""
        bert, head = split_key(rng, 2)
        places = jnp.asarray(packed.positions), jnp.asarray(packed.segments)
        hidden = apply_module(Bert(self.bert), params["bert"], packed.tokens, *places, rng=bert)
        return self._finished(params, pool_segments(hidden, places[1], jnp.asarray(packed.starts), self.pooling), head)

    def hidden_states(
        self,
        params: Params,
        tokens: Tokens,
        *,
        positions: Int[Array, "b l"] | None = None,
        rng: PRNGKeyArray | None = None,
    ) -> Float[Array, "b l d"]:
        """The last hidden states, in the compute type. `positions` stand in for 0, 1, 2, ..."""
        return apply_module(Bert(self.bert), params["bert"], tokens, positions, rng=rng)

    def all_hidden_states(
        self, params: Params, tokens: Tokens, *, rng: PRNGKeyArray | None = None
    ) -> tuple[Float[Array, "b l d"], ...]:
        """The hidden states from the embeddings (index 0) to the last layer (index `bert.layers`)."""
        return apply_module(Bert(self.bert), params["bert"], tokens, rng=rng, method="hidden_states")

    def pool(
        self,
        params: Params,
        hidden: Float[Array, "b l d"],
        mask: Bool[Array | np.ndarray, "b l"],
        *,
        rng: PRNGKeyArray | None = None,
    ) -> Float[Array, "b p"]:
        """The float32 vectors that belong to the last hidden states."""
        pooled = mean_pool(hidden, mask) if self.pooling is Pooling.MEAN else to_float32(hidden[:, 0])
        return self._finished(params, pooled, rng)

    def _finished(self, params: Params, pooled: Float[Array, "*n d"], rng: PRNGKeyArray | None) -> Float[Array, "*n p"]:
        if self.pooling is Pooling.POOLER:
            pooled = apply_module(Pooler(self.bert), params["pooler"], pooled)
        if self.projection:
            pooled = apply_module(self._projection, params["projection"], pooled, rng=rng)
        return l2_normalize(pooled) if self.normalize else pooled

    @property
    def _projection(self) -> Projection:
        return Projection(self.projection, self.bert.dropout)


def check_input(bert: BertConfig, name: str, length: int, layout: Layout) -> None:
    """
    Raises:
        ConfigError: `length`, the objective's setting `name`, is more than the model takes, or `layout` has more
            segments than it knows.
    """
    kept = f", {bert.first_position} of which family={bert.family.value} keeps" if bert.first_position else ""
    require(
        length <= bert.longest,
        f"objective.{name}={length} exceeds objective.encoder.bert.positions={bert.positions}{kept}",
    )
    require(
        layout is not Layout.PAIR or bert.types > 1,
        f"objective.layout={layout.value} has two segments, but objective.encoder.bert.types={bert.types}; "
        "use --objective.layout=joined",
    )


def init_condenser(config: BertConfig, layers: int, rng: PRNGKeyArray) -> Params:
    """Fresh parameters of Condenser's head: the subtree "condenser" of an objective's parameters."""
    hidden = jnp.zeros((1, 1, config.width))
    return init_params(CondenserHead(config, layers), rng, hidden, hidden, jnp.ones((1, 1), bool))


def apply_condenser(
    config: BertConfig,
    params: Params,
    last: Float[Array, "b l d"],
    early: Float[Array, "b l d"],
    mask: Bool[Array | np.ndarray, "b l"],
    *,
    rng: PRNGKeyArray | None = None,
) -> Float[Array, "b l d"]:
    """What Condenser's head `params["condenser"]` makes of the last and the early hidden states."""
    head = params["condenser"]
    return apply_module(CondenserHead(config, len(head)), head, last, early, jnp.asarray(mask), rng=rng)


def init_decoder(config: BertConfig, rng: PRNGKeyArray) -> Params:
    """Fresh parameters of RetroMAE's decoder: the subtree "decoder" of an objective's parameters."""
    return init_params(_decoder(config), rng, jnp.zeros((1, 1, config.width)), jnp.ones((1, 1, 1), bool))


def apply_decoder(
    config: BertConfig,
    params: Params,
    vectors: Float[Array, "b d"],
    tokens: Tokens,
    visible: Bool[Array, "b l l"],
    *,
    embed_queries: bool = False,
    rng: PRNGKeyArray | None = None,
) -> Float[Array, "b l d"]:
    """Hidden states of RetroMAE's decoder, one BERT layer, for the text `tokens` whose vectors are given.

    Position i attends to the vector, in the place of the first token, and to the embeddings of the others, as far as
    `visible[:, i]` says; its query is the vector plus the embedding of the position alone. RetroMAE (Xiao et al. 2022),
    section 3.2. With `embed_queries` the segment's embedding and the layer normalisation of the embeddings are applied
    to the query as well: DupMAE's released code.
    """
    bert, table = params["encoder"]["bert"], params["encoder"]["bert"]["position"]["embedding"]
    of_memory, of_queries, of_layer = split_key(rng, 3)
    embedded = apply_module(Bert(config), bert, tokens, rng=of_memory, method="embed")
    first = vectors[:, None].astype(embedded.dtype)
    memory = jnp.concatenate([first, embedded[:, 1:]], axis=1)
    if embed_queries:
        repeated = jnp.broadcast_to(first, embedded.shape)
        queries = apply_module(Bert(config), bert, repeated, rng=of_queries, method="embed_vectors")
    else:
        queries = first + table[None, config.first_position :][:, : embedded.shape[1]].astype(embedded.dtype)
    return apply_module(_decoder(config), params["decoder"], queries, visible, memory, rng=of_layer)


def _decoder(config: BertConfig) -> Block:
    return Block(config, Attention.XLA)  # the fused kernels hide the same keys from all queries


def init_mlm(config: BertConfig, rng: PRNGKeyArray) -> Params:
    """Fresh parameters of the masked-language-model head: the subtree "mlm" of an objective's parameters."""
    hidden, positions = jnp.zeros((1, 1, config.width)), jnp.zeros((1, 1), jnp.int32)
    return init_params(MlmHead(config), rng, hidden, positions, jnp.zeros((config.vocab_size, config.width)))


def mlm_logits(
    config: BertConfig, params: Params, hidden: Float[Array, "b l d"], positions: Int[Array, "b m"]
) -> Float[Array, "b m v"]:
    """Float32 scores of every token at `positions`, by the head `params["mlm"]` and the embeddings of "encoder"."""
    embedding = params["encoder"]["bert"]["word"]["embedding"]
    return apply_module(MlmHead(config), params["mlm"], hidden, positions, embedding)
