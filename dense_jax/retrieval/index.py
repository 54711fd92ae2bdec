"""Nearest-neighbour index over embeddings: ScaNN for many vectors, exact search for few. The only importer of scann.

ScaNN has three stages: a tree of about sqrt(N) leaves of which some are searched, asymmetric hashing that scores what
is in them from 4-bit codes, and an exact second scoring of the best. It ends the process at a NaN, answers a NaN query
with row 0, and needs more points than leaves, so everything is checked before it sees a vector. Two builds of the same
vectors differ a little.

    INDEX/manifest.json     written last: kind, settings, whose embeddings, recall@10, a digest of each file
    INDEX/scann/            ScaNN's own files, by relative paths: the folder may be moved
"""

import functools
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jax.sharding import Mesh

from dense_jax.arrays import Float, np
from dense_jax.config import IndexConfig, IndexKind, require
from dense_jax.config_tree import differences
from dense_jax.contracts import Ranking
from dense_jax.errors import ConfigError, DataError, MachineError, StorageError
from dense_jax.files import digests, naming_storage_errors, read_json, verify, write_json
from dense_jax.retrieval.exact import ExactSearch, Find, by_passage
from dense_jax.retrieval.vectors import IDS, Vectors

_EXACT_BELOW = 20_000  # vectors; ScaNN's authors advise so, and the exact answer takes milliseconds
_FEWEST = 256  # vectors that ScaNN can be trained on sensibly; below 16 it fails
_UNIT = 1e-3  # how far norms may be from 1 for vectors to count as normalised
_AIM = 0.99  # recall@10 at which no more leaves are added; text queries lie further off than the sample: about .97
_LOW = 0.9  # below, the summary says what to raise
_SOAR = 1.5  # every vector in a second leaf that errs in another direction (arXiv 2404.00774): more recall per leaf
_MANIFEST = "manifest.json"
_FILES = "scann"


class Index:
    """Finds the passages with the largest inner products."""

    def __init__(self, vectors: Vectors, manifest: dict[str, Any], mesh: Mesh, find: Find) -> None:
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
        return by_passage(self.nearest, views)(queries, k)

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
        recall = self.manifest["recall@10"]
        parts = [
            f"{self.manifest['kind']} index: {len(self.vectors):,} vectors of width {self.vectors.width}",
            *(f"{name} {value}" for name, value in self.manifest["settings"].items()),
            f"recall@10 {'not measured' if recall is None else f'{recall:.3f}'}",
        ]
        low = recall is not None and recall < _LOW
        return ", ".join(parts) + (" (low: raise index.leaves_searched or index.reorder)" if low else "")


def build(vectors: Vectors, config: IndexConfig, folder: Path, mesh: Mesh) -> Index:
    """Builds the index of `config.kind` in `folder`, replacing one that is there, and measures its recall.

    Raises:
        DataError: vectors are NaN or infinite; names their documents.
        ConfigError: the settings do not fit the number of vectors.
        StorageError: the embeddings changed since they were written, or the disk refuses.
    """
    vectors.verify()
    kind = _kind(config.kind, len(vectors))
    unit = _checked_norms(vectors)
    settings = _settings(config, len(vectors), unit) if kind is IndexKind.SCANN else {}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(folder / _FILES, ignore_errors=True)
    if kind is IndexKind.SCANN:
        _build_scann(vectors.array(), settings, folder / _FILES)
    manifest = _manifest(vectors, kind) | {"settings": settings, "files": digests(folder, f"{_FILES}/*")}
    index = Index(vectors, manifest, mesh, _when_asked(functools.partial(_find, folder, manifest, vectors, mesh)))
    manifest["recall@10"] = _measured(index, config) if config.sample else None
    write_json(folder / _MANIFEST, manifest)
    return index


def load(folder: Path, vectors: Vectors, mesh: Mesh) -> Index:
    """The index that `build` wrote to `folder`, over the embeddings that it was built from.

    Raises:
        StorageError: there is no finished index, or a file changed since it was written.
        ConfigError: it was built from other embeddings.
    """
    if not (folder / _MANIFEST).is_file():
        raise StorageError(f"{folder}: holds no finished index ({_MANIFEST} is missing); run `dense-jax index`")
    manifest = read_json(folder / _MANIFEST)
    _check_embeddings(folder, manifest, vectors)
    verify(folder, manifest["files"])
    if manifest["kind"] != IndexKind.SCANN.value:
        vectors.verify()
    else:  # ScaNN has its own copy of the vectors
        verify(vectors.folder, {IDS: vectors.manifest["files"][IDS]})
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
    vectors = index.vectors.array()
    rows = np.random.default_rng(0).choice(len(vectors), min(sample, len(vectors)), replace=False)
    queries = np.asarray(vectors[np.sort(rows)])
    return queries, ExactSearch(vectors, index.mesh).search(queries, k).scores


def _share(index: Index, queries: Float[np.ndarray, "q d"], exact: Float[np.ndarray, "q k"]) -> float:
    lowest = exact[:, -1:]
    rounding = 1e-5 * np.maximum(1, abs(lowest))  # the two searches sum in different orders
    return float((index.nearest(queries, exact.shape[1]).scores >= lowest - rounding).mean())


