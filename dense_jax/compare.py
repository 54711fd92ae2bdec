"""Comparison of finished runs: cost, figures, and significance of the differences.

    dense-jax compare runs/ict-0 runs/ict-1 runs/mlm-0 runs/mlm-1 --against=mlm --workdir=runs/comparison

Runs whose configs differ in the seed only are one row: means over seeds, with the standard deviation of a single run.
Each test set and each set of questions has a table, and in it the first measure is tested.
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
from scipy import stats

from dense_jax.arrays import Float
from dense_jax.config import Config
from dense_jax.config.settings import settings_of
from dense_jax.errors import ConfigError, DataError
from dense_jax.io import whole_file, write_json
from dense_jax.locks import in_turn
from dense_jax.markdown import plain, printable
from dense_jax.progress import format_duration
from dense_jax.run_results import FinishedRun, SetResult, read_run
from dense_jax.train.same_run import DIGESTS

BM25 = "BM25"
_RESAMPLES = 9_999


@dataclass(frozen=True)
class Row:
    """Runs of one config, or BM25."""

    name: str
    runs: tuple[FinishedRun, ...]
    results: dict[str, tuple[SetResult, ...]]  # by the name of the set, one for each run

    def scores(self, name: str, measure: str) -> Float[np.ndarray, " s"]:
        """The mean over queries of the set `name`, of each run."""
        return np.array([np.mean([q[measure] for q in found.per_query.values()]) for found in self.results[name]])

    def per_query(self, name: str, measure: str) -> Float[np.ndarray, " q"]:
        """The measure of each query, in their order, as the mean over runs."""
        found = [each.per_query for each in self.results[name]]
        return np.array([[each[q][measure] for q in sorted(each)] for each in found]).mean(0)


def compare(workdirs: Sequence[Path], against: str, folder: Path) -> str:
    """The comparison as a Markdown table; writes it to `folder`, with comparison.json and comparison.png.

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
    found = [_described(row, reference, measures) for row in rows]
    text = "\n\n".join(_table(found, name, measures[name], reference.name) for name in measures)
    with in_turn(folder / "compare.lock"):
        write_json(folder / "comparison.json", {"against": reference.name, "rows": found})
        with whole_file(folder / "comparison.md") as partial:
            partial.write_text(text + "\n", encoding="utf-8")
        _draw(rows, {name: tested for name, (tested, *_) in measures.items()}, folder / "comparison.png")
    return text


