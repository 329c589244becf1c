"""A number."""

import math
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from .base import Task
from .score import R2, Score

NEAR_ZERO = 0.1


class Regression(Task):
    """Outputs [N, 1] or [N] are (y - mean) / deviation; the loss is their mean squared error.

    The metrics are in the unit of `y`: `mse` and `mae`, the mean squared and absolute error; `mape`, the mean of
    |error| / |y| as a fraction, over the samples whose |y| is at least a tenth of the deviation, since near 0 it says
    nothing; `r2`, 1 - (sum of squared errors) / (sum of squared distances of y from its mean), at most 1, 0 for a model
    that always says the mean of these samples. `mape` and `r2` are None where nothing is left to divide by, and `r2` for
    predictions that are not finite.
    """

    name: ClassVar[str] = "regression"
    score: ClassVar[Score] = R2
    metrics: ClassVar[tuple[str, ...]] = ("mse", "mae", "mape", "r2")

    def __init__(self, mean: float, deviation: float) -> None:
        self.mean = mean
        self.deviation = deviation

    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        return F.mse_loss(*self._scaled(outputs, y))

    def loss_sum(self, outputs: Tensor, y: Tensor) -> Tensor:
        return F.mse_loss(*self._scaled(outputs, y), reduction="sum")

    def _scaled(self, outputs: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        return outputs.float().view(y.shape), (y - self.mean) / self.deviation

    def predict(self, outputs: Tensor, y: Tensor) -> Tensor:
        return outputs.double().view(len(outputs)) * self.deviation + self.mean

    def rate(self, predictions: Tensor, y: Tensor) -> float | None:
        y = y.double()
        total = float((y - y.mean()).square().sum()) if len(y) else 0.0
        error = float((predictions - y).square().sum())
        return 1 - error / total if total and math.isfinite(error) else None  # not finite: the model has diverged

    def measure(self, predictions: Tensor, y: Tensor) -> dict[str, float | None]:
        error = predictions - y.double()
        away = y.abs() >= NEAR_ZERO * self.deviation
        relative = error.abs()[away] / y[away].double().abs()
        return {
            "mse": float(error.square().mean()) if len(y) else None,
            "mae": float(error.abs().mean()) if len(y) else None,
            "mape": float(relative.mean()) if len(relative) else None,
            "r2": self.rate(predictions, y),
        }

    def fits(self, shape: torch.Size) -> bool:
        return len(shape) == 1 or (len(shape) == 2 and shape[1] == 1)

    @property
    def wanted(self) -> str:
        return "one number for each sample, [N, 1] or [N],"
