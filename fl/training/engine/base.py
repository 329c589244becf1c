"""The interface of engines, and what all of them do."""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fl.common.config import TrainOptions
from fl.common.ranks import Ranks

from .optimizer import load_moments, read_moments
from .peers import accumulate_together
from .precision import Precision, lay_out, memory_format_for

Loss = Callable[[Tensor, Tensor], Tensor]
"""The mean loss over a batch, fp32 [], of outputs and targets."""


class LocalEngine(ABC):
    """Runs the optimizer steps of one client after another on one fp32 model.

    The caller loads the global weights into `model` before `start` and reads the client's from it after `finish`.
    Nothing passes from one client to the next but what the caller leaves in `model`: optimizer, loss scaler and schedule
    begin anew at every `start`, unless `remember` gives the optimizer what the client kept. No engine waits in `start`,
    `step` or `finish` for a rank that trains another client, so ranks may take different numbers of steps.

    Constructing an engine moves `model` to `device` in the fastest memory format for `precision`, in place: weights
    of convolutions may become channels-last, so copy into them (`copy_`), and take no flat views of them. On a GPU it
    also makes cuDNN deterministic for the whole process, since a run must replay.

    `peers`: the ranks that train a client together, if there are several. Each takes its share of every batch, and their
    gradients are averaged. PeerError if that fails on one of them.

    `network`: what a batch goes through. It is `model`, unless the engine trains a copy.

    `moved`: whether the client has taken a step. In fp16 it may skip all of them, where gradients are not finite.
    """

    name: ClassVar[str]

    def __init__(
        self,
        options: TrainOptions,
        model: nn.Module,
        device: torch.device,
        precision: Precision,
        loss: Loss = F.cross_entropy,
        peers: Ranks | None = None,
    ) -> None:
        if device.type == "cuda":
            torch.backends.cudnn.deterministic = True
            torch.backends.cudnn.benchmark = False
            torch.backends.cudnn.allow_tf32 = precision != "fp32"
        self.precision = precision
        self.loss = loss
        self.memory_format = memory_format_for(device, precision, model)
        self.model = model.to(device=device)
        lay_out(self.model, self.memory_format)
        self.network: nn.Module = self.model
        self.device = device
        self.moved = True
        self._peers = peers
        self._params = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self._options = options
        self._smaller = 1  # by this factor pieces of a batch are smaller, for want of memory
        self._optimizer: Any = None

    @abstractmethod
    def start(self, lr: float, done: int = 0) -> None:
        """Begin a client in a round at learning rate `lr`: everything but the weights in `model` is fresh.

        `done`: steps that it takes in all rounds before, for schedules by step.
        """

    def remember(self, moments: Mapping[str, Tensor]) -> None:
        """After `start`: the client's optimizer goes on from the `moments` of another time, which are only read."""
        load_moments(self._optimizer, self._params, moments)

    def moments(self) -> dict[str, Tensor]:
        """Before `finish`: what the client's optimizer remembers, in new tensors (see `read_moments`)."""
        return read_moments(self._optimizer, self._params)

    def set_rate(self, lr: float) -> None:
        """After `start`: the learning rate from the next step on."""
        for group in self._optimizer.param_groups:
            group["lr"] = lr

    @abstractmethod
    def step(self, x: Tensor, y: Tensor) -> Tensor:
        """One optimizer step on inputs `x` [batch, ...] and their targets `y` [batch].

        Returns the mean loss before the step, detached, fp32 [], on the device. The host does not wait for the
        device, except where fp16 loss scaling (in the first step, or DeepSpeed's optimizers) must look for an overflow.
        """

    @abstractmethod
    def finish(self) -> None:
        """End the client: afterwards `model` holds its fp32 weights and buffers."""

    @property
    def can_halve(self) -> bool:
        """Whether `halves` leaves the gradient of a step as it is (but for layers that look at the batch, BatchNorm)."""
        return False

    @contextlib.contextmanager
    def halves(self) -> Iterator[None]:
        """In this block each step takes its batch in two halves, whose gradients are added up, for want of memory."""
        self._smaller = 2
        try:
            yield
        finally:
            self._smaller = 1

    def _accumulate(
        self, x: Tensor, y: Tensor, loss_of: Callable[[Tensor, Tensor], Tensor], backward: Callable[[Tensor], object]
    ) -> Tensor:
        """Add up the gradient of the mean loss over the batch, by pieces and by ranks; returns that loss, detached."""

        def by_pieces(x: Tensor, y: Tensor, weight: float = 1.0) -> Tensor:
            pieces, losses = min(self._options.pieces(len(y)) * self._smaller, len(y)), []
            for some, targets in zip(x.tensor_split(pieces), y.tensor_split(pieces), strict=True):
                scale = weight * (len(targets) / len(y))
                loss = loss_of(some, targets)
                loss = loss if scale == 1 else loss * scale
                backward(loss)
                losses.append(loss.detach())
            return losses[0] if pieces == 1 else torch.stack(losses).sum()

        if self._peers is not None:
            return accumulate_together(self._peers, self._params, x, y, by_pieces)
        return by_pieces(x, y)

    def _has_hooks(self) -> bool:
        """Whether anything looks at, or changes, the gradient of each backward pass."""
        return any(parameter._backward_hooks for parameter in self.model.parameters())

    def _first_step(
        self,
        loss: Tensor,
        attempt: Callable[[], object],
        scale: Callable[[], float],
        taken: Callable[[], bool] | None = None,
    ) -> None:
        """In fp16, `attempt` the first step of a client again until the loss scale is low enough for it.

        A scale begins high and is halved by each overflow. If every overflow took a step, a client with few of them would
        never move. Once a step was `taken` (by default: the scale was not lowered), a later overflow is skipped.
        """
        while not self.moved:
            tried = scale()
            attempt()
            self.moved = scale() >= tried if taken is None else taken()
            if not 1 <= scale() < tried or not loss.isfinite():
                return

    def _layout(self, x: Tensor) -> Tensor:
        return x.contiguous(memory_format=self.memory_format) if x.dim() == 4 else x
