"""The interface of tasks."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from fl.common.errors import ConfigError
from fl.common.generators import seeded
from fl.common.plugin import reason
from fl.common.surroundings import kept_surroundings
from fl.models.trial import average_counts, counts_of, refuse_sparse_gradients, remember, run_once

from .score import Score

BATCH = 500


class Task(ABC):
    """How outputs of a model are judged against targets `y` [N], or [N, T] of text: the loss of training,
    and metrics for people.

    Metrics are functions of all predictions at once, so they cannot depend on how these were shared out among ranks.
    """

    name: ClassVar[str]
    score: ClassVar[Score]
    metrics: ClassVar[tuple[str, ...]]
    """Names of the metrics besides the loss: those of the columns in metrics.csv, after `val_` and `test_`."""

    def at_once(self, y: Tensor) -> int:
        """How many samples with targets like `y` are judged at once."""
        return BATCH

    @abstractmethod
    def loss(self, outputs: Tensor, y: Tensor) -> Tensor:
        """The loss of training, the mean over a batch: fp32 []."""

    @abstractmethod
    def loss_sum(self, outputs: Tensor, y: Tensor) -> Tensor:
        """The sum of the same, for evaluation."""

    @abstractmethod
    def predict(self, outputs: Tensor, y: Tensor) -> Tensor:
        """What metrics need of each sample's fp32 outputs, float64 [N]: the prediction, in the terms of `y`."""

    @abstractmethod
    def rate(self, predictions: Tensor, y: Tensor) -> float | None:
        """The score of predictions, float64 [N] on the CPU, of targets `y`; None where it is not defined."""

    @abstractmethod
    def measure(self, predictions: Tensor, y: Tensor) -> dict[str, float | None]:
        """All metrics by name; arguments as those of `rate`."""

    @abstractmethod
    def fits(self, shape: torch.Size) -> bool:
        """Whether outputs of this shape can be judged."""

    @property
    @abstractmethod
    def wanted(self) -> str:
        """The outputs that this task can judge, in words."""

    def check_model(self, name: str, model: nn.Module, x: Tensor, y: Tensor | None = None) -> None:
        """ConfigError if `--model name` does not take the inputs `x`, [N, ...], in evaluation, or gives other
        outputs for them than this task needs, or others each time; with targets `y`, also if it cannot be trained on
        them. Counts and flags that training changes are marked to be averaged; nothing else about the model changes."""
        was_training, put_back = model.training, remember(model)
        try:
            with kept_surroundings(), seeded(0, "trial"):
                with torch.no_grad():
                    self._outputs(name, model, x, put_back, training=False)
                changed = [] if y is None else self._try_step(name, model, x, y, put_back)
        finally:
            put_back()
            model.zero_grad()
            model.train(was_training)
        average_counts(model, changed)

    def _outputs(
        self, name: str, model: nn.Module, x: Tensor, put_back: Callable[[], None], *, training: bool
    ) -> Tensor:
        """What the model gives, twice from the same state and with the same random numbers, and must be the same."""
        found = []
        for _ in range(2):
            put_back()
            with seeded(0, "trial"):
                found.append(run_once(name, model, x, training=training))
            self._check_outputs(name, found[-1], x, "training" if training else "evaluation")
        if not torch.equal(*found):
            raise ConfigError(
                f"--model {name} gives other outputs each time in {'training' if training else 'evaluation'}, so a run "
                "would not replay: draw from the generators of torch, NumPy or random, or from one that the module keeps in "
                "an attribute, and count in buffers or attributes of the module"
            )
        return found[-1]

    def _try_step(self, name: str, model: nn.Module, x: Tensor, y: Tensor, put_back: Callable[[], None]) -> list[str]:
        """As in training; the names of the counts and flags that this changes."""
        put_back()
        before = counts_of(model)
        outputs = self._outputs(name, model, x, put_back, training=True)
        try:
            self.loss(outputs, y).backward()
        except ConfigError:
            raise
        except Exception as error:
            raise ConfigError(
                f"--model {name} has outputs that no gradient comes back from ({reason(error)})"
            ) from error
        refuse_sparse_gradients(name, model)
        return [key for key, count in counts_of(model).items() if not torch.equal(count, before[key])]

    def _check_outputs(self, name: str, outputs: Any, x: Tensor, mode: str) -> None:
        if not isinstance(outputs, Tensor) or not self.fits(outputs.shape):
            found = list(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
            hint = (
                ""
                if isinstance(outputs, Tensor)
                else ": return that tensor, a tuple that begins with it, or an object or dict that has it as `logits`"
            )
            raise ConfigError(
                f"--model {name} must give {self.wanted} for {len(x)} samples, not {found} in {mode}{hint}"
            )
        if not outputs.is_floating_point():
            raise ConfigError(f"--model {name} must give floating-point outputs, not {outputs.dtype} in {mode}")
        if not bool(outputs.isfinite().all()):
            raise ConfigError(
                f"--model {name} gives NaN or infinity for the first samples in {mode}, before any training"
            )
