"""Who downloaded, computed, sent and waited, in virtual time."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..figures import style
from .run_data import RunData, TimeData

_BARS = 600  # more of them are a smear
_CLIENTS = 40


def draw_timeline(run: RunData) -> Figure:
    """A figure with a row for each client, from the run's beginning on for as long as its bars can be told apart."""
    assert run.times is not None
    times = run.times
    shown = np.unique(times.client)[:_CLIENTS]
    height = 2.2 + 0.2 * len(shown)
    figure = style.new_figure(9.0, height, f"{run.name}: timeline", run.subtitle)
    _draw(figure.add_subplot(), times, shown)
    return figure


def _draw(axes: Axes, times: TimeData, shown: np.ndarray) -> None:
    style.dress(axes, "virtual time (s)", "client")
    known = np.isin(times.client, shown)
    until = np.sort(times.arrive[known])[: _BARS // 3][-1]
    phases = (
        ("download", style.GREY, times.start, times.ready),
        ("compute", style.BLUE, times.ready, times.sent),
        ("upload", style.ORANGE, times.sent, times.arrive),
    )
    for row, client in enumerate(shown):
        own = (times.client == client) & (times.start < until)
        for label, color, begin, end in phases:
            bars = list(zip(begin[own], end[own] - begin[own], strict=True))
            axes.broken_barh(bars, (row - 0.38, 0.76), color=color, label=label if row == 0 else None, linewidth=0)
    every = -(-len(shown) // 20)
    axes.set_yticks(range(0, len(shown), every), [str(int(client)) for client in shown[::every]])
    axes.set_ylim(len(shown) - 0.4, -0.6)
    axes.set_xlim(0, until)
    axes.grid(False, axis="y")
    style.legend(axes)