def _kind(asked: IndexKind, count: int) -> IndexKind:
    if asked is IndexKind.AUTO:
        return IndexKind.EXACT if count < _EXACT_BELOW else IndexKind.SCANN
    if asked is IndexKind.SCANN and count < _FEWEST:
        raise ConfigError(
            f"index.kind=scann needs at least {_FEWEST} vectors and there are {count}; use --config.index.kind=exact"
        )
    return asked


def _checked_norms(vectors: Vectors) -> bool:
    """Whether all vectors have length 1; refuses those that are not finite."""
    unit, bad, start = True, [], 0
    for block in vectors.blocks():
        norms = np.linalg.norm(block, axis=1)
        bad += [vectors.ids[(start + row) // vectors.views] for row in np.flatnonzero(~np.isfinite(norms))]
        unit &= bool((abs(norms - 1) < _UNIT).all())
        start += len(block)
    if bad:
        raise DataError(
            f"{len(bad)} embeddings are NaN or infinite, of documents {', '.join(map(repr, bad[:5]))}; embed again"
        )
    return unit


def _settings(config: IndexConfig, count: int, unit: bool) -> dict[str, Any]:
    leaves = config.leaves or round(math.sqrt(count))
    searched = config.leaves_searched or max(1, leaves // 10)
    require(1 < leaves <= count // 2, f"index.leaves={leaves} must be from 2 to half of the {count} vectors")
    require(searched <= leaves, f"index.leaves_searched={searched} is more than the {leaves} leaves")
    return {"leaves": leaves, "leaves_searched": searched, "reorder": config.reorder, "spherical": unit}


def _build_scann(vectors: Float[np.ndarray, "p d"], settings: dict[str, Any], folder: Path) -> None:
    builder = _scann().builder(np.ascontiguousarray(vectors), 10, "dot_product")
    builder = builder.set_n_training_threads(os.cpu_count() or 1).tree(
        num_leaves=settings["leaves"],
        num_leaves_to_search=settings["leaves_searched"],
        spherical=settings["spherical"],
        soar_lambda=_SOAR,
    )
    searcher = builder.score_ah(2, anisotropic_quantization_threshold=0.2).reorder(settings["reorder"]).build()
    with naming_storage_errors(folder):
        folder.mkdir()
        searcher.serialize(str(folder), relative_path=True)


def _manifest(vectors: Vectors, kind: IndexKind) -> dict[str, Any]:
    made = {"embeddings": vectors.fingerprint, "made_by": vectors.manifest["made_by"]}
    return {"kind": kind.value, "count": len(vectors), "width": vectors.width} | made


def _check_embeddings(folder: Path, manifest: dict[str, Any], vectors: Vectors) -> None:
    if manifest["embeddings"] != vectors.fingerprint:
        changes = list(differences(manifest["made_by"], vectors.manifest["made_by"], "made_by."))
        raise ConfigError(
            f"{folder} was built from other embeddings than {vectors.folder}; run `dense-jax index` again"
            + "".join(f"\n  {change}" for change in changes)
        )


def _when_asked(opened: Callable[[], Find]) -> Find:
    """A search that is opened, and takes its memory, when it is first used: whoever only builds need not pay for it."""
    once = functools.cache(opened)
    return lambda queries, k: once()(queries, k)


def _find(folder: Path, manifest: dict[str, Any], vectors: Vectors, mesh: Mesh) -> Find:
    if manifest["kind"] != IndexKind.SCANN.value:
        return ExactSearch(vectors.array(), mesh, approximate=manifest["kind"] == IndexKind.APPROXIMATE.value).search
    if (folder / _FILES / "scann_docids.pkl").exists():  # ScaNN would unpickle it
        raise StorageError(
            f"{folder / _FILES / 'scann_docids.pkl'}: a pickle could run code and is not ours; delete it"
        )
    searcher, settings = _scann().load_searcher(str(folder / _FILES)), manifest["settings"]
    return lambda queries, k: _search_scann(searcher, settings, queries, k)


def _search_scann(searcher: Any, settings: dict[str, Any], queries: Float[np.ndarray, "q d"], k: int) -> Ranking:
    """At least 3 k candidates are scored again exactly; more leaves are opened until every query has k results."""
    leaves = settings["leaves_searched"]
    while True:
        rows, scores = searcher.search_batched_parallel(queries, k, max(settings["reorder"], 3 * k), leaves)
        if leaves == settings["leaves"] or not np.isnan(scores).any():  # NaN: nothing found for this place
            break
        leaves = min(2 * leaves, settings["leaves"])
    rows, scores = rows.astype(np.int64), np.where(np.isnan(scores), -np.inf, scores)
    order = np.lexsort((rows, -scores), axis=1)
    rows = np.where(np.isinf(scores), -1, rows)
    return Ranking(np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1))


def _scann() -> Any:
    try:
        from scann import scann_ops_pybind
    except ImportError:
        raise MachineError(
            "the package scann is not installed; `pip install scann`, or use --config.index.kind=exact"
        ) from None
    return scann_ops_pybind
