"""All that an evaluated round is judged by, and how it goes into the tables."""

import csv
import io
from pathlib import Path
from typing import Any

import torch

from fl.common.errors import DataError
from fl.common.files import write_bytes
from fl.common.names import readable
from fl.data.dataset import Split
from fl.training.evaluate import Evaluation
from fl.training.tasks import Classification, Regression, Task

MOST_CLASSES = 100
CONFUSION, PREDICTIONS = "confusion.csv", "predictions.csv"


def write_predictions(folder: Path, task: Task, test: Split, evaluation: Evaluation) -> Path | None:
    """Write what the model said of the test samples: confusion.csv, or predictions.csv where they are numbers.

    confusion.csv: a row for each class, its name first, then how many of its samples were taken for which class; not for
    more than 100 classes. predictions.csv: `target` and `prediction` of each sample, in the unit of the target. Of text,
    neither.
    """
    y = test.y.cpu()
    if isinstance(task, Classification):
        if task.classes > MOST_CLASSES:
            return None
        counts = task.confusion(evaluation.predictions, y).tolist()
        names = [readable(name) for name in task.class_names]
        rows = [[name, *row] for name, row in zip(names, counts, strict=True)]
        return _write(folder / CONFUSION, ["class", *names], rows)
    if not isinstance(task, Regression):
        return None
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
