"""Texts -> vectors: a corpus into a folder of shards, queries into an array.

Within a shard passages are sorted by length, longest first, so that a batch is padded little and an out-of-memory error
comes with the first batch. Lengths are rounded up to a few buckets: one compiled program for each. The host lays out a
batch while the devices work on the one before.
"""

import dataclasses
import functools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar, runtime_checkable

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from dense_jax.arrays import Array, Float, Int, Params, np
from dense_jax.config import differences
from dense_jax.contracts import Document, Encodes, Layout, Passage, Tokens, Tower, Vocabulary
from dense_jax.data.passages import lay_out
from dense_jax.errors import ConfigError, DataError
from dense_jax.files import digests, read_json, whole_file, write_json
from dense_jax.mesh import batch_sharding, check_batch, replicated
from dense_jax.progress import bar
from dense_jax.retrieval.vectors import IDS, MANIFEST, Vectors

_BUCKETS = (32, 48, 64, 96, 128, 192, 256, 384, 512)  # tokens; the tower's own length comes last
_QUERY_BATCH = 256
_PLAN = "plan.json"
_NO_TITLE = np.empty(0, np.int32)

T = TypeVar("T")


@runtime_checkable
class Collection(Protocol):
    """Prepared passages, by row."""

    def __len__(self) -> int: ...

    def passages(self, rows: Sequence[int]) -> list[Passage]: ...

    def document(self, row: int) -> Document: ...

    def ids(self) -> list[str]: ...


@runtime_checkable
class Tokenizes(Protocol):
    """Text -> ids without special tokens."""

    @property
    def vocabulary(self) -> Vocabulary: ...

    def encode(self, texts: Sequence[str]) -> list[Int[np.ndarray, " l"]]: ...


def embed(
    store: Collection,
    tower: Tower,
    tokenizer: Tokenizes,
    mesh: Mesh,
    folder: Path,
    *,
    batch: int,
    shard_size: int,
    made_by: dict[str, Any],
) -> Vectors:
    """The passages of `store` through `tower`, as float32 vectors in `folder`.

    Finished shards are kept: an interrupted call is continued by the same call. `made_by` says whose vectors these are,
    as JSON values (such as the checkpoint's step and the collection's fingerprint).

    Raises:
        ConfigError: `folder` holds vectors made otherwise, or `batch` does not split over the devices.
        DataError: the collection is empty, or vectors are NaN or infinite; names their documents.
    """
    check_batch(batch, mesh, "embed.batch")
    if not len(store):
        raise DataError("the collection holds no passage to embed")
    _claim(folder, _plan(len(store), tower, shard_size, made_by))
    if not (folder / MANIFEST).is_file():
        width = _write_shards(store, _on_devices(tower, mesh), tokenizer, mesh, folder, batch, shard_size)
        write_json(folder / IDS, store.ids())
        files = digests(folder, "vectors-*.npy") | digests(folder, IDS)
        plan = read_json(folder / _PLAN)
        write_json(folder / MANIFEST, plan | {"width": width, "dtype": "float32", "files": files})
    return Vectors(folder)


def encode_queries(texts: Sequence[str], tower: Tower, tokenizer: Tokenizes, mesh: Mesh) -> Float[np.ndarray, "q d"]:
    """The vectors of `texts`, each put after the tower's prompt.

    Raises:
        DataError: a text is empty, or a vector is NaN or infinite.
    """
    for i, text in enumerate(texts):
        if not text.strip():
            raise DataError(f"query {i + 1} is empty; give it words")
    ids = tokenizer.encode([tower.prompt + text for text in texts])
    tokens = [lay_out(_NO_TITLE, body, tower.length, tower.layout, tokenizer.vocabulary) for body in ids]
    rounded = 1 << (min(len(texts), _QUERY_BATCH) - 1).bit_length()  # few sizes, so that few programs are compiled
    batch = math.ceil(rounded / mesh.size) * mesh.size
    vectors = _encode(tokens.__getitem__, [len(body) for body in ids], _on_devices(tower, mesh), mesh, batch)
    for i in _not_finite(vectors)[:1]:
        raise DataError(f"query {texts[i]!r} became a vector with NaN or infinity; the checkpoint has diverged")
    return vectors


def _plan(count: int, tower: Tower, shard_size: int, made_by: dict[str, Any]) -> dict[str, Any]:
    """What must be the same for two shards to belong together."""
    layout = {"length": tower.length, "layout": tower.layout.value, "prompt": tower.prompt}
    return {"count": count, "shard_size": shard_size, **layout, "made_by": made_by}


def _claim(folder: Path, plan: dict[str, Any]) -> None:
    """Marks `folder` as this plan's, or refuses if it is another's."""
    if not (folder / _PLAN).is_file():
        write_json(folder / _PLAN, plan)
    elif changed := "\n  ".join(differences(read_json(folder / _PLAN), plan)):
        raise ConfigError(f"{folder} holds embeddings made otherwise; delete it or name another folder:\n  {changed}")


