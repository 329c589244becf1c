"""What each round cost on the wire, both ways, beside what dense updates would have cost."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from ..figures import style
from .run_data import Column, RunData


def draw_bytes_per_round(axes: Axes, run: RunData, title: str = "") -> None:
    """Lines on a log scale: a compressed round and a dense one may lie three decades apart."""
    style.dress(axes, "round", "sent in the round, all clients (MB, log scale)", title)
    sent = {way: _positive_mb(run, f"{way}_bytes") for way in ("uplink", "downlink")}
    dense = {way: _positive_mb(run, f"{way}_dense_bytes") for way in ("uplink", "downlink")}
    everything = np.concatenate([*sent.values(), *dense.values()])
    everything = everything[np.isfinite(everything)]
    if not len(everything):
        style.note(axes, "nothing was sent")
        return
    for way, color, shape in (("uplink", style.UPLINK, "o"), ("downlink", style.DOWNLINK, "s")):
        ratio = run.reduction(way)
        label = f"{way} ({ratio:,.3g}x less)" if ratio > 1.005 else way
        look: dict[str, Any] = {
            "marker": shape,
            "markersize": style.marker_size(run.rounds),
            "markeredgecolor": "white",
        }
        axes.plot(run["round"], sent[way], color=color, linewidth=1.9, label=label, zorder=3, **look)
    # On top and dashed, so that a direction that is sent dense shows under it.
    same = np.array_equal(dense["uplink"], dense["downlink"], equal_nan=True)
    if same:
        _draw_dense(axes, run, dense["uplink"], "dense, either way", (0, (4, 4)))
    else:
        _draw_dense(axes, run, dense["uplink"], "uplink, dense", (0, (4, 4)))
        _draw_dense(axes, run, dense["downlink"], "downlink, dense", (0, (1.2, 2)))
    style.log_axis(axes, "y", float(everything.min()), float(everything.max()))
    style.round_axis(axes, run["round"])
    style.legend(axes, columns=3 if same else 2)


def _positive_mb(run: RunData, column: str) -> Column:
    """A byte column in MB; NaN instead of zero, which a log axis does not have."""
    return np.where(run[column] > 0, run[column] / 1e6, np.nan)


def _draw_dense(axes: Axes, run: RunData, mb: Column, label: str, dashes: tuple[int, tuple[float, ...]]) -> None:
    look: dict[str, Any] = {"color": style.INK, "alpha": 0.75, "linewidth": 1.4, "linestyle": dashes, "zorder": 4}
    if run.rounds == 1 and np.isfinite(mb).any():
        axes.axhline(mb[0], label=label, **look)  # one point is no line
    elif np.isfinite(mb).any():
        axes.plot(run["round"], mb, label=label, **look)
