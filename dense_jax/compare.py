"""Comparison of finished runs: cost, figures, and significance of the differences.

    dense-jax compare runs/ict-0 runs/ict-1 runs/mlm-0 runs/mlm-1 --against=mlm --workdir=runs/comparison

Runs whose configs differ in the seed only are one row: means over seeds, with the standard deviation of a single run.
BM25 is a row, and so are the runs of each row together with BM25. Each test set and each set of questions has a table,
and one of the gains in its first measure: over the reference, over BM25, and over the row together with BM25.

    FOLDER/comparison.html    all of it in one page
           comparison.md      the tables
           comparison.json    all figures, unrounded
           comparison.png     the scores
           gains.png          the gains and their intervals, where there are any
"""

import json
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dense_jax.arrays import Float
from dense_jax.config import Config
from dense_jax.config.settings import settings_of
from dense_jax.errors import ConfigError, DataError
from dense_jax.io import whole_file, write_json
from dense_jax.processes.locks import in_turn
from dense_jax.report.comparison import compared_sets, page_content, reference_titles, render_markdown
from dense_jax.report.comparison_charts import Bar, ForestLine, draw_forest, draw_scores
from dense_jax.report.html import write_page
from dense_jax.retrieval.significance import bootstrap_interval, randomisation_test
from dense_jax.run_results import BM25, FinishedRun, SetResult, read_run
from dense_jax.train.same_run import DIGESTS

PAGE = "comparison.html"
_ITSELF = f"{BM25} + itself"


@dataclass(frozen=True)
class Row:
    """Runs of one config, or BM25, or both together."""

    name: str
    runs: tuple[FinishedRun, ...]
    results: dict[str, tuple[SetResult, ...]]  # by the name of the set, one for each run
    hybrid: "Row | None" = None  # the same runs together with BM25

    def scores(self, name: str, measure: str) -> Float[np.ndarray, " s"]:
        """The mean over queries of the set `name`, of each run."""
        return np.array([np.mean([q[measure] for q in found.per_query.values()]) for found in self.results[name]])

    def per_query(self, name: str, measure: str) -> Float[np.ndarray, " q"]:
        """The measure of each query, in their order, as the mean over runs."""
        found = [each.per_query for each in self.results[name]]
        return np.array([[each[q][measure] for q in sorted(each)] for each in found]).mean(0)


def compare(workdirs: Sequence[Path], against: str, folder: Path) -> str:
    """The comparison as Markdown tables; writes it to `folder`, with JSON, two charts, and all in one page.

    Raises:
        ConfigError: no run is called `against`, or a workdir is given twice.
        DataError: a workdir was not trained and evaluated to the end, or they were evaluated on different queries.
    """
    if len({path.resolve() for path in workdirs}) < len(workdirs):
        raise ConfigError("a workdir is given twice; give each one once")
    rows = grouped(_by_content([read_run(path) for path in workdirs]))
    reference = next((row for row in rows if row.name == against), None) if against else rows[0]
    if reference is None:
        raise ConfigError(
            f"--against={against} is not among the runs; use one of {', '.join(row.name for row in rows)}"
        )
    measures = _measures(rows)
    found = [_describe_row(row, _references(row, rows, reference), measures) for row in rows]
    notes = {name: _notes(rows, name) for name in measures}
    tables = compared_sets(found, measures, notes)
    text = render_markdown(tables)
    with in_turn(folder / "compare.lock"):
        write_json(folder / "comparison.json", {"against": reference.name, "rows": found, "notes": notes})
        with whole_file(folder / "comparison.md") as partial:
            partial.write_text(text + "\n", encoding="utf-8")
        _draw(rows, found, {name: tested for name, (tested, *_) in measures.items()}, folder)
        write_page(folder / PAGE, "comparison.html", page_content(folder, workdirs, tables))
    return text


