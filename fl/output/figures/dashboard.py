"""Everything about a run on one page."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from ..figures import style
from .accuracy import draw_accuracy_vs_bytes, draw_accuracy_vs_round, draw_loss_vs_round
from .partition import draw_partition
from .run_data import RunData
from .timing import draw_time_per_round
from .traffic import draw_bytes_per_round

_PANELS = (
    (draw_accuracy_vs_round, "{score} by round"),
    (draw_accuracy_vs_bytes, "{score} by bytes sent"),
    (draw_loss_vs_round, "Loss by round"),
    (draw_bytes_per_round, "Bytes by round"),
    (draw_time_per_round, "Time by round"),
    (draw_partition, "Partition"),
)


def draw_dashboard(run: RunData) -> Figure:
    """A row of key figures above six panels."""
    figure = style.new_figure(18, 11.5, run.name, run.subtitle)
    rows = figure.add_gridspec(3, 1, height_ratios=[0.2, 1, 1])
    cards = rows[0].subgridspec(1, 5, wspace=0.03)
    panels = [rows[1].subgridspec(1, 3), rows[2].subgridspec(1, 3, width_ratios=[1, 1, 1.15])]
    for at, card in enumerate(key_figures(run)):
        _draw_card(figure.add_subplot(cards[0, at]), *card)
    for at, (draw, title) in enumerate(_PANELS):
        draw(figure.add_subplot(panels[at // 3][0, at % 3]), run, title.format(score=run.score.title.capitalize()))
    return figure


def key_figures(run: RunData) -> list[tuple[str, str, str]]:
    """Five cards: (caption, value, small print). Every decision is validation's; test is only reported."""
    score = run.score
    validation, test = (run[column] for column in score.columns)
    final, when = "-", "no test recorded"
    if np.isfinite(test).any():
        last = int(np.flatnonzero(np.isfinite(test))[-1])
        final, when = score.words(test[last]), f"round {run['round'][last]:.0f}"
    best, where = "-", "no validation recorded"
    if np.isfinite(validation).any():
        at = int(np.nanargmax(score.gain(validation)))
        best = score.words(test[at]) if np.isfinite(test[at]) else "-"
        where = f"round {run['round'][at]:.0f}, validation {score.words(validation[at])}"
    traffic = []
    for direction in ("uplink", "downlink"):
        ratio = run.reduction(direction)
        sent = style.megabytes(float(np.nansum(run[f"{direction}_bytes"])) / 1e6)
        dense = style.megabytes(float(np.nansum(run[f"{direction}_dense_bytes"])) / 1e6)
        small = f"{ratio:,.3g}x less than dense ({dense})" if ratio > 1.005 else f"dense: {dense}"
        traffic.append((direction.capitalize(), sent, small))
    extent = [
        f"{number} {word}{'s' * (number != 1)}"
        for number, word in ((run.rounds, "round"), (run.clients, "client"), (run.ranks, "rank"))
        if number
    ]
    return [
        (f"Test {score.title}, last", final, when),
        (f"Test {score.title}, best on validation", best, where),
        *traffic,
        ("Time", f"{np.nansum(run['time_s']):,.0f} s", ", ".join(extent)),
    ]


def _draw_card(axes: Axes, caption: str, value: str, small: str) -> None:
    axes.set_axis_off()
    look: dict[str, Any] = {
        "boxstyle": "round,pad=0,rounding_size=0.02",
        "mutation_aspect": 4,
        "transform": axes.transAxes,
    }
    axes.add_patch(FancyBboxPatch((0, 0), 1, 1, facecolor="#f2f5f8", edgecolor="none", **look))
    for y, text, size, color, weight in (
        (0.82, caption, 9.5, style.SOFT, "normal"),
        (0.48, value, 18, style.INK, "bold"),
        (0.16, small, 9, style.SOFT, "normal"),
    ):
        axes.text(0.04, y, text, transform=axes.transAxes, va="center", fontsize=size, color=color, weight=weight)
