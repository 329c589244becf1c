"""table1.png: accuracy and bytes against the pruning rate, the published table and the same protocol run here."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg

from fl.output.figures import style

_LOOK = {"unstructured": (style.BLUE, "o"), "structured": (style.ORANGE, "s")}


def draw(rows: Sequence[Any], path: Path) -> None:
    """One column of panels for each model and data set of `rows` (`table1.Row`); written as png to `path`."""
    models = list(dict.fromkeys((row.dataset, row.model) for row in rows))
    title = "Pruning after training, weights sent: Table 1 of Jeurkar et al. (2024), theirs and here"
    words = "Dashed: as published, best on test data. Solid: here, best on validation data, mean over seeds."
    figure = style.new_figure(4.6 * len(models), 8.4, title, words)
    FigureCanvasAgg(figure)
    panels = figure.subplots(2, len(models), squeeze=False)
    for column, (dataset, model) in enumerate(models):
        own = [row for row in rows if (row.dataset, row.model) == (dataset, model)]
        _accuracy(panels[0][column], own, f"{model} on {dataset}")
        _bytes(panels[1][column], own)
    figure.savefig(path, dpi=130, format="png")


def _accuracy(axes: Axes, rows: Sequence[Any], title: str) -> None:
    style.dress(axes, "pruning rate (%)", "test accuracy (%)", title)
    for kind, (colour, marker) in _LOOK.items():
        own = [row for row in rows if row.kind == kind]
        _line(
            axes, own, lambda row: 100 * row.theirs.accuracy if row.theirs else None, colour, marker, f"{kind}, theirs"
        )
        _line(axes, own, _mean_best, colour, marker, f"{kind}, here")
    axes.set_ylim(0, 100)
    style.legend(axes, columns=2)


def _mean_best(row: Any) -> float | None:
    return None if row.run is None else 100 * sum(row.run.best) / len(row.run.best)


def _bytes(axes: Axes, rows: Sequence[Any]) -> None:
    style.dress(axes, "pruning rate (%)", "MB a client and round, log scale")
    for kind, (colour, marker) in _LOOK.items():
        own = [row for row in rows if row.kind == kind]
        _line(axes, own, lambda row: row.theirs.bytes / 1e6 if row.theirs else None, colour, marker, f"{kind}, theirs")
        _line(axes, own, lambda row: _megabytes(row, "bf16"), colour, marker, f"{kind}, here, bf16")
    own = [row for row in rows if row.kind == "unstructured"]
    _line(axes, own, lambda row: _megabytes(row, "fp32"), style.GREEN, "^", "unstructured, here, fp32")
    if rows:
        axes.axhline(rows[0].dense / 1e6, color=style.DENSE, linewidth=1.2, label="dense fp32")
    sizes = [float(y) for drawn in axes.get_lines() for y in np.asarray(drawn.get_ydata())]
    if sizes:
        style.log_axis(axes, "y", min(sizes), max(sizes))
    style.legend(axes, columns=2)


def _megabytes(row: Any, wire: str) -> float | None:
    return row.sizes[wire] / 1e6 if wire in row.sizes else None


def _line(
    axes: Axes, rows: Sequence[Any], value: Callable[[Any], float | None], colour: str, marker: str, label: str
) -> None:
    points = [(row.rate, y) for row in rows if (y := value(row)) is not None]
    if points:
        dashes = "--" if "theirs" in label else "-"
        axes.plot(*zip(*points, strict=True), dashes, color=colour, marker=marker, markersize=4.5, label=label)
