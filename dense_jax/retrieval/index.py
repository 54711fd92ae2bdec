"""Nearest-neighbour index over embeddings: ScaNN for many vectors, exact search for few.

ScaNN ends the process at a NaN, answers a NaN query with row 0, and needs more points than leaves, so everything is
checked before it sees a vector. Two builds of the same vectors differ a little.

    INDEX/manifest.json     written last: kind, settings, whose embeddings, recall@10, a digest of each file
    INDEX/scann/            ScaNN's own files, by relative paths: the folder may be moved
    INDEX/scann-00000-of-00004/ ...   the same in parts: part j of m has files j, j + m, ... of the embeddings

All processes build, load and search together. Part j of ScaNN's index is process j modulo n's; exact search needs no
files and has as many parts as there are processes. What is found does not depend on how many processes search.
"""

import functools
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
from jax.sharding import Mesh

from dense_jax.arrays import Float, np
from dense_jax.artifact import digests_together, verify_together
from dense_jax.config import IndexConfig, IndexKind, require
from dense_jax.config.tree import differences
from dense_jax.errors import ConfigError, DataError, StorageError
from dense_jax.io import is_written, read_json, write_json
from dense_jax.locks import lock_of, only_one
from dense_jax.multihost import all_or_none, all_true, on_process_0, process_share
from dense_jax.retrieval import scann
from dense_jax.retrieval.exact import ExactSearch
from dense_jax.retrieval.vector_search import VectorSearch, best_per_passage, map_rows, search_all_parts
from dense_jax.retrieval.vectors import IDS, Vectors
from dense_jax.schemas import IndexManifest
from dense_jax.types import Ranking

_EXACT_BELOW = 20_000  # vectors; ScaNN's authors advise so, and the exact answer takes milliseconds
_FEWEST = 256  # vectors that ScaNN can be trained on sensibly; below 16 it fails
_UNIT = 1e-3  # how far norms may be from 1 for vectors to count as normalised
_AIM = 0.99  # recall@10 at which no more leaves are added; text queries lie further off than the sample: about .97
_LOW = 0.9  # below, the summary says what to raise
_MANIFEST = "manifest.json"
_FILES = "scann"


class Index:
    """Finds the passages with the largest inner products."""

    def __init__(self, vectors: Vectors, manifest: dict[str, Any], mesh: Mesh, find: VectorSearch) -> None:
        """`mesh` is of this process's devices. All processes search together, for the same queries."""
        self.vectors, self.manifest, self.mesh = vectors, manifest, mesh
        self._find = find

    def search(self, queries: Float[np.ndarray, "q d"], k: int) -> Ranking:
        """The k best passages for each query, each once and by the best of its views; otherwise as `nearest`.

        Raises:
            ConfigError: k is not in 1..P, or the queries' width is not the index's.
            DataError: a query is NaN or infinite.
        """
        count, views = self.vectors.passages, self.vectors.views
        require(1 <= k <= count, f"k={k} results were asked of an index with {count} passages; use at most {count}")
        return best_per_passage(self.nearest, views)(queries, k)

    def nearest(self, queries: Float[np.ndarray, "q d"], k: int) -> Ranking:
        """The k best vectors for each query: inner products in float32, best first, ties by lower row.

        Raises:
            ConfigError: k is not in 1..N, or the queries' width is not the index's.
            DataError: a query is NaN or infinite.
        """
        count, width = len(self.vectors), self.vectors.width
        require(1 <= k <= count, f"k={k} results were asked of an index with {count} vectors; use at most {count}")
        require(queries.shape[1] == width, f"queries of width {queries.shape[1]} do not fit an index of width {width}")
        bad = np.flatnonzero(~np.isfinite(queries).all(axis=1))
        if len(bad):
            raise DataError(f"query {bad[0]} is NaN or infinite; the checkpoint that encoded it has diverged")
        return self._find(np.ascontiguousarray(queries, np.float32), k)

    @property
    def summary(self) -> str:
        """Kind, size, settings and recall in one line, for people."""
        recall, parts = self.manifest["recall@10"], self.manifest.get("parts", 1)
        said = [
            f"{self.manifest['kind']} index: {len(self.vectors):,} vectors of width {self.vectors.width}",
            *([f"{parts} parts"] if parts > 1 else []),
            *(f"{name} {value}" for name, value in self.manifest["settings"].items()),
            f"recall@10 {'not measured' if recall is None else f'{recall:.3f}'}",
        ]
        low = recall is not None and recall < _LOW
        return ", ".join(said) + (" (low: raise index.leaves_searched or index.reorder)" if low else "")


