"""What a model learns: classes or numbers. Its loss, its metrics, and which of these is the score that decides."""

from fl.data.dataset import Dataset

from .base import Task
from .classification import Classification
from .regression import Regression
from .score import ACCURACY, R2, SCORES, Score, score_of

__all__ = ["ACCURACY", "R2", "SCORES", "Classification", "Regression", "Score", "Task", "make_task", "score_of"]


def make_task(data: Dataset) -> Task:
    """The task that a data set sets: its targets are classes, or numbers."""
    return Classification(data.classes, data.class_names) if data.classes else Regression(*data.target)