def grouped(runs: Sequence[FinishedRun]) -> list[Row]:
    """A row for BM25, where it was measured, and one or two for each config, in the order of the runs.

    Raises:
        DataError: two runs were evaluated on different queries under the same name.
    """
    sets = {name: run for run in reversed(runs) for name in run.results}  # the first that has it
    for run in runs:
        for name, first in sets.items():
            if name not in run.results or run.results[name].per_query.keys() != first.results[name].per_query.keys():
                raise DataError(
                    f"{run.path}: not measured on the same queries of {name} as {first.path}; measure every run on "
                    "the same sets, and share one preparation by --passages.workdir"
                )
    words = {name: (run.words[name],) for run in reversed(runs) for name in run.words}
    rows = [Row(BM25, (), {name: words[name] for name in sets if name in words})] if words else []
    by_config: dict[str, list[FinishedRun]] = defaultdict(list)
    for run in runs:
        by_config[json.dumps([_identity(run.config), run.chosen_by], sort_keys=True)].append(run)
    groups = list(by_config.values())
    for name, group in zip(_row_names(groups), groups, strict=True):
        rows += _with_hybrid(Row(name, tuple(group), {s: tuple(run.results[s] for run in group) for s in sets}))
    return rows


def _with_hybrid(row: Row) -> list[Row]:
    """The row, and that of its runs together with BM25 on the sets where all of them were measured so."""
    shared = [name for name in row.results if all(name in run.hybrids for run in row.runs)]
    if not shared:
        return [row]
    results = {name: tuple(run.hybrids[name] for run in row.runs) for name in shared}
    hybrid = Row(f"{BM25} + {row.name}", row.runs, results)
    return [replace(row, hybrid=hybrid), hybrid]


def _by_content(runs: Sequence[FinishedRun]) -> list[FinishedRun]:
    """`runs` with one name for each set of equal content, and different names for different contents."""
    names: dict[tuple[str, str], str] = {}
    for run in runs:
        for name, content in (found.set for found in (*run.results.values(), *run.words.values())):
            taken = bool(content) and name in names.values()
            names.setdefault((name, content), f"{name}-{content}" if taken else name)

    def renamed(results: dict[str, SetResult]) -> dict[str, SetResult]:
        return {names[found.set]: found for found in results.values()}

    return [
        replace(run, results=renamed(run.results), words=renamed(run.words), hybrids=renamed(run.hybrids))
        for run in runs
    ]


def _identity(config: dict[str, Any]) -> dict[str, Any]:
    """A recorded config without the seed and what may change during a run; paths count where no digest is recorded."""
    by_content = bool(config.get(DIGESTS))
    free = {
        setting.name
        for setting in settings_of(Config)
        if "resumable" in setting.marks or (by_content and setting.place)
    }
    return {name: value for name, value in _flat(config) if name != "seed" and name not in free}


