"""What every task says of itself."""

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from ..errors import ConfigError
from .score import Score


class Task(ABC):
    """How outputs of a model are judged against targets `y` [N]: the loss of training, and metrics for people.

    Metrics are functions of all predictions at once, so they cannot depend on how these were shared out among ranks.
    """

    name: ClassVar[str]
    score: ClassVar[Score]
    metrics: ClassVar[tuple[str, ...]]
    """Names of the metrics besides the loss: those of the columns in metrics.csv, after `val_` and `test_`."""

    @abstractmethod
    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """What training makes small, the mean over a batch: fp32 []."""

    @abstractmethod
    def loss_sum(self, outputs: Tensor, y: Tensor) -> Tensor:
        """The sum of the same, for evaluation."""

    @abstractmethod
    def predict(self, outputs: Tensor) -> Tensor:
        """What these fp32 outputs say of each sample, in the terms of `y`: float64 [N]."""

    @abstractmethod
    def rate(self, predictions: Tensor, y: Tensor) -> float | None:
        """The score of predictions, float64 [N] on the CPU, of targets `y` [N]; None where it is not defined."""

    @abstractmethod
    def measure(self, predictions: Tensor, y: Tensor) -> dict[str, float | None]:
        """All metrics by name; arguments as those of `rate`."""

    @abstractmethod
    def fits(self, shape: torch.Size) -> bool:
        """Whether outputs of this shape can be judged."""

    @property
    @abstractmethod
    def wanted(self) -> str:
        """Which outputs can be, in words."""

    @torch.no_grad()
    def check_model(self, name: str, model: nn.Module, x: Tensor) -> None:
        """ConfigError if `--model name` does not take the inputs `x`, float32 [N, ...], or gives other outputs for them than
        this task needs."""
        was_training = model.training
        model.eval()
        try:
            outputs = model(x)
        except (RuntimeError, TypeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise ConfigError(
                f"--model {name} must take a batch of samples of shape {list(x.shape[1:])}, and fails on one ({reason})"
            ) from error
        finally:
            model.train(was_training)
        if not isinstance(outputs, Tensor) or not self.fits(outputs.shape):
            found = list(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
            raise ConfigError(f"--model {name} must give {self.wanted} for {len(x)} samples, not {found}")
