"""The retrievers of a run on each test set: headline measures, and significance of the differences."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from dense_jax.retrieval.metrics import HEADLINE, PerQuery
from dense_jax.retrieval.results import set_of, suffix
from dense_jax.retrieval.significance import randomisation_test
from dense_jax.run_results import BM25, HYBRID, hybrid_file, read_rankings

BEFORE = "before training"
_FUSED = hybrid_file("")  # how the files of rankings fused with BM25 begin
TESTED = HEADLINE[0]  # the measure of the significance test


@dataclass(frozen=True)
class RetrieverResult:
    """A retriever on one test set."""

    name: str
    run: Path  # its ranking, a TREC file
    mean: Mapping[str, float]
    per_query: PerQuery
    p: Mapping[str, float] = field(default_factory=dict)  # name of another row -> p-value of the difference to it


@dataclass(frozen=True)
class ResultTable:
    """All retrievers that were measured on one test set."""

    folder: Path
    name: str  # of the test set
    split: str
    rows: tuple[RetrieverResult, ...]

    def row(self, name: str) -> RetrieverResult | None:
        return next((row for row in self.rows if row.name == name), None)

    @property
    def last(self) -> RetrieverResult:
        """The row of the checkpoint of the latest step, without BM25."""
        return next(row for row in reversed(self.rows) if not row.name.startswith(HYBRID))


def result_tables(workdir: Path) -> list[ResultTable]:
    """The tables of `results/`, one for each test set of `evaluate`.

    Raises:
        StorageError: a file of figures is damaged.
    """
    folders = sorted({path.parent for path in workdir.glob("results/*/*.trec")})
    return [_result_table(folder) for folder in folders]


def _result_table(folder: Path) -> ResultTable:
    about = read_rankings(folder)
    names = sorted(about, key=lambda name: (name != BM25, name.startswith(_FUSED), about[name]["step"] or 0, name))
    rows = [_row(folder, name, about[name]) for name in names]
    known = {row.name: row for row in rows if row.name in (BM25, BEFORE)}
    tested = tuple(replace(row, p=_p_values(row, known)) for row in rows)
    first = about[names[0]]
    return ResultTable(folder, _set_name(folder, first["collection"]), first["split"], tested)


def _set_name(folder: Path, collection: str) -> str:
    """The name that `evaluate` prints, with the digest that distinguishes it from another set of this name."""
    claimed = set_of(folder)
    is_held_out = claimed["content"] and not claimed["place"]
    return "the held-out test set" if is_held_out else collection + suffix(folder)


def _row(folder: Path, name: str, about: dict[str, Any]) -> RetrieverResult:
    shown = name.removeprefix(_FUSED).replace("_", " ")
    shown = f"{HYBRID}, {shown}" if name.startswith(_FUSED) else shown
    return RetrieverResult(shown, folder / f"{name}.trec", about["mean"], about["per_query"])


def _p_values(row: RetrieverResult, others: Mapping[str, RetrieverResult]) -> dict[str, float]:
    """The p-value of the difference to each of `others` over the same queries, in the first headline measure."""
    return {
        name: randomisation_test(_values(row), _values(other))
        for name, other in others.items()
        if other is not row and other.per_query.keys() == row.per_query.keys()
    }


def _values(row: RetrieverResult) -> np.ndarray:
    return np.array([row.per_query[query][TESTED] for query in sorted(row.per_query)])
