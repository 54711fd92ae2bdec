"""Token sequences -> vectors, on all devices of a mesh.

Texts are sorted by length, longest first, so that a batch has little padding and an out-of-memory error comes with the
first batch. Lengths are rounded up to a few buckets, one compiled program for each. The host builds a batch while the
devices encode the previous one.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from dense_jax.arrays import Array, Float, Int, Params, np
from dense_jax.data.inputs import build_inputs
from dense_jax.errors import DataError
from dense_jax.mesh import batch_sharding, batch_shards, replicated
from dense_jax.types import TextEncoder, Tokens, Tower, Vocabulary

# tokens; the tower's own length is the last bucket
_BUCKETS = (32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536, 2048, 3072, 4096, 6144, 8192)
_QUERY_BATCH = 128

T = TypeVar("T")
Program = Callable[..., Float[Array, "b n d"]]  # of parameters, tokens and `unpooled`


@runtime_checkable
class Tokenizes(Protocol):
    """Tokenizer of texts into ids without special tokens."""

    @property
    def vocabulary(self) -> Vocabulary: ...

    def encode(self, texts: Sequence[str]) -> list[Int[np.ndarray, " l"]]: ...

    def prompt_ids(self, prompt: str) -> Int[np.ndarray, " l"]: ...


class TowerOnMesh:
    """A tower with its parameters on every device of `mesh`, and its compiled programs: make one, use it often."""

    def __init__(self, tower: Tower, mesh: Mesh, program: Program | None = None) -> None:
        """`program` of an earlier instance with the same encoder avoids compilation."""
        self.tower = dataclasses.replace(tower, params=jax.device_put(tower.params, replicated(mesh)))
        self.mesh = mesh
        self.program: Program = program or jax.jit(functools.partial(_apply, tower.encoder), static_argnames="unpooled")

    def encode(
        self,
        tokens: Callable[[int], Tokens],
        lengths: Sequence[int],
        batch: int,
        done: Callable[[int], object] = lambda count: None,
        unpooled: int = 0,
    ) -> Float[np.ndarray, "b n d"]:
        """Return the float32 vectors of `tokens(0)`, `tokens(1)`, ..., one for each view and each of `lengths`.

        `lengths` only sort the inputs and may be approximate. `done` is called with the number of newly encoded inputs.
        Mean pooling leaves out the first `unpooled` tokens.
        """
        encoder = self.tower.encoder
        vectors = np.empty((len(lengths), encoder.views, encoder.width), np.float32)
        order = np.argsort(-np.array(lengths), kind="stable")
        groups = [order[start : start + batch] for start in range(0, len(order), batch)]
        dispatched = ((places, self._run([tokens(int(i)) for i in places], batch, unpooled)) for places in groups)
        for places, result in _one_late(dispatched):
            vectors[places] = np.asarray(result)[: len(places)]
            done(len(places))
        return vectors

    def _run(self, rows: list[Tokens], batch: int, unpooled: int) -> Float[Array, "b n d"]:
        with jax.set_mesh(self.mesh):  # fused attention kernels are sharded by it
            tokens = jax.device_put(_stack(rows, batch), batch_sharding(self.mesh))
            return self.program(self.tower.params, tokens, unpooled=unpooled)


def encode_queries(texts: Sequence[str], tower: TowerOnMesh, tokenizer: Tokenizes) -> Float[np.ndarray, "q d"]:
    """Return one vector, the first view, of each of `texts` after the tower's prompt.

    Raises:
        DataError: a text is empty, or a vector is NaN or infinite.
    """
    for i, text in enumerate(texts):
        if not text.strip():
            raise DataError(f"query {i + 1} is empty; every query needs a word")
    side, untitled = tower.tower, np.empty(0, np.int32)
    # One text with its prompt, since a byte-level tokenizer joins the two; where `prompt_ids` allows training with the
    # prompt, these are the ids that `build_inputs` would make of both.
    ids = tokenizer.encode([side.prompt + text for text in texts])
    tokens = [build_inputs(untitled, body, side.length, side.layout, tokenizer.vocabulary) for body in ids]
    rounded = 1 << (min(len(texts), _QUERY_BATCH) - 1).bit_length()  # few sizes, so that few programs are compiled
    parts = batch_shards(tower.mesh)
    batch = math.ceil(rounded / parts) * parts
    lengths = [len(body) for body in ids]
    vectors = tower.encode(tokens.__getitem__, lengths, batch, unpooled=count_unpooled(side, tokenizer))[:, 0]
    for i in not_finite(vectors)[:1]:
        raise DataError(
            f"query {texts[i]!r} became a vector with NaN or infinity: the checkpoint has diverged; use an earlier one"
        )
    return vectors


def count_unpooled(tower: Tower, tokenizer: Tokenizes) -> int:
    """Return the number of first tokens that mean pooling leaves out: [CLS] and the tower's prompt, or 0."""
    if tower.pools_prompt or not tower.prompt:
        return 0
    return 1 + len(tokenizer.encode([tower.prompt])[0])


def not_finite(vectors: Float[np.ndarray, "b d"]) -> list[int]:
    """Return the rows that hold NaN or infinity."""
    return np.flatnonzero(~np.isfinite(vectors).all(axis=1)).tolist()


def _apply(encoder: TextEncoder, params: Params, tokens: Tokens, *, unpooled: int) -> Float[Array, "b n d"]:
    settings: dict[str, Any] = (
        {"unpooled": unpooled} if unpooled else {}
    )  # encoders without mean pooling do not take it
    return encoder.apply(params, tokens, **settings).astype(jnp.float32).reshape(-1, encoder.views, encoder.width)


def _stack(rows: list[Tokens], batch: int) -> Tokens:
    """Return `rows` cut to their bucket and stacked; the last one is repeated to fill the batch."""
    longest, whole = max(int(row.mask.sum()) for row in rows), len(rows[0].ids)
    length = next((size for size in _BUCKETS if longest <= size <= whole), whole)
    filled = rows + rows[-1:] * (batch - len(rows))
    return Tokens(*(np.stack([field[:length] for field in fields]) for fields in zip(*filled, strict=True)))


def _one_late(items: Iterable[T]) -> Iterator[T]:
    """Yield each item after the next one was dispatched, so that the devices work while the host waits for a result."""
    waiting: list[T] = []
    for item in items:
        yield from waiting
        waiting = [item]
    yield from waiting
