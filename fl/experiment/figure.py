"""accuracy.png (or r2.png): validation score of all arms, by rounds, by bytes and, where there is one, by virtual time."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from fl.output.figures import style
from fl.output.figures.run_data import Column

from .results import Point, Results
from .tables import has_virtual_time

_COLOURS = (style.BLUE, style.ORANGE, style.GREEN, "#8a4fa3", "#b8862b", "#c2406b", "#3c8dbc", style.GREY)
_DASHES = ("-", "--", ":")


def draw_accuracy(results: Results, path: Path) -> None:
    """Mean line and band from the lowest to the highest seed, per arm, with the target; written as png to `path`."""
    experiment, score = results.experiment, results.score
    seeds = f"{len(experiment.seeds)} seed{'s' * (len(experiment.seeds) != 1)}: mean, lowest and highest"
    timed = has_virtual_time(results)
    figure = style.new_figure(
        17.0 if timed else 12.0, 5.4, f"{experiment.name}: validation {score.title}", experiment.description or seeds
    )
    by_round, by_bytes, *others = figure.subplots(1, 3 if timed else 2, sharey=True)
    style.dress(by_round, "rounds", f"validation {score.title} ({seeds})")
    style.dress(by_bytes, "uplink so far, all clients (MB, log scale)", "")
    for axes in others:
        style.dress(axes, "virtual time (s)", "")
    sent: list[float] = []
    for position, arm in enumerate(experiment.arms):
        curves = _shared([[point for point in row.curve if point.validation is not None] for row in results.of(arm)])
        if not curves or not curves[0]:
            continue
        look = (arm.name, _COLOURS[position % len(_COLOURS)], _DASHES[position // len(_COLOURS) % len(_DASHES)])
        values = np.array([[point.validation for point in curve] for curve in curves], dtype=np.float64)
        megabytes = np.array([[point.uplink_bytes / 1e6 for point in curve] for curve in curves]).mean(axis=0)
        _line(by_round, np.array([point.round + 1 for point in curves[0]], dtype=np.float64), values, *look)
        _line(by_bytes, megabytes, values, *look)
        times = np.array([[point.virtual_time_s for point in curve] for curve in curves], dtype=np.float64)
        for axes in others:
            _line(axes, times.mean(axis=0), values, *look)
        sent += [float(megabytes[0]), float(megabytes[-1])]
    if not sent:
        style.note(by_round, f"no validation {score.title} was recorded")
        style.note(by_bytes, f"no validation {score.title} was recorded")
    else:
        if results.target is not None:
            for axes in (by_round, by_bytes, *others):
                axes.axhline(results.target, color=style.DENSE, linewidth=1.4, linestyle=(0, (5, 3)))
        if score.percent:
            by_round.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
        by_round.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10))
        style.log_axis(by_bytes, "x", min(sent), max(sent))
        style.legend(by_round, columns=3)
    path.write_bytes(style.png(figure, 150))


def _shared(curves: list[list[Point]]) -> list[list[Point]]:
    """Of each seed, the points at rounds at which all seeds have a score (a diverging regression has none)."""
    rounds = set.intersection(*({point.round for point in curve} for curve in curves)) if curves else set()
    return [[point for point in curve if point.round in rounds] for curve in curves]


def _line(axes: Axes, x: Column, y: Column, name: str, colour: str, dashes: str) -> None:
    """`x` is float64[points], `y` float64[seeds, points]."""
    size = style.marker_size(len(x))
    axes.plot(x, y.mean(axis=0), dashes, color=colour, linewidth=1.9, label=name, marker="o", markersize=size, zorder=3)
    if len(y) > 1:
        axes.fill_between(x, y.min(axis=0), y.max(axis=0), color=colour, alpha=0.18, linewidth=0, zorder=2)
