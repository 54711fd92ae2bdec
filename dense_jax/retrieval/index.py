"""Nearest-neighbour index over embeddings: ScaNN for many vectors, exact search for few.

ScaNN ends the process at a NaN, answers a NaN query with row 0, and needs more points than leaves, so everything is
checked before ScaNN reads a vector. Two builds of the same vectors differ slightly.

    FOLDER/claim.json               written first: the embeddings, and what made them
           scann/                   ScaNN's own files, by relative paths: the folder may be moved
           scann-00000-of-00004/ ...   the same in parts: part j of m has files j, j + m, ... of the embeddings
           manifest.json            written last: claim, kind, ScaNN's settings, recall@10, digests

All processes build, open and search together. Process j of n holds the parts j, j + n, ... of ScaNN's index. Exact
search needs no files and has one part for each process. The results do not depend on the number of processes.
"""

import functools
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NotRequired

import jax
from jax.sharding import Mesh
from typing_extensions import TypedDict

from dense_jax.arrays import Float, np
from dense_jax.artifact import (
    CLAIM,
    MANIFEST,
    claim,
    digests_together,
    finish,
    is_finished,
    read_manifest,
    verify_together,
)
from dense_jax.config.retrieval import IndexConfig, IndexKind
from dense_jax.config.tree import differences
from dense_jax.errors import ConfigError, DataError, require
from dense_jax.io import Count, Digests, Settings, Size
from dense_jax.processes.locks import lock_of, only_one
from dense_jax.processes.multihost import all_or_none, all_true, on_process_0, process_share
from dense_jax.retrieval.exact import ExactSearch
from dense_jax.retrieval.scann import ScannSettings, build_scann, load_scann
from dense_jax.retrieval.vector_search import VectorSearch, best_per_passage, map_rows, search_all_parts
from dense_jax.retrieval.vectors import Vectors
from dense_jax.types import Ranking

_EXACT_BELOW = 20_000  # vectors; as ScaNN's authors advise, and exact search takes milliseconds
_FEWEST = 256  # vectors that ScaNN can be trained on sensibly; below 16 it fails
_UNIT = 1e-3  # how far norms may be from 1 for vectors to count as normalised
_AIM = 0.99  # recall@10 of the sample that ends tuning; text queries are further from the corpus: about .97
_LOW = 0.9  # recall below which the summary names the settings to raise
_FILES = "scann"


class _IndexSettings(TypedDict):
    embeddings: str
    made_by: Settings


IndexManifest = TypedDict(
    "IndexManifest",
    {
        "settings": _IndexSettings,
        "files": Digests,
        "kind": str,
        "count": Count,
        "width": Size,
        "parts": Size,
        "scann": NotRequired[ScannSettings],
        "recall@10": float | None,
    },
)


