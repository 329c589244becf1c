"""What a model learns: classes, numbers or text. Its loss, its metrics, and which of these is the score that decides."""

from fl.data.dataset import Dataset

from .base import Task
from .classification import Classification
from .language import Language
from .regression import Regression
from .score import ACCURACY, BITS_PER_BYTE, R2, SCORES, Score, score_of

__all__ = [
    "ACCURACY",
    "BITS_PER_BYTE",
    "R2",
    "SCORES",
    "Classification",
    "Language",
    "Regression",
    "Score",
    "Task",
    "make_task",
    "score_of",
]


def make_task(data: Dataset) -> Task:
    """The task that a data set sets: its targets are the next tokens of text, classes, or numbers."""
    if data.is_text:
        return Language(data.classes, data.bytes_per_token)
    return Classification(data.classes, data.class_names) if data.classes else Regression(*data.target)
