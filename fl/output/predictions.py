"""All that an evaluated round is judged by, and how it goes into the tables."""

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from fl.common.errors import DataError
from fl.common.names import readable
from fl.data.dataset import Split
from fl.training.client_eval import ClientScores, client_columns
from fl.training.evaluate import Evaluation
from fl.training.tasks import Classification, Task

from .checkpoint import write_bytes

MOST_CLASSES = 100
CONFUSION, PREDICTIONS = "confusion.csv", "predictions.csv"


@dataclass(frozen=True)
class Judgement:
    """The global model on both splits and on the clients' own samples; None: not evaluated."""

    validation: Evaluation | None = None
    test: Evaluation | None = None
    clients: ClientScores | None = None

    def score(self, task: Task) -> float | None:
        """What decisions are made by: the score on the validation split."""
        return None if self.validation is None else self.validation.metrics[task.score.name]

    def columns(self, task: Task) -> dict[str, float | None]:
        """The columns of metrics.csv (see `fl.output.record.metrics_columns`)."""
        found = {
            f"{split}_{name}": None if result is None else result.metrics[name]
            for split, result in (("val", self.validation), ("test", self.test))
            for name in ("loss", *task.metrics)
        }
        if self.clients is not None:
            found |= dict(zip(client_columns(task.score), (self.clients.mean, self.clients.worst), strict=True))
        return found

    def rows(self, round_: int) -> list[dict[str, Any]]:
        """The rows of client_eval.csv."""
        return [] if self.clients is None else self.clients.rows(round_)


def write_predictions(folder: Path, task: Task, test: Split, evaluation: Evaluation) -> Path | None:
    """Write what the model said of the test samples: confusion.csv, or predictions.csv where they are numbers.

    confusion.csv: a row for each class, its name first, then how many of its samples were taken for which class; not for
    more than 100 classes. predictions.csv: `target` and `prediction` of each sample, in the unit of the target.
    """
    y = test.y.cpu()
    if isinstance(task, Classification):
        if task.classes > MOST_CLASSES:
            return None
        counts = task.confusion(evaluation.predictions, y).tolist()
        names = [readable(name) for name in task.class_names]
        rows = [[name, *row] for name, row in zip(names, counts, strict=True)]
        return _write(folder / CONFUSION, ["class", *names], rows)
    pairs = torch.stack((y.double(), evaluation.predictions), dim=1).tolist()
    return _write(folder / PREDICTIONS, ["target", "prediction"], pairs)


def _write(path: Path, header: list[str], rows: list[list[Any]]) -> Path:
    text = io.StringIO(newline="")
    csv.writer(text).writerows([header, *rows])
    write_bytes(path, text.getvalue().encode())
    return path


def read_predictions(path: Path) -> tuple[list[str], list[list[float]]] | None:
    """The header of either file and its rows of numbers, names left out; None without the file. DataError if malformed."""
    if not path.is_file():
        return None
    with open(path, newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    first = int(path.name == CONFUSION)
    header = rows.pop(0) if rows else []
    try:
        numbers = [[float(cell) for cell in row[first:]] for row in rows]
    except ValueError as error:
        raise DataError(f"{path} holds something else than numbers ({error})") from None
    if any(len(row) != len(header) - first for row in numbers) or not rows:
        raise DataError(f"{path} has rows of other lengths than its header, or none")
    return header[first:], numbers
