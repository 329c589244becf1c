"""Which client holds how many samples of which class."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.ticker import MaxNLocator

from ..figures import style
from .run_data import RunData

_WHITE_TO_BLUE = LinearSegmentedColormap.from_list("white_to_blue", ["#ffffff", "#c3d7ec", "#5f95c9", "#123e70"])
_NUMBERS_UP_TO = (16, 12)  # clients, classes


def draw_partition(axes: Axes, run: RunData, title: str = "") -> None:
    """A heat map of classes by clients, numbers written in where they fit, and each client's total on top.

    A heat map because it stays readable from 2 clients to 1,000, where bubbles and stacked bars do not.
    """
    style.dress(axes, "client", "class", title)
    axes.grid(False)
    if run.labels is None:
        style.note(axes, "the partition was not recorded")
        return
    if run.labels.shape[1] == 1:  # no classes
        _draw_bars(axes, run.labels[:, 0])
        return
    counts = run.labels.T  # [classes, clients]
    classes, clients = counts.shape
    image = axes.imshow(counts, aspect="auto", interpolation="nearest", cmap=_WHITE_TO_BLUE, vmin=0,
                        vmax=max(1, int(counts.max())))  # fmt: skip
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_locator(MaxNLocator(integer=True, nbins=20, steps=[1, 2, 5, 10], min_n_ticks=1))
    axes.set_xlim(-0.5, clients - 0.5)
    for spine in axes.spines.values():
        spine.set_visible(True)
    bar = axes.figure.colorbar(image, ax=axes, pad=0.015, fraction=0.045, aspect=30)
    bar.set_label("samples", color=style.INK, fontsize=9.5)
    bar.ax.tick_params(colors=style.SOFT, labelsize=8.5, length=3)
    bar.outline.set_visible(False)
    if clients <= _NUMBERS_UP_TO[0] and classes <= _NUMBERS_UP_TO[1]:
        _write_numbers(axes, counts)
    _draw_totals(axes, run.labels.sum(axis=1), title)


def _write_numbers(axes: Axes, counts: np.ndarray) -> None:
    dark = counts.max() * 0.55
    for (row, column), count in np.ndenumerate(counts):
        if count:
            axes.text(column, row, f"{count}", ha="center", va="center", fontsize=7.5,
                      color="white" if count > dark else style.INK)  # fmt: skip


def _draw_bars(axes: Axes, totals: np.ndarray) -> None:
    """How many samples each client holds, where they have no classes."""
    axes.set_ylabel("samples")
    axes.grid(True, axis="y")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=20, steps=[1, 2, 5, 10], min_n_ticks=1))
    _bars(axes, totals)


def _bars(axes: Axes, totals: np.ndarray) -> None:
    axes.grid(False, axis="x")
    style.bars(axes, 0, totals, style.BLUE)


def _draw_totals(axes: Axes, totals: np.ndarray, title: str) -> None:
    """Bars above the map, one per client, in the upper fifth of the place that `axes` had to itself."""
    place = axes.get_subplotspec()
    assert place is not None  # every panel is a subplot
    cells = place.subgridspec(2, 1, height_ratios=[0.2, 1], hspace=0.02)
    axes.set_subplotspec(cells[1])
    axes.set_title("", loc="left")
    top = axes.figure.add_subplot(cells[0], sharex=axes)
    style.dress(top, "", "total", title)
    _bars(top, totals)
    top.yaxis.set_major_locator(MaxNLocator(nbins=2, integer=True))
    top.tick_params(axis="x", labelbottom=False, length=0)
    axes.figure.align_ylabels([axes, top])
