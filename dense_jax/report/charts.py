"""Line charts as inline SVG, in the colours of the page that they stand in."""

import io
import itertools
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

INK = "#010203"  # of text and axes: becomes the colour of the page's text, in the dark too
LINES = ("#3d85c6", "#d5763b", "#3a9a68", "#9c6ac9", "#b99a2e", "#c8547a")  # legible on white and on black
_UNUSED = re.compile(r"<metadata>.*?</metadata>|<defs>\s*<style.*?</style>\s*</defs>", re.DOTALL)
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "dense_jax",
    "font.family": "sans-serif",
    "font.size": 9,
    "axes.linewidth": 0.6,
    **dict.fromkeys(("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
}

Series = Mapping[str, Sequence[tuple[float, float]]]  # name -> points (x, y)


def line_chart(series: Series, x_label: str = "step", *, points: bool = False) -> Markup:
    """Draw a line for each of `series`, with a legend if there are several; `points` marks each of its points.

    Names of series become text of the SVG, never markup. Values that are not finite are left out.
    """
    from matplotlib import rc_context  # here: it takes half a second
    from matplotlib.figure import Figure

    with rc_context(_STYLE):
        figure = Figure(figsize=(3.6, 2.2), layout="constrained")
        axes = figure.subplots()
        for colour, (name, values) in zip(itertools.cycle(LINES), series.items(), strict=False):
            x, y = zip(*[point for point in values if math.isfinite(point[1])] or [((), ())], strict=True)
            axes.plot(x, y, label=name, color=colour, linewidth=1.4, marker="o" if points else None, markersize=3)
        axes.set_xlabel(x_label)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(color=INK, alpha=0.12, linewidth=0.5)
        axes.margins(x=0.02)
        if len(series) > 1:
            axes.legend(frameon=False, fontsize=8)
        return _inline(figure)


def _inline(figure: Any) -> Markup:
    """The `svg` element of a figure, as wide as its place."""
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = _UNUSED.sub("", buffer.getvalue())
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    return Markup(re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2))