def grouped(runs: Sequence[FinishedRun]) -> list[Row]:
    """A row for BM25, where it was measured, and one for each config, in the order of the runs.

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
    for name, group in zip(_names(groups), groups, strict=True):
        rows.append(Row(name, tuple(group), {s: tuple(run.results[s] for run in group) for s in sets}))
    return rows


def randomisation_test(a: Float[np.ndarray, " q"], b: Float[np.ndarray, " q"]) -> float:
    """Two-sided p-value of the mean difference of paired values, under random exchanges within the pairs.

    Smucker, Allan and Carterette 2007, "A Comparison of Statistical Significance Tests for Information Retrieval".
    """
    if np.array_equal(a, b) or len(a) == 1:
        return 1.0
    found = stats.permutation_test(
        (a - b,),
        lambda x, axis: np.mean(x, axis=axis),
        permutation_type="samples",
        n_resamples=_RESAMPLES,
        batch=1_000,
        rng=np.random.default_rng(0),
    )
    return float(found.pvalue)


def _by_content(runs: Sequence[FinishedRun]) -> list[FinishedRun]:
    """`runs` with one name for each set of equal content, and different names for different contents."""
    names: dict[tuple[str, str], str] = {}
    for run in runs:
        for name, content in (found.set for found in (*run.results.values(), *run.words.values())):
            taken = bool(content) and name in names.values()
            names.setdefault((name, content), f"{name}-{content}" if taken else name)

    def renamed(results: dict[str, SetResult]) -> dict[str, SetResult]:
        return {names[found.set]: found for found in results.values()}

    return [replace(run, results=renamed(run.results), words=renamed(run.words)) for run in runs]


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


def _names(groups: Sequence[Sequence[FinishedRun]]) -> list[str]:
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
    return {name: found[name] for name in rows[-1].results}  # BM25, if any, is the first row and may lack a set


def _described(row: Row, reference: Row, measures: dict[str, list[str]]) -> dict[str, Any]:
    sets = {}
    for name, found in row.results.items():
        scores = {measure: row.scores(name, measure) for measure in measures[name]}
        tested, p = measures[name][0], None
        if row is not reference and name in reference.results:
            p = randomisation_test(row.per_query(name, tested), reference.per_query(name, tested))
        described = {measure: {"mean": float(np.mean(s)), "sd": _spread(s)} for measure, s in scores.items()}
        sets[name] = {"measures": described, "p": p, "queries": len(found[0].per_query)}
    return {
        "name": row.name,
        "workdirs": [str(run.path) for run in row.runs],
        "seeds": [run.config["seed"] for run in row.runs],
        "steps": round(np.mean([run.steps for run in row.runs])) if row.runs else None,
        "tokens": float(np.mean([run.tokens for run in row.runs])) if row.runs else None,
        "seconds": float(np.mean([run.seconds for run in row.runs])) if row.runs else None,
        "sets": sets,
    }


def _spread(scores: Float[np.ndarray, " s"]) -> float | None:
    """The standard deviation of one run, where there are several."""
    return float(np.std(scores, ddof=1)) if len(scores) > 1 else None


def _table(found: Sequence[dict[str, Any]], name: str, measures: Sequence[str], reference: str) -> str:
    """The rows that were measured on the set `name`."""
    rows = [row for row in found if name in row["sets"]]
    header = ["run", "seeds", "steps", "tokens", "time", *measures, f"p ({measures[0]}, against {plain(reference)})"]
    lines = [
        f"{plain(name)}, {rows[0]['sets'][name]['queries']:,} queries; mean over seeds ± standard deviation of one "
        "run; paired randomisation test, not corrected for the number of rows",
        "",
        "| " + " | ".join(header) + " |",
        "| --- |" + " ---: |" * (len(header) - 1),
    ]
    for row in rows:
        here = row["sets"][name]
        cost = ["", "", "", ""]
        if row["seeds"]:
            cost = [
                str(len(row["seeds"])),
                f"{row['steps']:,}",
                f"{row['tokens'] / 1e6:,.1f}M",
                format_duration(row["seconds"]),
            ]
        figures = [_figure(**here["measures"][measure]) for measure in measures]
        p = "" if here["p"] is None else f"{here['p']:.4f}"
        lines.append("| " + " | ".join([plain(row["name"]), *cost, *figures, p]) + " |")
    return "\n".join(lines)


def _figure(mean: float, sd: float | None) -> str:
    return f"{mean:.3f}" if sd is None else f"{mean:.3f} ± {sd:.3f}"


def _draw(rows: Sequence[Row], measures: dict[str, str], path: Path) -> None:
    """A panel for each set, with its measure: a bar for each row, a dot for each seed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # here: it takes half a second
    from matplotlib.figure import Figure

    seeds = max(len(row.runs) for row in rows)
    figure = Figure(figsize=(2.5 + 4 * len(measures), 1.2 + 0.42 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(measures), sharey=True, squeeze=False)[0]
    for panel, (name, measure) in zip(panels, measures.items(), strict=True):
        for place, row in enumerate(rows):
            if name in row.results:
                _draw_bar(panel, place, row.scores(name, measure), "#9a9a9a" if row.name == BM25 else "#4477aa")
        panel.set_yticks(range(len(rows)), [printable(row.name) for row in rows], parse_math=False)
        panel.set_title(printable(name), loc="left", parse_math=False)
        panel.set_xlabel(f"{measure}, mean; a dot for each seed" if seeds > 1 else measure)
        panel.tick_params(axis="y", length=0)
        panel.margins(x=0.15)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].invert_yaxis()
    with whole_file(path) as partial:
        figure.savefig(partial, format="png", dpi=150, bbox_inches="tight", pad_inches=0.15)


def _draw_bar(panel: Any, place: int, scores: Float[np.ndarray, " s"], colour: str) -> None:
    panel.barh(place, scores.mean(), color=colour, height=0.7)
    if len(scores) > 1:
        dots = {"color": "black", "markersize": 4.5, "markeredgecolor": "white", "markeredgewidth": 0.5}
        panel.plot(scores, np.full(len(scores), place), "o", **dots)
    panel.annotate(f"{scores.mean():.3f}", (scores.max(), place), (5, 0), textcoords="offset points", va="center")
