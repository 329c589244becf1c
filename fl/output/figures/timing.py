"""Where the time of each round went."""

import numpy as np
from matplotlib.axes import Axes

from ..figures import style
from .run_data import RunData

_BARS_UP_TO = 60
_WORTH_SHOWING = 0.01


def draw_time_per_round(axes: Axes, run: RunData, title: str = "") -> None:
    """Training, exchange, evaluation and the rest (checkpoints, say) stacked: bars, or steps for a long run."""
    style.dress(axes, "round", "time of the round (s)", title)
    parts = {
        "training": np.nan_to_num(run["train_s"]),
        "exchange": np.nan_to_num(run["exchange_s"]),
        "evaluation": np.nan_to_num(run["eval_s"]),
    }
    # With --overlap clients train during an exchange: what lasts longer than that is left of it.
    left = np.nan_to_num(run["time_s"]) - parts["training"] - parts["evaluation"]
    parts["exchange"] = np.clip(parts["exchange"], 0, np.maximum(left, 0))
    rest = np.maximum(np.nan_to_num(run["time_s"]) - sum(parts.values()), 0)
    total = float(sum(part.sum() for part in parts.values()) + rest.sum())
    if not total > 0:
        style.note(axes, "no time was recorded")
        return
    if rest.sum() >= _WORTH_SHOWING * total:
        parts["other"] = rest
    x = run["round"]
    values = list(parts.values())
    labels = [f"{name} ({part.sum() / total:.0%})" for name, part in parts.items()]
    colors = [style.BLUE, style.ORANGE, style.GREEN, style.GREY][: len(parts)]
    if run.rounds <= _BARS_UP_TO:
        floor = np.zeros_like(x)
        for value, label, color in zip(values, labels, colors, strict=True):
            axes.bar(x, value, bottom=floor, width=0.72, color=color, label=label, linewidth=0, zorder=3)
            floor = floor + value
    else:
        axes.stackplot(x, *values, labels=labels, colors=colors, linewidth=0, step="mid", zorder=3)
    axes.grid(False, axis="x")
    axes.set_ylim(bottom=0)
    style.round_axis(axes, x)
    style.legend(axes, columns=4)
