"""The figures of what a run folder says beyond its rounds: of the test samples, and of each client."""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ..figures import style
from ..predictions import CONFUSION, PREDICTIONS, read_predictions
from .client_scores import draw_client_scores, read_client_scores
from .predictions import draw_confusion, draw_predictions
from .run_data import RunData


def draw_judgements(run: RunData, folder: Path) -> dict[str, Figure]:
    """By name, those of `confusion`, `prediction` and `clients` for which `folder` has the files."""
    figures = {}
    confusion, predictions = (read_predictions(folder / name) for name in (CONFUSION, PREDICTIONS))
    if confusion is not None:
        figures["confusion"] = draw_confusion(run, confusion[0], np.array(confusion[1]))
    if predictions is not None:
        pairs = np.array(predictions[1])
        figures["prediction"] = draw_predictions(run, pairs[:, 0], pairs[:, 1])
    clients = read_client_scores(folder / "client_eval.csv")
    if clients is not None:
        figures["clients"] = style.new_figure(8.0, 5.0, f"{run.name}: clients", run.subtitle)
        draw_client_scores(figures["clients"].add_subplot(), run, *clients)
    return figures
