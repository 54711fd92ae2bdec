"""ScaNN over the vectors of one part of an index. The only importer of scann.

ScaNN has three stages: a tree, of whose leaves some are searched; asymmetric hashing, which scores the leaves' vectors
by 4-bit codes; and exact rescoring of the best.
"""

import functools
import os
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from dense_jax.arrays import Float, np
from dense_jax.errors import MachineError, StorageError
from dense_jax.io import naming_storage_errors
from dense_jax.retrieval.vector_search import VectorSearch
from dense_jax.terminal.streams import without_native_logs
from dense_jax.types import Ranking

_SOAR = 1.5  # puts every vector in a second leaf with another residual (arXiv 2404.00774): more recall per leaf


class ScannSettings(TypedDict):
    """Settings of the tree and of the search."""

    leaves: int
    leaves_searched: int
    reorder: int  # candidates rescored exactly
    spherical: bool


def build_scann(vectors: Float[np.ndarray, "p d"], settings: ScannSettings, folder: Path) -> None:
    """Write ScaNN's files for `vectors`, which the caller has checked to be finite and enough.

    Raises:
        StorageError: the disk refuses the write.
    """
    builder = _scann().builder(np.ascontiguousarray(vectors), 10, "dot_product")
    builder = builder.set_n_training_threads(os.cpu_count() or 1).tree(
        num_leaves=settings["leaves"],
        num_leaves_to_search=settings["leaves_searched"],
        spherical=settings["spherical"],
        soar_lambda=_SOAR,
    )
    builder = builder.score_ah(2, anisotropic_quantization_threshold=0.2).reorder(settings["reorder"])
    with without_native_logs():
        searcher = builder.build()
    with naming_storage_errors(folder):
        folder.mkdir()
        searcher.serialize(str(folder), relative_path=True)


def load_scann(folder: Path, settings: ScannSettings) -> VectorSearch:
    """Return a search in the files of `build_scann`; each search reads `settings` again, since tuning changes them.

    Raises:
        StorageError: the folder holds a pickle, which this package never writes.
    """
    if (folder / "scann_docids.pkl").exists():  # ScaNN would unpickle it
        raise StorageError(f"{folder / 'scann_docids.pkl'}: a pickle could run code and is not ours; delete it")
    return functools.partial(_search_scann, _scann().load_searcher(str(folder)), settings)


def _search_scann(searcher: Any, settings: ScannSettings, queries: Float[np.ndarray, "q d"], k: int) -> Ranking:
    """Rescore at least 3 k candidates exactly, and search twice as many leaves until every query has k results."""
    leaves = settings["leaves_searched"]
    while True:
        rows, scores = searcher.search_batched_parallel(queries, k, max(settings["reorder"], 3 * k), leaves)
        if leaves == settings["leaves"] or not np.isnan(scores).any():  # NaN: an empty place
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