class Index:
    """Search for the passages with the largest inner products."""

    def __init__(self, vectors: Vectors, manifest: dict[str, Any], mesh: Mesh, find: VectorSearch) -> None:
        """`mesh` holds this process's devices. All processes search together, with the same queries."""
        self.vectors, self.manifest, self.mesh = vectors, manifest, mesh
        self._find = find

    def search(self, queries: Float[np.ndarray, "q d"], k: int) -> Ranking:
        """Return the k best passages for each query, each passage by its best view; otherwise as `nearest`.

        Raises:
            ConfigError: k is not in 1..P, or the queries' width is not the index's.
            DataError: a query is NaN or infinite.
        """
        count, views = self.vectors.passages, self.vectors.views
        require(1 <= k <= count, f"k={k} is not from 1 to {count}, the passages of the index; use at most {count}")
        return best_per_passage(self.nearest, views)(queries, k)

    def nearest(self, queries: Float[np.ndarray, "q d"], k: int) -> Ranking:
        """Return the k best vectors for each query: inner products in float32, best first, ties by lower row.

        Raises:
            ConfigError: k is not in 1..N, or the queries' width is not the index's.
            DataError: a query is NaN or infinite.
        """
        count, width = len(self.vectors), self.vectors.width
        require(1 <= k <= count, f"k={k} is not from 1 to {count}, the vectors of the index; use at most {count}")
        require(queries.shape[1] == width, f"queries of width {queries.shape[1]} do not fit an index of width {width}")
        bad = np.flatnonzero(~np.isfinite(queries).all(axis=1))
        if len(bad):
            raise DataError(f"query {bad[0]} is NaN or infinite: its checkpoint has diverged; use an earlier one")
        return self._find(np.ascontiguousarray(queries, np.float32), k)

    @property
    def summary(self) -> str:
        """Kind, size, settings and recall in one line."""
        recall, parts = self.manifest["recall@10"], self.manifest["parts"]
        words = [
            f"{self.manifest['kind']} index: {len(self.vectors):,} vectors of width {self.vectors.width}",
            *([f"{parts} parts"] if parts > 1 else []),
            *(f"{name} {value}" for name, value in self.manifest.get("scann", {}).items()),
            f"recall@10 {'not measured' if recall is None else f'{recall:.3f}'}",
        ]
        low = recall is not None and recall < _LOW
        return ", ".join(words) + (" (low: raise index.leaves_searched or index.reorder)" if low else "")


def open_or_build(
    vectors: Vectors, config: IndexConfig, folders: Sequence[Path], mesh: Mesh, *, again: bool = False
) -> Index:
    """Return the index in the first of `folders` with a finished one.

    If none is finished, or `again` is set, build it in the last folder. A damaged index is an error, and stays.

    Raises:
        StorageError, ConfigError: as `open_index` and `build_index`.
    """
    finished = [] if again else on_process_0(lambda: [str(folder) for folder in folders if is_finished(folder)])
    if finished:
        return open_index(Path(finished[0]), vectors, mesh)
    return build_index(vectors, config, folders[-1], mesh)


def build_index(vectors: Vectors, config: IndexConfig, folder: Path, mesh: Mesh) -> Index:
    """Build the index of `config.kind` in `folder`, in place of an earlier one, and measure its recall.

    Raises:
        DataError: vectors are NaN or infinite; names their documents.
        ConfigError: the settings do not fit the number of vectors, or another process builds there.
        StorageError: the embeddings changed since they were written, or the disk refuses the write.
    """
    with only_one(lock_of(folder), f"{folder} is being built"):
        return _build(vectors, config, folder, mesh)


def _build(vectors: Vectors, config: IndexConfig, folder: Path, mesh: Mesh) -> Index:
    vectors.verify()
    kind, unit = _choose_kind(config.kind, len(vectors)), _check_norms(vectors)
    parts = _count_parts(config, vectors) if kind is IndexKind.SCANN else 1
    manifest: dict[str, Any] = {"kind": kind.value, "count": len(vectors), "width": vectors.width, "parts": parts}
    if kind is IndexKind.SCANN:
        manifest["scann"] = _scann_settings(config, min(vectors.sizes(parts)), unit)
    on_process_0(lambda: _begin(folder, vectors))
    if kind is IndexKind.SCANN:
        all_or_none(lambda: _build_parts(vectors, manifest["scann"], folder, parts))
    names = on_process_0(lambda: sorted(str(path.relative_to(folder)) for path in folder.glob(f"{_FILES}*/*")))
    files = digests_together(folder, names)
    index = Index(
        vectors, manifest, mesh, _opened_at_first_use(functools.partial(_open_search, folder, manifest, vectors, mesh))
    )
    manifest["recall@10"] = _tune(index, config) if config.sample else None
    on_process_0(lambda: finish(folder, manifest, files))
    return index


