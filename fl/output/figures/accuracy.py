"""How good the model became: its score, against rounds and against bytes sent, and its loss."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from ..figures import style
from .run_data import Column, RunData


def draw_accuracy_vs_round(axes: Axes, run: RunData, title: str = "") -> None:
    """Validation and test score by round; a star marks the best round on validation."""
    style.dress(axes, "round", run.score.title, title)
    if not _draw(axes, run["round"], run):
        return
    style.round_axis(axes, run["round"])
    style.legend(axes)


def draw_accuracy_vs_bytes(axes: Axes, run: RunData, title: str = "") -> None:
    """The same against all bytes the clients have sent so far, with what dense updates would have cost."""
    style.dress(axes, "uplink so far, all clients (MB, log scale)", run.score.title, title)
    sent = run.cumulative_mb("uplink_bytes")
    if not _draw(axes, np.where(sent > 0, sent, np.nan), run):
        return
    reached = sent[sent > 0]
    dense = float(run.cumulative_mb("uplink_dense_bytes")[-1])
    if dense > 0:
        axes.axvline(dense, color=style.DENSE, linewidth=1.6, linestyle=(0, (5, 3)))
        axes.annotate(
            f"dense updates: {style.megabytes(dense)} ({run.reduction('uplink'):,.3g}x)",
            xy=(dense, 0.03),
            xycoords=("data", "axes fraction"),
            xytext=(-4, 0),
            textcoords="offset points",
            rotation=90,
            ha="right",
            va="bottom",
            fontsize=8.5,
            color=style.SOFT,
        )
        reached = np.append(reached, dense)
    style.log_axis(axes, "x", float(reached.min()), float(reached.max()))
    style.legend(axes)


def draw_loss_vs_round(axes: Axes, run: RunData, title: str = "") -> None:
    """Mean training loss of the clients, and validation loss of the global model."""
    style.dress(axes, "round", "loss", title)
    drawn = [
        _line(axes, run["round"], run["train_loss"], "training (clients)", style.TRAIN, "-"),
        _line(axes, run["round"], run["val_loss"], "validation (global)", style.VALIDATION, "-"),
    ]
    if not any(drawn):
        style.note(axes, "no loss was recorded")
        return
    style.round_axis(axes, run["round"])
    style.legend(axes)


def _draw(axes: Axes, x: Column, run: RunData) -> bool:
    """Both scores against `x` and the best validation round; False, with a note, if there is nothing."""
    score = run.score
    validated, tested = (run[column] for column in score.columns)
    drawn = [
        _line(axes, x, validated, "validation", style.VALIDATION, "-"),
        _line(axes, x, tested, "test", style.TEST, "--"),
    ]
    if not any(drawn):
        style.note(axes, f"no {score.title} was recorded")
        return False
    if drawn[0]:
        validation = np.where(np.isfinite(x), validated, np.nan)
        best = int(np.nanargmax(score.gain(validation)))
        look: dict[str, Any] = {"color": style.VALIDATION, "markersize": 13, "markeredgecolor": "white", "zorder": 4}
        label = f"best on validation (round {run['round'][best]:.0f})"
        axes.plot(x[best], validation[best], "*", label=label, **look)
    if score.percent:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
    axes.yaxis.set_major_locator(MaxNLocator(nbins=8, steps=[1, 2, 2.5, 5, 10]))
    if score.most is None:
        return True
    low, high = axes.get_ylim()
    # An R2 far below 0, as that of a first round, would press all that matters into a line.
    floor = -0.01 if score.percent else -1.0 if high > -1 else low
    axes.set_ylim(max(low, floor), min(high, score.most + 0.01))
    return True


def _line(axes: Axes, x: Column, y: Column, label: str, color: str, dashes: str) -> bool:
    """One series through its finite points; False if there are none."""
    known = np.isfinite(x) & np.isfinite(y)
    if not known.any():
        return False
    size = style.marker_size(int(known.sum()))
    look: dict[str, Any] = (
        {"marker": "o", "markersize": size, "markeredgecolor": "white", "markeredgewidth": 0.6} if size else {}
    )
    axes.plot(x[known], y[known], dashes, color=color, linewidth=1.9, label=label, zorder=3, **look)
    return True
