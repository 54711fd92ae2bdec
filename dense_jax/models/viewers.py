"""An encoder of several vectors a text: MVR's viewers in the place of [CLS].

Zhang et al. 2022, "Multi-View Document Representation Learning for Open-Domain Dense Retrieval", section 3.1.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp

from dense_jax.arrays import Array, Float, Params, PRNGKeyArray, l2_normalize, np, to_float32
from dense_jax.config.rules import Positive
from dense_jax.models.bert import Bert, BertConfig
from dense_jax.models.encoder import check_input
from dense_jax.models.layers import apply_module, init_params
from dense_jax.types import Layout, Tokens


@dataclass
class MultiViewEncoder:
    """BERT whose [CLS] gives way to n viewers, each of which makes a vector of the text: a `contracts.Encodes`.

    All viewers stand at position 0 and see each other; the text begins at position 1, whatever their number.
    Parameters: {"bert", "viewers": {"embedding" [n d]}}.
    """

    bert: BertConfig
    views: Positive[int] = 8  # vectors of a text
    normalize: bool = False  # vectors of length 1

    @property
    def width(self) -> int:
        """Of the vectors."""
        return self.bert.width

    def check_input(self, name: str, length: int, layout: Layout) -> None:
        """As `Encoder.check_input`: viewers need no position of their own."""
        check_input(self.bert, name, length, layout)

    def init(self, rng: PRNGKeyArray) -> Params:
        """Fresh float32 parameters: viewers differ from the start. Pure: runs under `jit` and `eval_shape`."""
        bert, viewers = jax.random.split(rng)
        word = jnp.zeros((1, 1), jnp.int32)
        drawn = self.bert.initializer * jax.random.normal(viewers, (self.views, self.width))
        return {
            "bert": init_params(Bert(self.bert), bert, Tokens(word, word, word == 0)),
            "viewers": {"embedding": drawn},
        }

    def apply(self, params: Params, tokens: Tokens, *, rng: PRNGKeyArray | None = None) -> Float[Array, "b *n d"]:
        """The float32 vectors of `tokens`, which begin with [CLS]: [b n d], of one view [b d].

        Of parameters with more viewers the first n are taken.
        """
        viewers = params["viewers"]["embedding"][: self.views]
        places = np.maximum(np.arange(1 - self.views, tokens.ids.shape[1]), 0)  # n times that of [CLS]: positions too
        opened = jax.tree.map(lambda x: x[:, places], tokens)
        hidden = apply_module(
            Bert(self.bert), params["bert"], opened, jnp.asarray(places)[None], None, viewers, rng=rng
        )
        vectors = to_float32(hidden[:, : self.views])
        vectors = l2_normalize(vectors) if self.normalize else vectors
        return vectors[:, 0] if self.views == 1 else vectors
