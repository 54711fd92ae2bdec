"""The base of the methods: an encoder of queries and one of passages, tied or apart, and how their texts are laid out.

A method adds its `example` and its `combine`, and its own `encode` where it does more than encode both sides.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np

from dense_jax.arrays import Array, Batch, Carry, Encoded, Float, Int, Metrics, Params, PRNGKeyArray, split_key
from dense_jax.config.rules import AT_SEARCH, Length, ShareAbove0
from dense_jax.data.inputs import build_inputs
from dense_jax.data.packing import pack_examples
from dense_jax.errors import require
from dense_jax.losses.collapse import collapse_metrics
from dense_jax.objective import PASSAGE, Objective, unpack
from dense_jax.types import Layout, PackedTokens, Similarity, TextEncoder, Tokens, Tower, Towers, Vocabulary


@runtime_checkable
class TrainableEncoder(TextEncoder, Protocol):
    """An encoder among the settings of a method, such as `models.encoder.Encoder`."""

    normalize: bool  # vectors of length 1
    check_input: Callable[[str, int, Layout], None]


E = TypeVar("E", bound=TrainableEncoder)


class Pairs(NamedTuple):
    """Vectors of queries and of the passages that belong to them."""

    queries: Float[Array, "b d"]
    passages: Float[Array, "b *g d"]


@dataclass
class DualEncoder(Objective, Generic[E]):
    """The settings and the functions that all methods share.

    Parameters: {"encoder"} of both sides where `shared`, else {"query", "passage"}; a method may add subtrees. The
    attributes below the fields are constants; a method that makes one a setting declares it as a field of its own.
    """

    encoder: E
    query_length: Length = field(default=64, metadata=AT_SEARCH)  # tokens
    passage_length: Length = field(default=288, metadata=AT_SEARCH)  # tokens, the title included
    layout: Layout = field(default=Layout.JOINED, metadata=AT_SEARCH)  # of passages; JOINED and PAIR contain the title
    # room for the tokens of a batch, as a share of what padding each text takes; below 1, several texts share a row
    packing: ShareAbove0[float] = 1.0
    query_prompt: str = field(default="", metadata=AT_SEARCH)  # put before a query, in training and in search
    passage_prompt: str = field(default="", metadata=AT_SEARCH)  # put before a passage

    packs = True  # `packing` may be below 1
    shared = True  # one encoder for both sides
    learns_queries = True  # training has queries, which begin with their prompt
    pool_prompts = True  # a mean includes [CLS] and the prompt

    def __post_init__(self) -> None:
        require(
            self.packs or self.packing == 1,
            f"objective.packing={self.packing} is below 1, but {type(self).__name__} pads its texts; "
            "use --objective.packing=1",
        )
        self.encoder.check_input("query_length", self.query_length, Layout.BODY)
        self.encoder.check_input("passage_length", self.passage_length, self.layout)

    def prompts(self) -> Sequence[str]:
        """The prompts of training texts."""
        query = [self.query_prompt] if self.learns_queries else []
        return [prompt for prompt in (*query, self.passage_prompt) if prompt]

    @property
    def query_encoder(self) -> E:
        """The encoder of queries, each of which has one vector."""
        return self.encoder

    @property
    def passage_encoder(self) -> E:
        return self.encoder

    def init(self, rng: PRNGKeyArray) -> Params:
        if self.shared:
            return {"encoder": self.encoder.init(rng)}
        query, passage = jax.random.split(rng)
        return {"query": self.query_encoder.init(query), PASSAGE: self.passage_encoder.init(passage)}

    def sides(self, params: Params) -> tuple[Params, Params]:
        """The parameters of the query encoder and of the passage encoder."""
        return (params["encoder"],) * 2 if self.shared else (params["query"], params[PASSAGE])

    def collate(self, examples: Batch, numbers: Int[np.ndarray, " b"]) -> Batch:
        """The examples, their texts packed if `packing` is below 1: see `pack_examples`.

        Raises:
            ConfigError: the texts do not fill whole rows.
        """
        return examples if self.packing == 1 else pack_examples(examples, numbers, self.packing)

    def encode(self, params: Params, carry: Carry, batch: Batch, *, rng: PRNGKeyArray | None) -> Encoded:
        """The vectors of batch["query"] and batch["passage"], as `Pairs`."""
        query_params, passage_params = self.sides(params)
        query_rng, passage_rng = split_key(rng, 2)
        return Pairs(
            self.query_encoder.apply(query_params, batch["query"], rng=query_rng),
            self.passage_encoder.apply(passage_params, batch["passage"], rng=passage_rng),
        )

    def collapse_metrics(self, params: Params, carry: Carry, batch: Batch) -> Metrics:
        """The metrics of the `Pairs` that `encode` returns; {} for a method whose `encode` returns none."""
        encoded = unpack(self.encode(params, carry, batch, rng=None))
        return collapse_metrics(*encoded) if isinstance(encoded, Pairs) else {}

    def towers(self, params: Params) -> Towers:
        query, passage = self.sides(params)
        cosine = self.query_encoder.normalize and self.passage_encoder.normalize
        return Towers(
            query=Tower(
                self.query_encoder,
                query,
                self.query_length,
                prompt=self.query_prompt,
                pools_prompt=self.pool_prompts,
            ),
            passage=Tower(
                self.passage_encoder,
                passage,
                self.passage_length,
                self.layout,
                self.passage_prompt,
                self.pool_prompts,
            ),
            similarity=Similarity.COSINE if cosine else Similarity.DOT,
        )

    def query_inputs(self, tokens: Int[np.ndarray, " l"], vocabulary: Vocabulary) -> Tokens:
        """A training query as search lays it out."""
        prompt = vocabulary.prompt_ids(self.query_prompt)
        return build_inputs(tokens[:0], tokens, self.query_length, Layout.BODY, vocabulary, prompt=prompt)

    def passage_inputs(
        self, title: Int[np.ndarray, " t"], body: Int[np.ndarray, " l"], vocabulary: Vocabulary
    ) -> Tokens:
        """A training passage as search lays it out."""
        prompt = vocabulary.prompt_ids(self.passage_prompt)
        return build_inputs(title, body, self.passage_length, self.layout, vocabulary, prompt=prompt)


def fill(tokens: Tokens | PackedTokens) -> Float[Array, ""]:
    """Share of positions that hold a real token."""
    return jnp.mean(tokens.mask, dtype=jnp.float32)