def open_index(folder: Path, vectors: Vectors, mesh: Mesh) -> Index:
    """Return the index that `build_index` wrote to `folder`, over the embeddings it was built from.

    Raises:
        StorageError: the index is unfinished, or a file changed since it was written.
        ConfigError: it was built from other embeddings.
    """
    manifest = all_or_none(lambda: _read_manifest(folder, vectors))
    verify_together(folder, manifest["files"], "index")
    if manifest["kind"] == IndexKind.SCANN.value:  # ScaNN has its own copy of the vectors
        vectors.verify_ids()
    else:
        vectors.verify()
    return Index(vectors, manifest, mesh, _open_search(folder, manifest, vectors, mesh))


def recall(index: Index, sample: int, k: int = 10) -> float:
    """Return the share of the exact k best that `index` finds for `sample` vectors of the corpus as queries.

    A result counts if its score reaches the exact k-th best, so that equal vectors may replace each other.
    """
    return _recall(index, *_exact_scores(index, sample, min(k, len(index.vectors))))


def _tune(index: Index, config: IndexConfig) -> float:
    """Return recall@10. Without `config.leaves_searched`, double the searched leaves until the recall is good."""
    settings = index.manifest.get("scann")
    queries, exact = _exact_scores(index, config.sample, min(10, len(index.vectors)))
    found = _recall(index, queries, exact)
    while settings and not config.leaves_searched and found < _AIM and settings["leaves_searched"] < settings["leaves"]:
        settings["leaves_searched"] = min(2 * settings["leaves_searched"], settings["leaves"])
        found = _recall(index, queries, exact)
    return found


def _exact_scores(index: Index, sample: int, k: int) -> tuple[Float[np.ndarray, "q d"], Float[np.ndarray, "q k"]]:
    """Return vectors of the corpus as queries, and the scores of their exact k best."""
    vectors = index.vectors
    rows = np.random.default_rng(0).choice(len(vectors), min(sample, len(vectors)), replace=False)
    queries = vectors.take(np.sort(rows))
    return queries, _find_exactly(vectors, index.mesh, approximate=False)(queries, k).scores


def _recall(index: Index, queries: Float[np.ndarray, "q d"], exact: Float[np.ndarray, "q k"]) -> float:
    lowest = exact[:, -1:]
    rounding = 1e-5 * np.maximum(1, abs(lowest))  # the two searches sum in different orders
    return float((index.nearest(queries, exact.shape[1]).scores >= lowest - rounding).mean())


def _choose_kind(kind: IndexKind, count: int) -> IndexKind:
    if kind is IndexKind.AUTO:
        return IndexKind.EXACT if count < _EXACT_BELOW else IndexKind.SCANN
    if kind is IndexKind.SCANN and count < _FEWEST:
        raise ConfigError(
            f"index.kind=scann needs at least {_FEWEST} vectors and there are {count}; use --index.kind=exact"
        )
    return kind


def _check_norms(vectors: Vectors) -> bool:
    """Refuse vectors that are not finite; return True if all have length 1."""
    return all_true(all_or_none(lambda: _check_own_norms(vectors)))


