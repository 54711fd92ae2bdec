"""Vectors cut to their first components, which a model of Matryoshka training has learned to use alone.

Kusupati et al. 2022, "Matryoshka Representation Learning".
"""

from dataclasses import dataclass, replace
from typing import Any

from dense_jax.arrays import Array, Float, Params, PRNGKeyArray, l2_normalize
from dense_jax.errors import require
from dense_jax.types import TextEncoder, Tokens, Tower, Towers


@dataclass(frozen=True)
class FirstComponents:
    """An encoder of the first `width` components of another's vectors, at length 1 if the other's have it."""

    encoder: TextEncoder
    width: int

    @property
    def views(self) -> int:
        return self.encoder.views

    def init(self, rng: PRNGKeyArray) -> Params:
        return self.encoder.init(rng)

    def apply(
        self, params: Params, tokens: Tokens, *, rng: PRNGKeyArray | None = None, **settings: Any
    ) -> Float[Array, "b *n d"]:
        """`settings` are those of the other encoder."""
        vectors = self.encoder.apply(params, tokens, rng=rng, **settings)[..., : self.width]
        return l2_normalize(vectors) if getattr(self.encoder, "normalize", False) else vectors


def narrow(towers: Towers, width: int) -> Towers:
    """`towers` with vectors of `width` components.

    Raises:
        ConfigError: their vectors have fewer components.
    """
    whole = towers.passage.encoder.width
    require(width <= whole, f"embed.width={width} is more than the {whole} numbers of the model's vectors; use fewer")
    return replace(towers, query=_narrow_tower(towers.query, width), passage=_narrow_tower(towers.passage, width))


def _narrow_tower(tower: Tower, width: int) -> Tower:
    return replace(tower, encoder=FirstComponents(tower.encoder, width))
