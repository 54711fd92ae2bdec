"""The tables of a comparison of runs, in Markdown and as the values of its page."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dense_jax.retrieval.significance import EXCHANGES, RESAMPLES, SEED
from dense_jax.terminal.markdown import plain
from dense_jax.terminal.progress import format_duration

_METHOD = (
    f"Gains: mean over queries, 95 % interval of the paired bootstrap over queries ({RESAMPLES:,} resamples, seed "
    f"{SEED}), p of the paired randomisation test ({EXCHANGES:,} exchanges, seed {SEED}); not corrected for the number "
    "of rows."
)

JsonRow = Mapping[str, Any]  # a row of comparison.json
Cells = list[list[str]]  # of a table, row by row, the header first


class ComparedSet(NamedTuple):
    """The tables of one set of queries or questions."""

    name: str
    queries: int
    figures: Cells
    gains: Cells  # empty where there is nothing to compare with
    notes: Sequence[str]


def compared_sets(
    rows: Sequence[JsonRow], measures: Mapping[str, Sequence[str]], notes: Mapping[str, Sequence[str]]
) -> list[ComparedSet]:
    """The tables of each set; `measures` and `notes` have those of each set by its name."""
    titles, sets = reference_titles(rows), []
    for name, shown in measures.items():
        measured = [(row, row["sets"][name]) for row in rows if name in row["sets"]]
        queries, gains = measured[0][1]["queries"], _gains_table(measured, shown[0], titles)
        sets.append(ComparedSet(name, queries, _figures_table(measured, shown), gains, notes[name]))
    return sets


def reference_titles(rows: Sequence[JsonRow]) -> list[str]:
    """The references of all gains."""
    return list(dict.fromkeys(title for row in rows for of in row["sets"].values() for title in of["gains"]))


def render_markdown(sets: Sequence[ComparedSet]) -> str:
    """The tables and the notes of each set, and the method of the gains."""
    parts = []
    for one in sets:
        caption = f"{plain(one.name)}, {one.queries:,} queries; mean over seeds ± standard deviation of one run"
        parts += [caption, _markdown_table(one.figures), _markdown_table(one.gains), *map(plain, one.notes)]
    return "\n\n".join(filter(None, [*parts, _method(sets)]))


def page_content(folder: Path, workdirs: Sequence[Path], sets: Sequence[ComparedSet]) -> dict[str, Any]:
    """The values that the template names; the charts are read from `folder`."""
    charts = {"Scores": folder / "comparison.png", "Gains": folder / "gains.png"}
    return {
        "name": folder.absolute().name,
        "sets": sets,
        "method": _method(sets),
        "charts": {name: b64encode(path.read_bytes()).decode() for name, path in charts.items() if path.is_file()},
        "workdirs": workdirs,
    }


def _method(sets: Sequence[ComparedSet]) -> str:
    return _METHOD if any(one.gains for one in sets) else ""


def _figures_table(measured: Sequence[tuple[JsonRow, Mapping[str, Any]]], measures: Sequence[str]) -> Cells:
    """Cost and figures of each row; `measured` has the rows with their values on the set."""
    header = ["run", "seeds", "steps", "tokens", "time", *measures]
    return [
        header,
        *([row["name"], *_cost(row), *(_figure(**of["measures"][name]) for name in measures)] for row, of in measured),
    ]


def _gains_table(
    measured: Sequence[tuple[JsonRow, Mapping[str, Any]]], measure: str, references: Sequence[str]
) -> Cells:
    """The gains of each row, a column for each of `references` that there is a gain over."""
    gains = [(row["name"], of["gains"]) for row, of in measured]
    shown = [title for title in references if any(title in of for _, of in gains)]
    header = [f"gain in {measure}", *(f"over {title}" for title in shown)]
    cells = ([name, *(_gain_cell(**of[title]) if title in of else "" for title in shown)] for name, of in gains)
    return [header, *cells] if shown else []


def _cost(row: JsonRow) -> list[str]:
    """Seeds, steps, tokens and time; empty for BM25."""
    if not row["seeds"]:
        return ["", "", "", ""]
    tokens = f"{row['tokens'] / 1e6:,.1f}M"
    return [str(len(row["seeds"])), f"{row['steps']:,}", tokens, format_duration(row["seconds"])]


def _figure(mean: float, sd: float | None) -> str:
    return f"{mean:.3f}" if sd is None else f"{mean:.3f} ± {sd:.3f}"


def _gain_cell(mean: float, interval: tuple[float, float] | None, p: float) -> str:
    between = f" [{interval[0]:+z.3f}, {interval[1]:+z.3f}]" if interval else ""
    return f"{mean:+z.3f}{between}, p {p:.4f}"


def _markdown_table(cells: Cells) -> str:
    """The table in Markdown; its header and the names of its rows may hold any text."""
    if not cells:
        return ""
    rule = ["---", *["---:"] * (len(cells[0]) - 1)]
    lines = [[*map(plain, cells[0])], rule, *([plain(name), *others] for name, *others in cells[1:])]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
