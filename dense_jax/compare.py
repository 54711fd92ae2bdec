"""Finished runs side by side: what each cost, what it found, and whether the difference is more than chance.

    dense-jax compare runs/ict-0 runs/ict-1 runs/mlm-0 runs/mlm-1 --against=mlm --workdir=runs/comparison

Runs whose configs differ in the seed only are one row: means over seeds, with the standard deviation of a single run.
"""

import json
import os
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from dense_jax.arrays import Float
from dense_jax.config import Select
from dense_jax.errors import ConfigError, DataError
from dense_jax.files import read_json, whole_file, write_json
from dense_jax.progress import seconds
from dense_jax.retrieval.metrics import HEADLINE
from dense_jax.train.history import History, read_history
from dense_jax.train.same_run import FREE_TO_CHANGE

BM25 = "BM25"
TESTED = HEADLINE[0]
_RESAMPLES = 9_999
_BEFORE, _AFTER, _WORDS = "before_training.json", "after_training.json", "BM25.json"

PerQuery = dict[str, dict[str, float]]  # query -> measure -> value


@dataclass(frozen=True)
class Run:
    """A workdir that was trained and evaluated."""

    path: Path
    config: dict[str, Any]
    steps: int
    tokens: float  # real ones, seen in training
    seconds: float  # of training
    results: dict[str, PerQuery]  # evaluation set -> what was found
    words: dict[str, PerQuery]  # the same for BM25
    chosen_by: str = ""  # the rules of its probes, where they end it or choose its checkpoint


@dataclass(frozen=True)
class Row:
    """Runs of one config, or BM25."""

    name: str
    runs: tuple[Run, ...]
    results: dict[str, tuple[PerQuery, ...]]  # evaluation set -> one for each run

    def scores(self, test_set: str, measure: str) -> Float[np.ndarray, " s"]:
        """The mean over queries, of each run."""
        return np.array([np.mean([q[measure] for q in found.values()]) for found in self.results[test_set]])

    def per_query(self, test_set: str) -> Float[np.ndarray, " q"]:
        """The tested measure of each query, in their order, as the mean over runs."""
        found = self.results[test_set]
        return np.array([[each[q][TESTED] for q in sorted(each)] for each in found]).mean(0)


def compare(workdirs: Sequence[Path], against: str, folder: Path) -> str:
    """The comparison as a Markdown table; writes it to `folder`, with comparison.json and comparison.png.

    Raises:
        ConfigError: no run is called `against`, or a workdir is given twice.
        DataError: a workdir was not trained and evaluated to the end, or they were evaluated on different queries.
    """
    if len({path.resolve() for path in workdirs}) < len(workdirs):
        raise ConfigError("a workdir is named twice")
    rows = grouped([read_run(path) for path in workdirs])
    reference = next((row for row in rows if row.name == against), None) if against else rows[0]
    if reference is None:
        raise ConfigError(f"--against={against} is none of {', '.join(row.name for row in rows)}")
    found = [_described(row, reference) for row in rows]
    text = _table(found, reference.name)
    write_json(folder / "comparison.json", {"against": reference.name, "rows": found})
    with whole_file(folder / "comparison.md") as partial:
        partial.write_text(text + "\n", encoding="utf-8")
    _draw(rows, folder / "comparison.png")
    return text


def read_run(path: Path) -> Run:
    """What training and evaluation left in a workdir.

    Raises:
        DataError: it was not trained to the end, or not evaluated since.
    """
    results = _results(path, _AFTER) or _results(path, _BEFORE)  # of a run of no steps there is nothing after
    if not (path / "config.json").is_file() or not results:
        raise DataError(f"{path}: not trained and evaluated; run `dense-jax train` and `dense-jax evaluate` there")
    config = read_json(path / "config.json")
    lines = (path / "metrics.jsonl").read_text(encoding="utf-8").splitlines() if _has_metrics(path) else []
    last = json.loads(lines[-1]) if lines else {"step": 0, "tokens": 0.0, "seconds": 0.0}
    probes = read_history(path)
    ended = probes is not None and probes.ended and probes.steps[-1] == last["step"]
    if last["step"] != config["steps"] and not ended:
        raise DataError(
            f"{path}: training stands at step {last['step']:,} of {config['steps']:,}; run `dense-jax train` to the "
            "end, and `dense-jax evaluate` after it"
        )
    for name, result in results.items():
        if result["step"] not in (last["step"], probes.best if probes is not None else None):
            raise DataError(
                f"{path}: {name} was evaluated at step {result['step']:,}, but training stands at {last['step']:,}; "
                "run `dense-jax evaluate` again"
            )
    words = {name: result["per_query"] for name, result in _results(path, _WORDS).items()}
    per_query = {name: result["per_query"] for name, result in results.items()}
    return Run(path, config, last["step"], last["tokens"], last["seconds"], per_query, words, _rules(probes))


def grouped(runs: Sequence[Run]) -> list[Row]:
    """A row for BM25, where it was measured, and one for each config, in the order of the runs.

    Raises:
        DataError: two runs were evaluated on different queries under the same name.
    """
    sets = {name: run for run in reversed(runs) for name in run.results}  # the first that has it
    for run in runs:
        for name, first in sets.items():
            if run.results.get(name, {}).keys() != first.results[name].keys():
                raise DataError(
                    f"{run.path}: not evaluated on the same queries of {name} as {first.path}; evaluate every run on "
                    "the same sets, and share one preparation by --config.passages.workdir"
                )
    words = {name: next((run.words[name] for run in runs if name in run.words), None) for name in sets}
    rows = [Row(BM25, (), {name: (w,) for name, w in words.items() if w})] if all(words.values()) else []
    by_config: dict[str, list[Run]] = defaultdict(list)
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