def _write_shards(
    store: Collection, tower: Tower, tokenizer: Tokenizes, mesh: Mesh, folder: Path, batch: int, shard_size: int
) -> int:
    """Writes the shards that are missing; returns the vectors' width."""
    starts = range(0, len(store), shard_size)
    paths = [folder / f"vectors-{i:05}-of-{len(starts):05}.npy" for i in range(len(starts))]
    shards = [range(start, min(start + shard_size, len(store))) for start in starts]
    done = sum(len(rows) for rows, path in zip(shards, paths, strict=True) if path.is_file())
    with bar("embed", len(store), "passages", initial=done) as shown:
        for rows, path in zip(shards, paths, strict=True):
            if not path.is_file():
                vectors = _shard(store, rows, tower, tokenizer, mesh, batch, shown)
                with whole_file(path) as partial, partial.open("wb") as file:
                    np.save(file, vectors, allow_pickle=False)
    return np.load(paths[0], mmap_mode="r", allow_pickle=False).shape[1]


def _shard(
    store: Collection, rows: range, tower: Tower, tokenizer: Tokenizes, mesh: Mesh, batch: int, shown: Any
) -> Float[np.ndarray, "p d"]:
    passages = store.passages(rows)
    prompt = tokenizer.encode([tower.prompt])[0] if tower.prompt else _NO_TITLE

    def tokens(i: int) -> Tokens:
        return _passage_tokens(passages[i], prompt, tower, tokenizer.vocabulary)

    lengths = [len(passage.title) + len(passage.tokens) for passage in passages]
    vectors = _encode(tokens, lengths, tower, mesh, batch, shown.update)
    bad = [store.document(rows[i]).id for i in _not_finite(vectors)]
    if bad:
        raise DataError(
            f"{len(bad)} documents became vectors with NaN or infinity, first {', '.join(map(repr, bad[:5]))}; "
            "the checkpoint has diverged: embed an earlier one"
        )
    return vectors


def _passage_tokens(passage: Passage, prompt: Int[np.ndarray, " l"], tower: Tower, vocabulary: Vocabulary) -> Tokens:
    """The prompt goes before what comes first: the title, unless the layout leaves it out."""
    title, body = passage.title, passage.tokens
    if tower.layout is Layout.BODY:
        body = np.concatenate([prompt, body])
    else:
        title = np.concatenate([prompt, title])
    return lay_out(title, body, tower.length, tower.layout, vocabulary)


def _on_devices(tower: Tower, mesh: Mesh) -> Tower:
    return dataclasses.replace(tower, params=jax.device_put(tower.params, replicated(mesh)))


def _encode(
    tokens: Callable[[int], Tokens],
    lengths: Sequence[int],
    tower: Tower,
    mesh: Mesh,
    batch: int,
    done: Callable[[int], object] = lambda count: None,
) -> Float[np.ndarray, "b d"]:
    """The vectors of `tokens(0)`, `tokens(1)`, ...; `lengths` only brings similar ones together, so it may be rough."""
    vectors = np.empty((len(lengths), tower.encoder.width), np.float32)
    order = np.argsort(-np.array(lengths), kind="stable")
    groups = [order[start : start + batch] for start in range(0, len(order), batch)]
    stacked = ((places, _stacked([tokens(int(i)) for i in places], batch)) for places in groups)
    split = batch_sharding(mesh)
    dispatched = ((places, _apply(tower.encoder, tower.params, jax.device_put(t, split))) for places, t in stacked)
    for places, result in _one_late(dispatched):
        vectors[places] = np.asarray(result)[: len(places)]
        done(len(places))
    return vectors


def _stacked(rows: list[Tokens], batch: int) -> Tokens:
    """`rows` cut to their bucket; the last one is repeated to fill the batch."""
    longest = max(int(row.mask.sum()) for row in rows)
    length = next((size for size in _BUCKETS if longest <= size <= len(rows[0].ids)), len(rows[0].ids))
    filled = rows + rows[-1:] * (batch - len(rows))
    return Tokens(*(np.stack([field[:length] for field in fields]) for fields in zip(*filled, strict=True)))


@functools.partial(jax.jit, static_argnums=0)
def _apply(encoder: Encodes, params: Params, tokens: Tokens) -> Float[Array, "b d"]:
    return encoder.apply(params, tokens).astype(jnp.float32)


def _one_late(items: Iterable[T]) -> Iterator[T]:
    """`items`, each after the next one was asked for: the devices have work while the host waits for a result."""
    waiting: list[T] = []
    for item in items:
        yield from waiting
        waiting = [item]
    yield from waiting


def _not_finite(vectors: Float[np.ndarray, "b d"]) -> list[int]:
    return np.flatnonzero(~np.isfinite(vectors).all(axis=1)).tolist()
