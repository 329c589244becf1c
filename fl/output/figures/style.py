"""One look for all figures: palette, axes, legends, notes. Nothing here touches matplotlib's global state."""

import io
import math
import re
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import Collection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullLocator
from numpy.typing import NDArray

from fl.common.names import readable

from .run_data import Column

INK, SOFT, GRID = "#1f2933", "#5d6975", "#e3e7eb"
BLUE, ORANGE, GREEN, GREY = "#2463a6", "#d9702b", "#2f9177", "#7d8791"
# Meaning, not taste: a colour stands for the same thing in every figure.
VALIDATION, TEST, TRAIN = BLUE, ORANGE, GREEN
UPLINK, DOWNLINK, DENSE = BLUE, ORANGE, GREY

_TITLE_STRIP = 0.78  # inches kept free for the headline
_LEGEND_ROW = 14.5  # points
_UNNAMED = re.compile(r"|_(child|container)\d+|_nolegend_")  # what matplotlib calls what was given no label


def new_figure(width: float, height: float, title: str, subtitle: str) -> Figure:
    """A figure of so many inches with its headline; what is drawn in it is laid out below, automatically."""
    figure = Figure(figsize=(width, height), layout="constrained", facecolor="white")
    engine = figure.get_layout_engine()
    assert engine is not None  # because of layout="constrained"
    engine.set(w_pad=0.14, h_pad=0.12, rect=(0, 0, 1, 1 - _TITLE_STRIP / height))  # type: ignore[call-arg]
    for text, top, size, weight, color, per_inch in (
        (title, 0.2, 13, "bold", INK, 9.0),
        (subtitle, 0.5, 9, "normal", SOFT, 15.5),
    ):
        figure.text(
            0.2 / width,
            1 - top / height,
            shorten(text, int((width - 0.4) * per_inch)),
            va="top",
            fontsize=size,
            fontweight=weight,
            color=color,
            parse_math=False,  # a run name may hold dollar signs
        )
    return figure


def png(figure: Figure, dpi: int) -> bytes:
    """The figure as a PNG file of this resolution."""
    figure.set_dpi(dpi)
    drawn = io.BytesIO()
    FigureCanvasAgg(figure).print_png(drawn)  # `savefig` would draw twice: first for the layout, which needs no drawing
    return drawn.getvalue()


def shorten(text: str, length: int) -> str:
    """`text` in one readable line, cut to `length` characters with an ellipsis."""
    text = readable(text)
    return text if len(text) <= length else text[: length - 1].rstrip(" ·") + "…"


def dress(axes: Axes, x: str, y: str, title: str = "") -> None:
    """Labels, a light grid behind the data, and no box around it."""
    axes.set_xlabel(x, color=INK, fontsize=9.5)
    axes.set_ylabel(y, color=INK, fontsize=9.5)
    _title(axes, title, 0)
    axes.grid(True, color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(labelcolor=SOFT, labelsize=8.5, length=3, color=GREY)
    for side, spine in axes.spines.items():
        spine.set_visible(side in ("left", "bottom"))
        spine.set_color(GREY)


def legend(axes: Axes, *, columns: int = 3) -> None:
    """A legend above the axes, where it can hide nothing, and the title above it. Labels may be names of a user's: `_x` and
    `$x^$` are shown as they are, where matplotlib would leave out the one and read the other as mathematics."""
    drawn = [each for each in axes.get_children() if isinstance(each, Line2D | Patch | Collection)]
    handles = [each for each in (*drawn, *axes.containers) if not _UNNAMED.fullmatch(str(each.get_label()))]
    if not handles:
        return
    labels = [readable(str(each.get_label())) for each in handles]
    made = axes.legend(
        handles,
        labels,
        loc="lower left",
        bbox_to_anchor=(-0.01, 1.0),
        ncols=columns,
        frameon=False,
        fontsize=8.5,
        labelcolor=INK,
        handlelength=1.8,
        columnspacing=1.4,
        borderaxespad=0.15,
    )
    for text in made.get_texts():
        text.set_parse_math(False)
    _title(axes, axes.get_title(loc="left"), math.ceil(len(handles) / columns))


def _title(axes: Axes, text: str, legend_rows: int) -> None:
    if text:
        pad = 8 + _LEGEND_ROW * legend_rows
        axes.set_title(text, loc="left", pad=pad, fontsize=11, fontweight="bold", color=INK)


def note(axes: Axes, text: str) -> None:
    """Words in the middle of axes that have nothing to show."""
    where: dict[str, Any] = {"transform": axes.transAxes, "ha": "center", "va": "center"}
    axes.text(0.5, 0.5, text, fontsize=10, color=SOFT, style="italic", **where)
    axes.set_xticks([])
    axes.set_yticks([])


def bars(axes: Axes, first: int, heights: Column | NDArray[np.int64], color: str, label: str | None = None) -> None:
    """A bar at `first`, `first` + 1, ...; many of them as one outline, because matplotlib takes a minute for 50,000."""
    at = first + np.arange(len(heights))
    if len(heights) <= 50:
        axes.bar(at, heights, width=0.8, color=color, linewidth=0, label=label)
    else:
        edges = first - 0.5 + np.arange(len(heights) + 1)
        axes.fill_between(edges.repeat(2)[1:-1], heights.repeat(2), color=color, linewidth=0, label=label)


def round_axis(axes: Axes, rounds: Column) -> None:
    """Whole numbers on the x axis, and room around a single round."""
    first, last = float(rounds[0]), float(rounds[-1])
    margin = 2.0 if len(rounds) == 1 else max(0.5, 0.03 * (last - first))
    axes.set_xlim(first - margin, last + margin)
    if len(rounds) == 1:
        axes.set_xticks([first], [f"{first:.0f}"])
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10))


def log_axis(axes: Axes, which: str, low: float, high: float) -> None:
    """Axis `which` ("x" or "y") logarithmic, from a little below `low` to a little above `high` (both positive).

    Plain numbers instead of powers, and enough ticks to read a range shorter than a decade.
    """
    low, high = low / 1.6, high * 1.6
    if which == "x":
        axes.set_xscale("log")
        axes.set_xlim(low, high)
        axis = axes.xaxis
    else:
        axes.set_yscale("log")
        axes.set_ylim(low, high)
        axis = axes.yaxis  # type: ignore[assignment]
    steps = (1.0, 2.0, 5.0) if math.log10(high / low) < 2.5 else (1.0,)
    axis.set_major_locator(LogLocator(subs=steps, numticks=12))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1000 else f"{value:g}"))
    axis.set_minor_locator(NullLocator())


def marker_size(points: int) -> float:
    """Markers while points stand apart, none once they crowd together."""
    return 5.0 if points <= 30 else 0.0


def megabytes(value: float) -> str:
    """`value` in MB (10^6 bytes), said in a few characters; GB from 100,000 MB on."""
    if value >= 1e5:
        return f"{value / 1e3:,.0f} GB"
    return f"{value:,.0f} MB" if value >= 100 else f"{value:.3g} MB"
