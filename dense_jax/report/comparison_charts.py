"""Charts of compared runs, as PNG files: their scores, and their gains with intervals."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from dense_jax.arrays import Float
from dense_jax.io import whole_file
from dense_jax.terminal.markdown import printable

_BLUE, _GREY = "#4477aa", "#9a9a9a"
_INCHES = 0.09  # of a character


class Bar(NamedTuple):
    """The scores of one row of the comparison: one for each run."""

    row: str
    scores: Float[np.ndarray, " s"]
    is_baseline: bool


class ForestLine(NamedTuple):
    """A gain and its interval."""

    label: str
    gain: float
    interval: tuple[float, float]


def draw_scores(
    panels: Mapping[str, Sequence[Bar]], names: Sequence[str], measures: Mapping[str, str], path: Path
) -> None:
    """Draw a panel for each set, with its measure: a bar for each row, in the order of `names`, a dot for each seed."""
    seeds = max(len(bar.scores) for bars in panels.values() for bar in bars)
    figure, axes = _panels(len(panels), names, width=4.0, height=0.42)
    for axis, (name, bars) in zip(axes, panels.items(), strict=True):
        for bar in bars:
            _draw_bar(axis, names.index(bar.row), bar.scores, _GREY if bar.is_baseline else _BLUE)
        _label_axis(axis, names, name)
        axis.set_xlabel(f"{measures[name]}, mean; a dot for each seed" if seeds > 1 else measures[name])
        axis.margins(x=0.15)
    _write_png(figure, axes, path)


def draw_forest(panels: Mapping[str, Sequence[ForestLine]], labels: Sequence[str], measure: str, path: Path) -> None:
    """Draw a forest plot, a panel for each reference: the gain over it with its interval, in the order of `labels`."""
    labels = [label for label in labels if any(line.label == label for lines in panels.values() for line in lines)]
    figure, axes = _panels(len(panels), labels, width=3.5, height=0.3)
    for axis, (name, lines) in zip(axes, panels.items(), strict=True):
        axis.axvline(0, color=_GREY, linewidth=1)
        for line in lines:
            place = labels.index(line.label)
            axis.plot(line.interval, (place, place), color=_BLUE)
            axis.plot(line.gain, place, "s", color=_BLUE, markersize=4.5)
        _label_axis(axis, labels, f"over {name}")
        axis.set_xlabel(f"gain in {measure} and its 95 % interval")
        axis.locator_params(axis="x", nbins=5)
    _write_png(figure, axes, path)


def _panels(count: int, labels: Sequence[str], width: float, height: float) -> tuple[Any, Any]:
    """Return a figure and its panels, side by side: `width` inches for a panel, `height` for each of its lines."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # here: it takes half a second
    from matplotlib.figure import Figure

    margin = max(2.5, _INCHES * max(map(len, labels)))
    figure = Figure(figsize=(margin + width * count, 1.2 + height * len(labels)), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(1, count, sharey=True, squeeze=False)[0]


def _draw_bar(axis: Any, place: int, scores: Float[np.ndarray, " s"], colour: str) -> None:
    axis.barh(place, scores.mean(), color=colour, height=0.7)
    if len(scores) > 1:
        dots = {"color": "black", "markersize": 4.5, "markeredgecolor": "white", "markeredgewidth": 0.5}
        axis.plot(scores, np.full(len(scores), place), "o", **dots)
    axis.annotate(f"{scores.mean():.3f}", (scores.max(), place), (5, 0), textcoords="offset points", va="center")


def _label_axis(axis: Any, names: Sequence[str], title: str) -> None:
    axis.set_yticks(range(len(names)), [printable(name) for name in names], parse_math=False)
    axis.set_title(printable(title), loc="left", parse_math=False)
    axis.tick_params(axis="y", length=0)
    axis.spines[["top", "right"]].set_visible(False)


def _write_png(figure: Any, axes: Any, path: Path) -> None:
    axes[0].invert_yaxis()  # the first row is on top
    with whole_file(path) as partial:
        figure.savefig(partial, format="png", dpi=150, bbox_inches="tight", pad_inches=0.15)
