"""A corpus of passages -> a folder of vectors, shard by shard.

Shards do not depend on each other, so processes share them out. The folder is the same, byte for byte, for any number
of processes that have the same number of devices each.
"""

import contextlib
import functools
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import jax
from jax.sharding import Mesh
from pydantic import Field
from typing_extensions import TypedDict

from dense_jax.arrays import Float, np
from dense_jax.artifact import CLAIM, claim, digests_together, finish, is_finished
from dense_jax.config.retrieval import Precision
from dense_jax.data.inputs import build_inputs
from dense_jax.errors import DataError
from dense_jax.io import Settings, is_written, read_json, short_digest, whole_file, write_strings
from dense_jax.mesh import check_batch
from dense_jax.processes.locks import lock_of, only_one
from dense_jax.processes.multihost import all_or_none, is_process_0, on_process_0, process_share
from dense_jax.retrieval.encode import Tokenizes, TowerOnMesh, count_unpooled, not_finite
from dense_jax.retrieval.quantize import Ranges
from dense_jax.retrieval.vectors import IDS, RANGES, Vectors
from dense_jax.terminal.progress import progress_bar
from dense_jax.types import PassageCollection, Tokens, Tower

_SAMPLE = 4_096  # passages whose vectors set the ranges of int8 codes


class _ShardSettings(TypedDict):
    shard_size: Annotated[int, Field(ge=1, lt=1 << 48)]


class _VectorsClaim(TypedDict):
    settings: _ShardSettings


def embed(
    store: PassageCollection,
    tower: Tower,
    tokenizer: Tokenizes,
    mesh: Mesh,
    folder: Path,
    *,
    batch: int,
    shard_size: int,
    made_by: Settings,
    precision: Precision = Precision.FLOAT32,
    placed: Callable[[Tower, Mesh], TowerOnMesh] = TowerOnMesh,
    ids: Path | None = None,
    between: Callable[[], None] = lambda: None,
) -> Vectors:
    """Encode the passages of `store` by `tower` into vectors of `precision` in `folder`, each passage's views in a row.

    All processes call it; `mesh` holds this process's devices. The same call, of any number of processes, continues an
    interrupted one and keeps its finished shards. `made_by` identifies parameters and collection, as JSON values.
    `placed` may give the tower an already compiled program. `ids` is a copy of the store's ids, which take minutes to
    read from its texts. All processes call `between` before each shard; an error it raises ends them all.

    Raises:
        ConfigError: `folder` holds vectors made with other settings, another process embeds there, or `batch` does not
            split over the devices.
        DataError: the collection is empty, or vectors are NaN or infinite; names their documents.
    """
    check_batch(batch, mesh, "embed.batch")
    if not len(store):
        raise DataError("the collection holds no passage to embed")
    shard_size = on_process_0(lambda: _claimed_shard_size(folder, shard_size))
    settings = _shard_settings(len(store), tower, shard_size, made_by, precision)
    finished = on_process_0(lambda: is_finished(folder))
    with contextlib.nullcontext() if finished else only_one(lock_of(folder), f"{folder} is being embedded"):
        on_process_0(lambda: claim(folder, settings))
        if not finished:
            shards, on_mesh = _shards(len(store), shard_size), all_or_none(lambda: placed(tower, mesh))
            vectors_of = functools.partial(encode_passages, store, tower=on_mesh, tokenizer=tokenizer, batch=batch)
            ranges = None if precision is Precision.FLOAT32 else _ranges(folder / RANGES, len(store), vectors_of)
            _write_shards(vectors_of, ranges, folder, shards, between)
            on_process_0(lambda: _write_ids(folder / IDS, store, ids))
            files = digests_together(folder, [*shards, IDS, *([RANGES] if ranges else [])])
            figures = {"count": len(store), "views": tower.encoder.views, "width": tower.encoder.width}
            on_process_0(lambda: finish(folder, figures | {"dtype": precision.value}, files))
    return all_or_none(lambda: Vectors(folder))


