"""How good the global model is for each client."""

import csv
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, PercentFormatter

from fl.common.errors import DataError

from ..figures import style
from .run_data import RunData


def read_client_scores(path: Path) -> tuple[np.ndarray, np.ndarray] | None:
    """Samples and scores, float64 [clients] each, of the last round in client_eval.csv; clients without a score are left
    out. None without the file, or where nobody has one. DataError if it is malformed."""
    if not path.is_file():
        return None
    with path.open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if None not in row and None not in row.values()]
    try:
        last = [row for row in rows if row["score"] and int(row["round"]) == int(rows[-1]["round"])]
        samples, scores = (np.array([float(row[column]) for row in last]) for column in ("samples", "score"))
    except (KeyError, ValueError) as error:
        raise DataError(f"{path} is not a table of clients' scores ({error})") from None
    return (samples, scores) if last else None


def draw_client_scores(axes: Axes, run: RunData, samples: np.ndarray, scores: np.ndarray) -> None:
    """The clients from the worst to the best, the worst tenth of them marked, and the mean weighted by samples."""
    score = run.score
    style.dress(axes, "clients, from the worst to the best", f"{score.title} on their own samples")
    ordered, worst = score.gain(np.sort(score.gain(scores))), max(1, len(scores) // 10)
    tail = float(ordered[:worst].mean())
    mean = float(np.average(scores, weights=samples))
    style.bars(axes, 1 + worst, ordered[worst:], style.BLUE, "clients")
    label = f"worst tenth, mean {score.words(tail)}"
    style.bars(axes, 1, ordered[:worst], style.ORANGE, label)
    axes.axhline(
        mean, color=style.DENSE, linewidth=1.6, linestyle=(0, (5, 3)), label=f"mean by samples {score.words(mean)}"
    )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=10, min_n_ticks=1))
    axes.grid(False, axis="x")
    axes.set_xlim(0.4, len(scores) + 0.6)
    if score.percent:
        axes.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=None))
        axes.set_ylim(0, 1.01)
    elif score.most is not None:
        axes.set_ylim(max(-1.0, min(0.0, float(ordered[0]))) - 0.02, 1.01)
    style.legend(axes)