def build_index(vectors: Vectors, config: IndexConfig, folder: Path, mesh: Mesh) -> Index:
    """Builds the index of `config.kind` in `folder`, replacing one that is there, and measures its recall.

    Raises:
        DataError: vectors are NaN or infinite; names their documents.
        ConfigError: the settings do not fit the number of vectors, or another process builds there.
        StorageError: the embeddings changed since they were written, or the disk refuses.
    """
    with only_one(lock_of(folder), f"{folder} is being built"):
        return _build(vectors, config, folder, mesh)


def _build(vectors: Vectors, config: IndexConfig, folder: Path, mesh: Mesh) -> Index:
    vectors.verify()
    kind = _kind(config.kind, len(vectors))
    unit = _checked_norms(vectors)
    parts = _parts(config, vectors) if kind is IndexKind.SCANN else 1
    settings = _settings(config, min(vectors.sizes(parts)), unit) if kind is IndexKind.SCANN else {}
    on_process_0(lambda: _clear(folder))
    if kind is IndexKind.SCANN:
        all_or_none(lambda: _build_parts(vectors, settings, folder, parts))
    made = on_process_0(lambda: sorted(str(path.relative_to(folder)) for path in folder.glob(f"{_FILES}*/*")))
    files = digests_together(folder, made)
    manifest = _manifest(vectors, kind) | {"settings": settings, "parts": parts, "files": files}
    index = Index(vectors, manifest, mesh, _when_asked(functools.partial(_find, folder, manifest, vectors, mesh)))
    manifest["recall@10"] = _measured(index, config) if config.sample else None
    on_process_0(lambda: write_json(folder / _MANIFEST, manifest))
    return index


def is_finished(folder: Path) -> bool:
    """True if `build_index` came to its end in `folder`."""
    return is_written(folder / _MANIFEST)


def open_index(folder: Path, vectors: Vectors, mesh: Mesh) -> Index:
    """The index that `build_index` wrote to `folder`, over the embeddings that it was built from.

    Raises:
        StorageError: there is no finished index, or a file changed since it was written.
        ConfigError: it was built from other embeddings.
    """
    manifest = all_or_none(lambda: _read_manifest(folder, vectors))
    verify_together(folder, manifest["files"])
    if manifest["kind"] != IndexKind.SCANN.value:
        vectors.verify()
    else:  # ScaNN has its own copy of the vectors
        verify_together(vectors.folder, {IDS: vectors.manifest["files"][IDS]})
    return Index(vectors, manifest, mesh, _find(folder, manifest, vectors, mesh))


def recall(index: Index, sample: int, k: int = 10) -> float:
    """The share of the exact k best that `index` finds, for `sample` vectors of the corpus taken as queries.

    A result counts if its score reaches the exact k-th best, so that equal vectors may stand for each other.
    """
    return _share(index, *_exactly(index, sample, min(k, len(index.vectors))))


def _measured(index: Index, config: IndexConfig) -> float:
    """Recall@10; unless the config says how many leaves to search, they are doubled until it is good."""
    settings = index.manifest["settings"]
    queries, exact = _exactly(index, config.sample, min(10, len(index.vectors)))
    found = _share(index, queries, exact)
    while settings and not config.leaves_searched and found < _AIM and settings["leaves_searched"] < settings["leaves"]:
        settings["leaves_searched"] = min(2 * settings["leaves_searched"], settings["leaves"])
        found = _share(index, queries, exact)
    return found


def _exactly(index: Index, sample: int, k: int) -> tuple[Float[np.ndarray, "q d"], Float[np.ndarray, "q k"]]:
    """Vectors of the corpus as queries, and the scores of their exact k best."""
    vectors = index.vectors
    rows = np.random.default_rng(0).choice(len(vectors), min(sample, len(vectors)), replace=False)
    queries = vectors.take(np.sort(rows))
    return queries, _find_exactly(vectors, index.mesh, approximate=False)(queries, k).scores


def _share(index: Index, queries: Float[np.ndarray, "q d"], exact: Float[np.ndarray, "q k"]) -> float:
    lowest = exact[:, -1:]
    rounding = 1e-5 * np.maximum(1, abs(lowest))  # the two searches sum in different orders
    return float((index.nearest(queries, exact.shape[1]).scores >= lowest - rounding).mean())


def _kind(asked: IndexKind, count: int) -> IndexKind:
    if asked is IndexKind.AUTO:
        return IndexKind.EXACT if count < _EXACT_BELOW else IndexKind.SCANN
    if asked is IndexKind.SCANN and count < _FEWEST:
        raise ConfigError(
            f"index.kind=scann needs at least {_FEWEST} vectors and there are {count}; use --index.kind=exact"
        )
    return asked


def _checked_norms(vectors: Vectors) -> bool:
    """Whether all vectors have length 1; refuses those that are not finite."""
    return all_true(all_or_none(lambda: _checked_share(vectors)))


