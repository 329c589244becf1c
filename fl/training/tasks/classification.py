"""One of several classes."""

from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from .base import Task
from .score import ACCURACY, Score


class Classification(Task):
    """Outputs [N, classes] are logits; the loss is the cross-entropy.

    `accuracy`, 0 ... 1: the fraction of samples whose class has the largest logit. `macro_f1`, 0 ... 1: the mean over
    classes of 2 TP / (2 TP + FP + FN), over those that occur among targets or predictions.
    """

    name: ClassVar[str] = "classification"
    score: ClassVar[Score] = ACCURACY
    metrics: ClassVar[tuple[str, ...]] = ("accuracy", "macro_f1")

    def __init__(self, classes: int, class_names: tuple[str, ...] = ()) -> None:
        self.classes = classes
        self.class_names = class_names or tuple(str(label) for label in range(classes))

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(outputs, y)

    def loss_sum(self, outputs: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(outputs, y, reduction="sum")

    def predict(self, outputs: Tensor, y: Tensor) -> Tensor:
        """Numbers of classes, float64 [N]."""
        return outputs.argmax(1).double()

    def rate(self, predictions: Tensor, y: Tensor) -> float | None:
        return int((predictions == y).sum()) / len(y) if len(y) else None

    def measure(self, predictions: Tensor, y: Tensor) -> dict[str, float | None]:
        counts = self.confusion(predictions, y)
        right, told, there = counts.diag().double(), counts.sum(0), counts.sum(1)
        occurs = told + there > 0
        f1 = 2 * right[occurs] / (told + there)[occurs]
        return {"accuracy": self.rate(predictions, y), "macro_f1": float(f1.mean()) if len(y) else None}

    def confusion(self, predictions: Tensor, y: Tensor) -> Tensor:
        """How many samples of each class (rows) were taken for which (columns): int64 [classes, classes]."""
        cells = y * self.classes + predictions.long()
        return torch.bincount(cells, minlength=self.classes**2).view(self.classes, self.classes)

    def fits(self, shape: torch.Size) -> bool:
        return len(shape) == 2 and shape[1] == self.classes

    @property
    def wanted(self) -> str:
        return f"one output for each of the {self.classes} classes, [N, {self.classes}],"
