"""What the model says of the test samples: which class was taken for which, or numbers against what is true."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from ..figures import style
from .run_data import RunData

_WHITE_TO_BLUE = LinearSegmentedColormap.from_list("white_to_blue", ["#ffffff", "#c3d7ec", "#5f95c9", "#123e70"])
_NUMBERS_UP_TO = 20  # classes
_NAMES_UP_TO = 64
_POINTS = 5000  # more of them are a smear


def draw_confusion(run: RunData, names: Sequence[str], counts: np.ndarray) -> Figure:
    """A map of true classes (rows) by predicted ones, float64 [C, C] samples, in per cent of the true class."""
    classes = len(names)
    side = 4.2 + 0.28 * min(classes, 30)
    right = np.trace(counts) / counts.sum()
    title = f"{run.name}: confusion"
    figure = style.new_figure(side + 0.9, side, title, f"test split, {int(counts.sum()):,} samples, {right:.2%} right")
    axes = figure.add_subplot()
    style.dress(axes, "predicted", "true")
    axes.grid(False)
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    image = axes.imshow(shares, cmap=_WHITE_TO_BLUE, vmin=0, vmax=1, interpolation="nearest")
    at = np.arange(0, classes, -(-classes // _NAMES_UP_TO))
    shown = [style.shorten(names[int(i)], 18) for i in at]
    small = 8.0 if classes <= 30 else 5.5
    look: dict[str, Any] = {"fontsize": small, "parse_math": False}
    axes.set_xticks(at, shown, rotation=90 if max(map(len, shown)) > 2 else 0, **look)
    axes.set_yticks(at, shown, **look)
    for spine in axes.spines.values():
        spine.set_visible(True)
    bar = figure.colorbar(image, ax=axes, pad=0.015, fraction=0.045, aspect=30, format=PercentFormatter(1.0))
    bar.set_label("of the true class", color=style.INK, fontsize=9.5)
    bar.ax.tick_params(colors=style.SOFT, labelsize=8.5, length=3)
    bar.outline.set_visible(False)
    if classes <= _NUMBERS_UP_TO:
        for (row, column), count in np.ndenumerate(counts):
            if count:
                color = "white" if shares[row, column] > 0.55 else style.INK
                axes.text(column, row, f"{int(count)}", ha="center", va="center", fontsize=7, color=color)
    return figure


def draw_predictions(run: RunData, target: np.ndarray, prediction: np.ndarray) -> Figure:
    """Predicted against true numbers, float64 [N] each, every second, third, ... where there are thousands; the line is
    where both are the same. Pairs that are not finite are left out, and counted in the subtitle."""
    finite = np.isfinite(target) & np.isfinite(prediction)
    lost = int((~finite).sum())
    words = f"test split, {len(target):,} samples"
    target, prediction = target[finite], prediction[finite]
    if lost:
        words += f", {lost:,} not finite and left out"
    if len(target):
        words += f", mean absolute error {np.abs(prediction - target).mean():.4g}"
    figure = style.new_figure(6.4, 6.2, f"{run.name}: predictions", words)
    axes = figure.add_subplot()
    style.dress(axes, "true", "predicted")
    if not len(target):
        style.note(axes, "no prediction is a finite number")
        return figure
    every = -(-len(target) // _POINTS)
    size = 6.0 if len(target) <= 500 else 3.5
    axes.plot(
        target[::every], prediction[::every], ".", color=style.TEST, markersize=size, alpha=0.4, markeredgewidth=0
    )
    _diagonal(axes, float(min(target.min(), prediction.min())), float(max(target.max(), prediction.max())))
    return figure


def _diagonal(axes: Axes, low: float, high: float) -> None:
    margin = 0.03 * (high - low) or 1.0
    ends = (low - margin, high + margin)
    axes.plot(ends, ends, color=style.DENSE, linewidth=1.4, linestyle=(0, (5, 3)), zorder=1)
    axes.set_xlim(*ends)
    axes.set_ylim(*ends)
    axes.set_aspect("equal")