def _checked_share(vectors: Vectors) -> bool:
    """The same of those that this process reads."""
    unit, bad = True, []
    for start, block in process_share(list(zip(vectors.starts, vectors.blocks(), strict=True))):
        norms = np.linalg.norm(block, axis=1)
        bad += [vectors.ids[(start + row) // vectors.views] for row in np.flatnonzero(~np.isfinite(norms))]
        unit &= bool((abs(norms - 1) < _UNIT).all())
    if bad:
        raise DataError(
            f"{len(bad)} embeddings are NaN or infinite, of documents {', '.join(map(repr, bad[:5]))}; embed again"
        )
    return unit


def _parts(config: IndexConfig, vectors: Vectors) -> int:
    """How many ScaNN's index is built in: as asked, or one for each process if that leaves each enough vectors."""
    if config.parts:
        fewest = min(vectors.sizes(config.parts), default=0)
        require(
            fewest >= _FEWEST,
            f"index.parts={config.parts} leaves {fewest} vectors to one of them, and ScaNN needs {_FEWEST}: a part is "
            "made of whole files of embeddings; use fewer, or embed with a smaller embed.shard_size",
        )
        return config.parts
    return next((n for n in range(jax.process_count(), 1, -1) if min(vectors.sizes(n)) >= _FEWEST), 1)


def _settings(config: IndexConfig, count: int, unit: bool) -> dict[str, Any]:
    """Of each part; `count` is of the smallest one."""
    leaves = config.leaves or round(math.sqrt(count))
    searched = config.leaves_searched or max(1, leaves // 10)
    require(1 < leaves <= count // 2, f"index.leaves={leaves} must be from 2 to half of the {count} vectors")
    require(searched <= leaves, f"index.leaves_searched={searched} is more than the {leaves} leaves")
    return {"leaves": leaves, "leaves_searched": searched, "reorder": config.reorder, "spherical": unit}


def _clear(folder: Path) -> None:
    """Removes an index that is there."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _MANIFEST).unlink(missing_ok=True)
    for old in folder.glob(f"{_FILES}*"):
        shutil.rmtree(old)


def _build_parts(vectors: Vectors, settings: dict[str, Any], folder: Path, parts: int) -> None:
    """Those of this process."""
    for number in process_share(range(parts)):
        scann.build_scann(vectors.part(number, parts), settings, _part_folder(folder, number, parts))


def _part_folder(folder: Path, number: int, parts: int) -> Path:
    return folder / (_FILES if parts == 1 else f"{_FILES}-{number:05}-of-{parts:05}")


def _manifest(vectors: Vectors, kind: IndexKind) -> dict[str, Any]:
    made = {"embeddings": vectors.fingerprint, "made_by": vectors.manifest["made_by"]}
    return {"kind": kind.value, "count": len(vectors), "width": vectors.width} | made


def _read_manifest(folder: Path, vectors: Vectors) -> dict[str, Any]:
    """That of an index over `vectors`."""
    if not is_finished(folder):
        raise StorageError(f"{folder}: holds no finished index ({_MANIFEST} is missing); run `dense-jax index`")
    manifest = read_json(folder / _MANIFEST, IndexManifest)
    if manifest["embeddings"] != vectors.fingerprint:
        changes = list(differences(manifest["made_by"], vectors.manifest["made_by"], "made_by."))
        raise ConfigError(
            f"{folder} was built from other embeddings than {vectors.folder}; run `dense-jax index` again"
            + "".join(f"\n  {change}" for change in changes)
        )
    return manifest


def _when_asked(opened: Callable[[], VectorSearch]) -> VectorSearch:
    """A search that is opened, and takes its memory, when it is first used: whoever only builds need not pay for it."""
    once = functools.cache(opened)
    return lambda queries, k: once()(queries, k)


def _find(folder: Path, manifest: dict[str, Any], vectors: Vectors, mesh: Mesh) -> VectorSearch:
    if manifest["kind"] != IndexKind.SCANN.value:
        return _find_exactly(vectors, mesh, approximate=manifest["kind"] == IndexKind.APPROXIMATE.value)
    parts = manifest.get("parts", 1)

    def opened() -> list[VectorSearch]:
        own = process_share(range(parts))
        finds = [scann.load_scann(_part_folder(folder, part, parts), manifest["settings"]) for part in own]
        return [map_rows(find, vectors.rows(part, parts)) for find, part in zip(finds, own, strict=True)]

    return search_all_parts(all_or_none(opened))


def _find_exactly(vectors: Vectors, mesh: Mesh, *, approximate: bool) -> VectorSearch:
    """Each process has a part on its devices."""

    def placed() -> VectorSearch:
        part = jax.process_index(), jax.process_count()
        return map_rows(ExactSearch(vectors.part(*part), mesh, approximate=approximate).search, vectors.rows(*part))

    return search_all_parts([all_or_none(placed)])