def embeddings_folder(roots: Sequence[Path], name: str, step: int, tower: Tower, made_by: Settings) -> Path:
    """Return the folder for vectors of the same texts, parameters and layout, in the first root with finished ones.

    Without finished ones it is in the last root. Its name begins with `name`, or with the name under which the same
    texts were embedded before.
    """
    key = [made_by, tower.length, tower.layout.value, tower.prompt, tower.pools_prompt]
    end = f"-{step:08d}-{short_digest(key)}"

    def choose() -> str:
        folders = [root / min((path.name for path in root.glob(f"*{end}")), default=name + end) for root in roots]
        return str(next(filter(is_finished, folders), folders[-1]))

    return Path(on_process_0(choose))


def _shard_settings(count: int, tower: Tower, shard_size: int, made_by: Settings, precision: Precision) -> Settings:
    """Return what two shards of one folder have in common."""
    layout = {"length": tower.length, "layout": tower.layout.value, "prompt": tower.prompt}
    layout |= {"pools_prompt": tower.pools_prompt, "precision": precision.value}
    return {"count": count, "shard_size": shard_size, **layout, "made_by": made_by}


def _claimed_shard_size(folder: Path, shard_size: int) -> int:
    """Return the passages per file of a claimed folder, which change no vector, or `shard_size` for a new one."""
    path = folder / CLAIM
    return read_json(path, _VectorsClaim)["settings"]["shard_size"] if is_written(path) else shard_size


def _shards(count: int, shard_size: int) -> dict[str, range]:
    """Return the file of each shard and its passages."""
    starts = range(0, count, shard_size)
    return {
        f"vectors-{i:05}-of-{len(starts):05}.npy": range(start, min(start + shard_size, count))
        for i, start in enumerate(starts)
    }


def _ranges(path: Path, count: int, vectors_of: Callable[..., Float[np.ndarray, "_ d"]]) -> Ranges:
    """Return the ranges of a random sample of the passages, which the first process writes to `path` once."""

    def write() -> None:
        if not is_written(path):
            rows = np.random.default_rng(0).choice(count, min(_SAMPLE, count), replace=False)
            Ranges.of(vectors_of(rows=np.sort(rows).tolist())).write(path)

    on_process_0(write)
    return all_or_none(lambda: Ranges.read(path))


def _write_shards(
    vectors_of: Callable[..., Float[np.ndarray, "_ d"]],
    ranges: Ranges | None,
    folder: Path,
    shards: dict[str, range],
    between: Callable[[], None],
) -> None:
    """Write the missing shards, one of each process at a time, so that an error of one process soon ends all."""
    missing: list[str] = on_process_0(lambda: [name for name in shards if not is_written(folder / name)])
    count = sum(map(len, shards.values()))
    done = count - sum(len(shards[name]) for name in missing)
    with progress_bar("embed", count, "passages", initial=done, silent=not is_process_0()) as shown:

        def write(names: Sequence[str]) -> None:
            for name in names:
                vectors = vectors_of(rows=shards[name], done=shown.update)
                with whole_file(folder / name) as partial, partial.open("wb") as file:
                    np.save(file, ranges.encode(vectors) if ranges else vectors, allow_pickle=False)

        for start in range(0, len(missing), jax.process_count()):
            at_once = missing[start : start + jax.process_count()]
            own = process_share(at_once)
            between()
            all_or_none(functools.partial(write, own))
            shown.update(sum(len(shards[name]) for name in at_once if name not in own))


def _write_ids(path: Path, store: PassageCollection, copy: Path | None) -> None:
    if copy is None:
        write_strings(path, store.ids())
        return
    with whole_file(path) as partial:
        shutil.copyfile(copy, partial)


def encode_passages(
    store: PassageCollection,
    rows: Sequence[int],
    tower: TowerOnMesh,
    tokenizer: Tokenizes,
    batch: int,
    done: Callable[[int], object] = lambda count: None,
) -> Float[np.ndarray, "_ d"]:
    """Return the float32 vectors of `rows`, each passage's views in a row; `done` gets the number of new ones.

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
