"""Which layers were pruned, when, and what was sent of each."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from ..figures import style
from .run_data import LayerData, RunData

_WHITE_TO_BLUE = LinearSegmentedColormap.from_list("white_to_blue", ["#ffffff", "#c3d7ec", "#5f95c9", "#123e70"])
_HELD = "#d3dce5"
_NAMES_UP_TO = 90  # more layers than this get a name for every second, third, ...
_LONGEST_NAME = 36


def draw_layers(run: RunData) -> Figure:
    """Layers from top to bottom: on the left what was pruned by round, on the right what was sent in the last round.

    The figure grows with the number of layers, so that 60 of them can be read.
    """
    layers = run.layers
    assert layers is not None  # the caller looks
    height = 2.2 + 0.165 * min(max(len(layers.names), 12), _NAMES_UP_TO)
    figure = style.new_figure(11, height, f"{run.name}: layers", run.subtitle)
    cells = figure.add_gridspec(1, 2, width_ratios=[1.5, 1], wspace=0.02)
    left = figure.add_subplot(cells[0, 0])
    _draw_pruned(left, layers)
    _draw_sent(figure.add_subplot(cells[0, 1], sharey=left), layers)
    return figure


def _draw_pruned(axes: Axes, layers: LayerData) -> None:
    style.dress(axes, "round", "", "Pruned fraction by round")
    axes.grid(False)
    rounds = layers["round"][:, 0]
    extent = (float(rounds[0]) - 0.5, float(rounds[-1]) + 0.5, len(layers.names) - 0.5, -0.5)
    look: dict[str, Any] = {"aspect": "auto", "interpolation": "nearest", "cmap": _WHITE_TO_BLUE, "vmin": 0, "vmax": 1}
    image = axes.imshow(layers["pruned_fraction"].T, extent=extent, **look)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10, min_n_ticks=1))
    every = -(-len(layers.names) // _NAMES_UP_TO)
    at = np.arange(0, len(layers.names), every)
    names = [style.shorten(layers.names[i], _LONGEST_NAME) for i in at]
    axes.set_yticks(at, names, fontsize=7, parse_math=False)
    for spine in axes.spines.values():
        spine.set_visible(True)
    bar = axes.figure.colorbar(image, ax=axes, location="bottom", pad=0.01, aspect=45, format=PercentFormatter(1.0))
    bar.ax.tick_params(colors=style.SOFT, labelsize=8.5, length=3)
    bar.outline.set_visible(False)


def _draw_sent(axes: Axes, layers: LayerData) -> None:
    style.dress(axes, "fraction of the layer", "", f"Round {layers['round'][-1, 0]:.0f}")
    axes.grid(False, axis="y")
    at, sent = np.arange(len(layers.names)), layers["sent_fraction"][-1]
    axes.barh(at, 1 - layers["pruned_fraction"][-1], height=0.86, color=_HELD, linewidth=0, label="not pruned")
    axes.barh(at, sent, height=0.5, color=style.UPLINK, linewidth=0, label="sent, mean of the clients")
    axes.set_xlim(0, 1.12)
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1.0])
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.tick_params(axis="y", labelleft=False, length=0)
    if len(at) <= _NAMES_UP_TO:
        words = [f"{part:.2%}" if 0 < part < 0.0995 else f"{part:.0%}" for part in sent]
        for row, text in enumerate(words):
            axes.text(1.02, row, text, va="center", fontsize=6.5, color=style.INK)
    style.legend(axes, columns=2)
