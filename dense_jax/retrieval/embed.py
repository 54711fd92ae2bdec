"""A corpus of passages -> a folder of vectors, shard by shard."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from dense_jax.arrays import Float, Int, np
from dense_jax.config_tree import differences
from dense_jax.contracts import Layout, Passage, Passages, Tokens, Tower, Vocabulary
from dense_jax.data.passages import lay_out
from dense_jax.errors import ConfigError, DataError
from dense_jax.files import digests, read_json, whole_file, write_json
from dense_jax.mesh import check_batch
from dense_jax.progress import bar
from dense_jax.retrieval.encode import Tokenizes, TowerOnMesh, not_finite
from dense_jax.retrieval.vectors import IDS, MANIFEST, Vectors

_PLAN = "plan.json"


def embed(
    store: Passages,
    tower: Tower,
    tokenizer: Tokenizes,
    mesh: Mesh,
    folder: Path,
    *,
    batch: int,
    shard_size: int,
    made_by: dict[str, Any],
    placed: Callable[[Tower, Mesh], TowerOnMesh] = TowerOnMesh,
) -> Vectors:
    """The passages of `store` through `tower`, as float32 vectors in `folder`, each passage's views one after another.

    Finished shards are kept: an interrupted call is continued by the same call. `made_by` says whose vectors these are,
    as JSON values (such as the checkpoint's step and the collection's fingerprint). `placed` may give the tower a
    program that is compiled already.

    Raises:
        ConfigError: `folder` holds vectors made otherwise, or `batch` does not split over the devices.
        DataError: the collection is empty, or vectors are NaN or infinite; names their documents.
    """
    check_batch(batch, mesh, "embed.batch")
    if not len(store):
        raise DataError("the collection holds no passage to embed")
    plan = _plan(len(store), tower, shard_size, made_by)
    _claim(folder, plan)
    if not (folder / MANIFEST).is_file():
        _write_shards(store, placed(tower, mesh), tokenizer, folder, batch, shard_size)
        write_json(folder / IDS, store.ids())
        files = digests(folder, "vectors-*.npy") | digests(folder, IDS)
        about = {"views": tower.encoder.views, "width": tower.encoder.width, "dtype": "float32", "files": files}
        write_json(folder / MANIFEST, plan | about)
    return Vectors(folder)


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
    store: Passages, tower: TowerOnMesh, tokenizer: Tokenizes, folder: Path, batch: int, shard_size: int
) -> None:
    """Writes the shards that are missing. They do not depend on each other: several hosts could share them."""
    starts = range(0, len(store), shard_size)
    shards = {
        folder / f"vectors-{i:05}-of-{len(starts):05}.npy": range(start, min(start + shard_size, len(store)))
        for i, start in enumerate(starts)
    }
    missing = {path: rows for path, rows in shards.items() if not path.is_file()}
    with bar("embed", len(store), "passages", initial=len(store) - sum(map(len, missing.values()))) as shown:
        for path, rows in missing.items():
            vectors = encode_passages(store, rows, tower, tokenizer, batch, shown.update)
            with whole_file(path) as partial, partial.open("wb") as file:
                np.save(file, vectors, allow_pickle=False)


def encode_passages(
    store: Passages,
    rows: range,
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
        return _passage_tokens(passages[i], prompt, side, tokenizer.vocabulary)

    vectors = tower.encode(tokens, [len(p.title) + len(p.tokens) for p in passages], batch, done)
    vectors = vectors.reshape(-1, vectors.shape[-1])
    bad = list(dict.fromkeys(store.document(rows[i // views]).id for i in not_finite(vectors)))
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