def _check_own_norms(vectors: Vectors) -> bool:
    """`_check_norms` of this process's share of the vectors."""
    unit, bad, starts = True, [], vectors.starts
    for shard in process_share(range(len(starts))):
        norms = np.linalg.norm(vectors.part(shard, len(starts)), axis=1)
        bad += [vectors.ids[(starts[shard] + row) // vectors.views] for row in np.flatnonzero(~np.isfinite(norms))]
        unit &= bool((abs(norms - 1) < _UNIT).all())
    if bad:
        raise DataError(
            f"{len(bad)} embeddings are NaN or infinite, of documents {', '.join(map(repr, bad[:5]))}; remove "
            f"{vectors.folder} and run `dense-jax embed` again"
        )
    return unit


def _count_parts(config: IndexConfig, vectors: Vectors) -> int:
    """Return the configured number of parts, or one for each process if each then has enough vectors."""
    if config.parts:
        fewest = min(vectors.sizes(config.parts), default=0)
        require(
            fewest >= _FEWEST,
            f"index.parts={config.parts} leaves {fewest} vectors to one of them, and ScaNN needs {_FEWEST}: a part is "
            "made of whole files of embeddings; use fewer parts, or embed with a smaller embed.shard_size",
        )
        return config.parts
    return next((n for n in range(jax.process_count(), 1, -1) if min(vectors.sizes(n)) >= _FEWEST), 1)


def _scann_settings(config: IndexConfig, count: int, unit: bool) -> ScannSettings:
    """Return the settings of each part; `count` is the size of the smallest part."""
    leaves = config.leaves or round(math.sqrt(count))
    searched = config.leaves_searched or max(1, leaves // 10)
    require(1 < leaves <= count // 2, f"index.leaves={leaves} must be from 2 to half of the {count} vectors")
    require(searched <= leaves, f"index.leaves_searched={searched} is more than the {leaves} leaves")
    return {"leaves": leaves, "leaves_searched": searched, "reorder": config.reorder, "spherical": unit}


def _begin(folder: Path, vectors: Vectors) -> None:
    """Remove an earlier index, and claim the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in (MANIFEST, CLAIM):
        (folder / name).unlink(missing_ok=True)
    for old in folder.glob(f"{_FILES}*"):
        shutil.rmtree(old)
    claim(folder, {"embeddings": vectors.fingerprint, "made_by": vectors.made_by})


def _build_parts(vectors: Vectors, settings: ScannSettings, folder: Path, parts: int) -> None:
    """Build this process's parts."""
    for number in process_share(range(parts)):
        build_scann(vectors.part(number, parts), settings, _part_folder(folder, number, parts))


def _part_folder(folder: Path, number: int, parts: int) -> Path:
    return folder / (_FILES if parts == 1 else f"{_FILES}-{number:05}-of-{parts:05}")


def _read_manifest(folder: Path, vectors: Vectors) -> dict[str, Any]:
    """Return the manifest of an index over `vectors`."""
    manifest = read_manifest(folder, IndexManifest, "index", "index")
    settings = manifest["settings"]
    if settings["embeddings"] != vectors.fingerprint:
        changes = list(differences(settings["made_by"], vectors.made_by, "made_by."))
        raise ConfigError(
            f"{folder} was built from other embeddings than {vectors.folder}; run `dense-jax index` again"
            + "".join(f"\n  {change}" for change in changes)
        )
    return manifest


def _opened_at_first_use(opened: Callable[[], VectorSearch]) -> VectorSearch:
    """Return a search that opens its files and takes its memory at its first query, which a build may never send."""
    once = functools.cache(opened)
    return lambda queries, k: once()(queries, k)


def _open_search(folder: Path, manifest: dict[str, Any], vectors: Vectors, mesh: Mesh) -> VectorSearch:
    if manifest["kind"] != IndexKind.SCANN.value:
        return _find_exactly(vectors, mesh, approximate=manifest["kind"] == IndexKind.APPROXIMATE.value)
    parts = manifest["parts"]

    def opened() -> list[VectorSearch]:
        own = process_share(range(parts))
        finds = [load_scann(_part_folder(folder, part, parts), manifest["scann"]) for part in own]
        return [map_rows(find, vectors.rows(part, parts)) for find, part in zip(finds, own, strict=True)]

    return search_all_parts(all_or_none(opened))


def _find_exactly(vectors: Vectors, mesh: Mesh, *, approximate: bool) -> VectorSearch:
    """Return an exact search over all processes, each with a part on its devices."""

    def own_part() -> VectorSearch:
        part = jax.process_index(), jax.process_count()
        find = ExactSearch(vectors.stored_part(*part), mesh, approximate=approximate).search
        return map_rows(find if vectors.ranges is None else vectors.ranges.search(find), vectors.rows(*part))

    return search_all_parts([all_or_none(own_part)])