def _results(path: Path, file: str) -> dict[str, Any]:
    """What `evaluate` left in `file`, for each evaluation set."""
    return {found.parent.name: read_json(found) for found in sorted(path.glob(f"results/*/{file}"))}


def _rules(probes: History | None) -> str:
    if probes is None or (probes.select is Select.NEWEST and not probes.patience):
        return ""
    return f"{probes.select.value} in {probes.measure}, patience {probes.patience}"


def _has_metrics(path: Path) -> bool:
    return (path / "metrics.jsonl").is_file()


def _identity(config: dict[str, Any], path: str = "") -> dict[str, Any]:
    """A config without the seed and what may change during a run."""
    kept = {}
    for key, value in config.items():
        name = f"{path}{key}"
        if isinstance(value, dict):
            kept[key] = _identity(value, f"{name}.")
        elif name != "seed" and not name.startswith(FREE_TO_CHANGE):
            kept[key] = value
    return kept


def _names(groups: Sequence[Sequence[Run]]) -> list[str]:
    """What the folders of a group have in common, such as `ict` of runs/ict-0 and runs/ict-1; else all of them."""
    names = [BM25]
    for group in groups:
        folders = [run.path.name for run in group]
        common = os.path.commonprefix(folders)  # noqa: RUF071  of names, not of paths
        stem = re.sub(r"[-_.](seed)?\d*$", "", common)
        choices = (stem, "+".join(folders), "+".join(str(run.path.resolve()) for run in group))
        names.append(next(choice for choice in choices if choice and choice not in names))
    return names[1:]


def _described(row: Row, reference: Row) -> dict[str, Any]:
    sets = {}
    for name in row.results:
        measures = {}
        for measure in HEADLINE:
            scores = row.scores(name, measure)
            spread = float(np.std(scores, ddof=1)) if len(scores) > 1 else None
            measures[measure] = {"mean": float(np.mean(scores)), "sd": spread}
        p = None if row is reference else randomisation_test(row.per_query(name), reference.per_query(name))
        sets[name] = {"measures": measures, "p": p, "queries": len(row.results[name][0])}
    return {
        "name": row.name,
        "workdirs": [str(run.path) for run in row.runs],
        "seeds": [run.config["seed"] for run in row.runs],
        "steps": round(np.mean([run.steps for run in row.runs])) if row.runs else None,
        "tokens": float(np.mean([run.tokens for run in row.runs])) if row.runs else None,
        "seconds": float(np.mean([run.seconds for run in row.runs])) if row.runs else None,
        "sets": sets,
    }


def _table(found: Sequence[dict[str, Any]], reference: str) -> str:
    """One table for each evaluation set."""
    return "\n\n".join(_table_of(found, name, reference) for name in found[0]["sets"])


def _table_of(found: Sequence[dict[str, Any]], name: str, reference: str) -> str:
    queries = found[0]["sets"][name]["queries"]
    header = ["run", "seeds", "steps", "tokens", "time", *HEADLINE, f"p ({TESTED}, against {reference})"]
    lines = [
        f"{name}, {queries:,} queries; mean over seeds ± standard deviation of one run; paired randomisation test, "
        "not corrected for the number of rows",
        "",
        "| " + " | ".join(header) + " |",
        "| --- |" + " ---: |" * (len(header) - 1),
    ]
    for row in found:
        here = row["sets"][name]
        cost = ["", "", "", ""]
        if row["seeds"]:
            cost = [
                str(len(row["seeds"])),
                f"{row['steps']:,}",
                f"{row['tokens'] / 1e6:,.1f}M",
                seconds(row["seconds"]),
            ]
        figures = [_figure(**here["measures"][measure]) for measure in HEADLINE]
        p = "" if here["p"] is None else f"{here['p']:.4f}"
        lines.append("| " + " | ".join([row["name"], *cost, *figures, p]) + " |")
    return "\n".join(lines)


def _figure(mean: float, sd: float | None) -> str:
    return f"{mean:.3f}" if sd is None else f"{mean:.3f} ± {sd:.3f}"


def _draw(rows: Sequence[Row], path: Path) -> None:
    """A panel for each evaluation set: a bar for each row, a dot for each seed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # here: it takes half a second
    from matplotlib.figure import Figure

    sets, seeds = list(rows[0].results), max(len(row.runs) for row in rows)
    figure = Figure(figsize=(2.5 + 4 * len(sets), 1.2 + 0.42 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, len(sets), sharey=True, squeeze=False)[0]
    for panel, name in zip(panels, sets, strict=True):
        for place, row in enumerate(rows):
            scores = row.scores(name, TESTED)
            panel.barh(place, scores.mean(), color="#9a9a9a" if row.name == BM25 else "#4477aa", height=0.7)
            if len(scores) > 1:
                dots = {"color": "black", "markersize": 4.5, "markeredgecolor": "white", "markeredgewidth": 0.5}
                panel.plot(scores, np.full(len(scores), place), "o", **dots)
            panel.annotate(
                f"{scores.mean():.3f}", (scores.max(), place), (5, 0), textcoords="offset points", va="center"
            )
        panel.set_yticks(range(len(rows)), [row.name for row in rows])
        panel.set_title(name, loc="left")
        panel.set_xlabel(f"{TESTED}, mean; a dot for each seed" if seeds > 1 else TESTED)
        panel.tick_params(axis="y", length=0)
        panel.margins(x=0.15)
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].invert_yaxis()
    with whole_file(path) as partial:
        figure.savefig(partial, format="png", dpi=150, bbox_inches="tight", pad_inches=0.15)