def _flat(config: dict[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{path}{key}.")
        else:
            yield f"{path}{key}", value


def _row_names(groups: Sequence[Sequence[FinishedRun]]) -> list[str]:
    """The common part of the names of a group, such as `ict` of runs/ict-0 and runs/ict-1; else all of them."""
    names = [BM25]
    for group in groups:
        folders = [run.path.name for run in group]
        common = os.path.commonprefix(folders)  # noqa: RUF071  of names, not of paths
        stem = re.sub(r"[-_.](seed)?\d*$", "", common)
        choices = (stem, "+".join(folders), "+".join(str(run.path.resolve()) for run in group))
        names.append(next(choice for choice in choices if choice and choice not in names))
    return names[1:]


def _measures(rows: Sequence[Row]) -> dict[str, list[str]]:
    """The measures that all rows of a set share; a run without a reader has no exact match."""
    found: dict[str, list[str]] = {}
    for row in rows:
        for name, (first, *_) in row.results.items():
            found[name] = [measure for measure in found.get(name, first.measures) if measure in first.measures]
    sets = next(row.results for row in rows if row.runs)  # BM25 and hybrids may lack a set
    return {name: found[name] for name in sets}


def _references(row: Row, rows: Sequence[Row], reference: Row) -> dict[str, Row]:
    """The rows that `row` is compared with, by their titles."""
    found = {reference.name: reference} | {other.name: other for other in rows if other.name == BM25}
    found |= {_ITSELF: row.hybrid} if row.hybrid else {}
    return {title: other for title, other in found.items() if other is not row}


def _describe_row(row: Row, references: dict[str, Row], measures: dict[str, list[str]]) -> dict[str, Any]:
    """The row as JSON values, with its gains over each of `references`."""
    sets = {}
    for name, found in row.results.items():
        scores = {measure: row.scores(name, measure) for measure in measures[name]}
        sets[name] = {
            "queries": len(found[0].per_query),
            "measures": {
                measure: {"mean": float(np.mean(s)), "sd": _standard_deviation(s)} for measure, s in scores.items()
            },
            "gains": {
                title: _gain(row, other, name, measures[name][0])
                for title, other in references.items()
                if name in other.results
            },
        }
    return {
        "name": row.name,
        "workdirs": [str(run.path) for run in row.runs],
        "seeds": [run.config["seed"] for run in row.runs],
        "steps": round(np.mean([run.steps for run in row.runs])) if row.runs else None,
        "tokens": float(np.mean([run.tokens for run in row.runs])) if row.runs else None,
        "seconds": float(np.mean([run.seconds for run in row.runs])) if row.runs else None,
        "sets": sets,
    }


def _gain(row: Row, other: Row, name: str, measure: str) -> dict[str, Any]:
    """The difference to `other` in `measure` on the set `name`: mean, interval and p-value."""
    own, theirs = row.per_query(name, measure), other.per_query(name, measure)
    return {
        "mean": float(np.mean(own - theirs)),
        "interval": bootstrap_interval(own, theirs),
        "p": randomisation_test(own, theirs),
    }


def _standard_deviation(scores: Float[np.ndarray, " s"]) -> float | None:
    """The standard deviation of one run, where there are several."""
    return float(np.std(scores, ddof=1)) if len(scores) > 1 else None


def _notes(rows: Sequence[Row], name: str) -> list[str]:
    """A sentence for each row with a choice that was made by queries: of this set, or of another one."""
    notes = []
    for row in rows:
        for run, found in zip(row.runs, row.results.get(name, ()), strict=False):
            if run.chosen_by:
                same = "queries of this set, so its figures here are too good"
                on = same if run.is_chosen_on(found) else "other queries"
                notes.append(f"{row.name}: its checkpoint was chosen ({run.chosen_by}) on {on}")
            if found.chosen_on:
                notes.append(f"{row.name}: the weight of its dense side was chosen on {found.chosen_on}")
    return list(dict.fromkeys(notes))


def _draw(rows: Sequence[Row], found: Sequence[dict[str, Any]], tested: dict[str, str], folder: Path) -> None:
    """Draw the scores and the gains in the measure of each set."""
    panels = {name: _bars(rows, name, measure) for name, measure in tested.items()}
    draw_scores(panels, [row.name for row in rows], tested, folder / "comparison.png")
    forests = {title: lines for title in reference_titles(found) if (lines := _forest(found, list(tested), title))}
    if forests:
        labels = [_line_label(row.name, name, len(tested)) for row in rows for name in tested]
        draw_forest(forests, labels, " or ".join(dict.fromkeys(tested.values())), folder / "gains.png")
    else:
        (folder / "gains.png").unlink(missing_ok=True)  # of an earlier comparison


def _bars(rows: Sequence[Row], name: str, measure: str) -> list[Bar]:
    return [Bar(row.name, row.scores(name, measure), row.name == BM25) for row in rows if name in row.results]


def _forest(found: Sequence[dict[str, Any]], names: Sequence[str], title: str) -> list[ForestLine]:
    """The gains over the reference `title`, of each row on each set."""
    lines = []
    for row in found:
        for name in names:
            gain = row["sets"].get(name, {}).get("gains", {}).get(title)
            if gain and gain["interval"]:
                lines.append(ForestLine(_line_label(row["name"], name, len(names)), gain["mean"], gain["interval"]))
    return lines


def _line_label(row: str, name: str, sets: int) -> str:
    return f"{row}, {name}" if sets > 1 else row
