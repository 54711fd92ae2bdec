"""A corpus of passages -> a folder of vectors, shard by shard.

Shards do not depend on each other, so processes share them out: the folder is the same, byte for byte, for any number
of processes that have as many devices each.
"""

import contextlib
import functools
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from dense_jax.arrays import Float, np
from dense_jax.artifact import digests_together
from dense_jax.config.tree import differences
from dense_jax.data.inputs import build_inputs
from dense_jax.errors import ConfigError, DataError
from dense_jax.io import is_written, read_json, whole_file, write_json, write_strings
from dense_jax.locks import lock_of, only_one
from dense_jax.mesh import check_batch
from dense_jax.multihost import all_or_none, is_process_0, on_process_0, process_share
from dense_jax.progress import bar
from dense_jax.retrieval.encode import Tokenizes, TowerOnMesh, count_unpooled, not_finite
from dense_jax.retrieval.vectors import IDS, MANIFEST, Vectors
from dense_jax.schemas import Plan
from dense_jax.types import PassageCollection, Tokens, Tower

_PLAN = "plan.json"


def embed(
    store: PassageCollection,
    tower: Tower,
    tokenizer: Tokenizes,
    mesh: Mesh,
    folder: Path,
    *,
    batch: int,
    shard_size: int,
    made_by: dict[str, Any],
    placed: Callable[[Tower, Mesh], TowerOnMesh] = TowerOnMesh,
    ids: Path | None = None,
    between: Callable[[], None] = lambda: None,
) -> Vectors:
    """The passages of `store` through `tower`, as float32 vectors in `folder`, each passage's views one after another.

    All processes call it; `mesh` is of this one's devices. Finished shards are kept: an interrupted call is continued
    by the same call, of any number of processes. `made_by` says whose vectors these are, as JSON values (such as the
    checkpoint's step and the collection's fingerprint). `placed` may give the tower a program that is compiled already,
    and `ids` be a file of the store's, which takes minutes to read from its texts. All processes call `between` before
    each shard; what it raises ends them all.

    Raises:
        ConfigError: `folder` holds vectors made otherwise, another process embeds there, or `batch` does not split over
            the devices.
        DataError: the collection is empty, or vectors are NaN or infinite; names their documents.
    """
    check_batch(batch, mesh, "embed.batch")
    if not len(store):
        raise DataError("the collection holds no passage to embed")
    shard_size = on_process_0(lambda: _begun_size(folder, shard_size))
    plan = _plan(len(store), tower, shard_size, made_by)
    finished = on_process_0(lambda: is_written(folder / MANIFEST))
    with contextlib.nullcontext() if finished else only_one(lock_of(folder), f"{folder} is being embedded"):
        on_process_0(lambda: _claim(folder, plan))
        if not finished:
            shards = _shards(len(store), shard_size)
            _write_shards(store, all_or_none(lambda: placed(tower, mesh)), tokenizer, folder, batch, shards, between)
            on_process_0(lambda: _write_ids(folder / IDS, store, ids))
            files = digests_together(folder, [*shards, IDS])
            about = {"views": tower.encoder.views, "width": tower.encoder.width, "dtype": "float32", "files": files}
            on_process_0(lambda: write_json(folder / MANIFEST, plan | about))
    return all_or_none(lambda: Vectors(folder))


def _plan(count: int, tower: Tower, shard_size: int, made_by: dict[str, Any]) -> dict[str, Any]:
    """What must be the same for two shards to belong together."""
    layout: dict[str, Any] = {"length": tower.length, "layout": tower.layout.value, "prompt": tower.prompt}
    layout |= {} if tower.pools_prompt else {"pools_prompt": False}
    return {"count": count, "shard_size": shard_size, **layout, "made_by": made_by}


def _begun_size(folder: Path, shard_size: int) -> int:
    """Passages per file: as the folder was begun with, which changes no vector, or `shard_size` for a new one."""
    return read_json(folder / _PLAN, Plan)["shard_size"] if is_written(folder / _PLAN) else shard_size


def _claim(folder: Path, plan: dict[str, Any]) -> None:
    """Marks `folder` as this plan's, or refuses if it is another's."""
    if not is_written(folder / _PLAN):
        write_json(folder / _PLAN, plan)
    elif changed := "\n  ".join(differences(read_json(folder / _PLAN, Plan), plan)):
        raise ConfigError(f"{folder} holds embeddings made otherwise; delete it or name another folder:\n  {changed}")


def _shards(count: int, shard_size: int) -> dict[str, range]:
    """The file of each shard, and its passages."""
    starts = range(0, count, shard_size)
    return {
        f"vectors-{i:05}-of-{len(starts):05}.npy": range(start, min(start + shard_size, count))
        for i, start in enumerate(starts)
    }


def _write_shards(
    store: PassageCollection,
    tower: TowerOnMesh,
    tokenizer: Tokenizes,
    folder: Path,
    batch: int,
    shards: dict[str, range],
    between: Callable[[], None],
) -> None:
    """Writes the shards that are missing, one of each process at a time: so an error of one soon ends all."""
    missing: list[str] = on_process_0(lambda: [name for name in shards if not is_written(folder / name)])
    done = len(store) - sum(len(shards[name]) for name in missing)
    with bar("embed", len(store), "passages", initial=done, silent=not is_process_0()) as shown:

        def write(names: Sequence[str]) -> None:
            for name in names:
                vectors = encode_passages(store, shards[name], tower, tokenizer, batch, shown.update)
                with whole_file(folder / name) as partial, partial.open("wb") as file:
                    np.save(file, vectors, allow_pickle=False)

        for start in range(0, len(missing), jax.process_count()):
            at_once = missing[start : start + jax.process_count()]
            own = process_share(at_once)
            between()
            all_or_none(functools.partial(write, own))
            shown.update(sum(len(shards[name]) for name in at_once if name not in own))


def _write_ids(path: Path, store: PassageCollection, known: Path | None) -> None:
    if known is None:
        write_strings(path, store.ids())
        return
    with whole_file(path) as partial:
        shutil.copyfile(known, partial)


def encode_passages(
    store: PassageCollection,
    rows: Sequence[int],
    tower: TowerOnMesh,
    tokenizer: Tokenizes,
    batch: int,
    done: Callable[[int], object] = lambda count: None,
) -> Float[np.ndarray, "_ d"]:
    """The float32 vectors of `rows`, each one's views one after another; `done` is told how many more are finished.

    Raises:
        DataError: vectors are NaN or infinite; names their documents.
    """
    side, views = tower.tower, tower.tower.encoder.views
    passages = store.passages(rows)
    prompt = tokenizer.prompt_ids(side.prompt)

    def tokens(i: int) -> Tokens:
        one = passages[i]
        return build_inputs(one.title, one.tokens, side.length, side.layout, tokenizer.vocabulary, prompt=prompt)

    lengths = [len(p.title) + len(p.tokens) for p in passages]
    vectors = tower.encode(tokens, lengths, batch, done, count_unpooled(side, tokenizer))
    vectors = vectors.reshape(-1, vectors.shape[-1])
    bad = list(dict.fromkeys(store.document(rows[i // views]).id for i in not_finite(vectors)))
    if bad:
        raise DataError(
            f"{len(bad)} documents became vectors with NaN or infinity, first {', '.join(map(repr, bad[:5]))}; "
            "the checkpoint has diverged: embed an earlier one"
        )
    return vectors
