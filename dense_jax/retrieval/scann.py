"""ScaNN over the vectors of one part of an index. The only importer of scann.

Three stages: a tree of leaves of which some are searched, asymmetric hashing that scores what is in them from 4-bit
codes, and an exact second scoring of the best.
"""

import functools
import os
from pathlib import Path
from typing import Any

from dense_jax.arrays import Float, np
from dense_jax.errors import MachineError, StorageError
from dense_jax.io import naming_storage_errors
from dense_jax.retrieval.vector_search import VectorSearch
from dense_jax.types import Ranking

_SOAR = 1.5  # every vector in a second leaf that errs in another direction (arXiv 2404.00774): more recall per leaf


def build_scann(vectors: Float[np.ndarray, "p d"], settings: dict[str, Any], folder: Path) -> None:
    """Writes ScaNN's files for `vectors`, which are finite and many enough.

    Raises:
        StorageError: the disk refuses.
    """
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


def load_scann(folder: Path, settings: dict[str, Any]) -> VectorSearch:
    """Search in what `build_scann` wrote; `settings` is looked at in each search.

    Raises:
        StorageError: there is a pickle, which is none of ours.
    """
    if (folder / "scann_docids.pkl").exists():  # ScaNN would unpickle it
        raise StorageError(f"{folder / 'scann_docids.pkl'}: a pickle could run code and is not ours; delete it")
    return functools.partial(_search, _scann().load_searcher(str(folder)), settings)


def _search(searcher: Any, settings: dict[str, Any], queries: Float[np.ndarray, "q d"], k: int) -> Ranking:
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
            "the package scann is not installed; `pip install scann`, or use --index.kind=exact"
        ) from None
    return scann_ops_pybind
