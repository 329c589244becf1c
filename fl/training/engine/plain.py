"""Local training with PyTorch alone."""

from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Optimizer

from compression.phases import phase
from fl.common.config import TrainOptions
from fl.common.ranks import Ranks

from .base import LocalEngine, Loss
from .optimizer import make_optimizer
from .precision import autocast_dtype, resolve_precision


class PlainEngine(LocalEngine):
    """A bare PyTorch loop: autocast, gradient clipping, torch.optim, and a GradScaler for fp16."""

    name: ClassVar[str] = "ddp"

    def __init__(
        self,
        options: TrainOptions,
        model: nn.Module,
        device: torch.device,
        loss: Loss = F.cross_entropy,
        peers: Ranks | None = None,
    ) -> None:
        super().__init__(options, model, device, resolve_precision(options.precision, device), loss, peers)
        self._dtype = autocast_dtype(self.precision)
        self._scaler: torch.amp.GradScaler | None = None

    def start(self, lr: float, done: int = 0) -> None:
        """Begin a client: a new optimizer and, for fp16, a new loss scaler."""
        self.model.train()
        self._optimizer = make_optimizer(self._options, self._params, lr)
        self._optimizer.zero_grad()
        self._scaler = torch.amp.GradScaler(self.device.type) if self.precision == "fp16" else None
        self.moved = self._scaler is None

    def step(self, x: Tensor, y: Tensor) -> Tensor:
        optimizer, scaler = self._optimizer, self._scaler
        assert optimizer is not None, "start() comes before step()"
        if scaler is None:
            loss = self._accumulate(x, y, self.loss_of, self._backward)
            self._take_step(optimizer)
            return loss
        loss = self.loss_of(x, y)
        if self.moved:
            self._scaled_step(optimizer, scaler, loss)
        else:
            self._first_step(
                loss, lambda: self._scaled_step(optimizer, scaler, loss, keep_graph=True), scaler.get_scale
            )
        return loss.detach()

    def finish(self) -> None:
        """End the client; the weights are in `model` already."""
        self._optimizer = self._scaler = None

    @property
    def can_halve(self) -> bool:
        return self.precision != "fp16" and self._peers is None and not self._has_hooks()

    @phase("forward")
    def loss_of(self, x: Tensor, y: Tensor) -> Tensor:
        """The loss of the model, as it is now, over a batch: fp32 []."""
        with torch.autocast(self.device.type, dtype=self._dtype, enabled=self._dtype != torch.float32):
            return self.loss(self.network(self._layout(x)), y)

    def _scaled_step(
        self, optimizer: Optimizer, scaler: torch.amp.GradScaler, loss: Tensor, *, keep_graph: bool = False
    ) -> None:
        with phase("backward"):
            scaler.scale(loss).backward(retain_graph=keep_graph)
        with phase("optimizer"):
            if self._options.clip_norm:
                scaler.unscale_(optimizer)
                self._clip()
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()

    @phase("backward")
    def _backward(self, loss: Tensor) -> None:
        loss.backward()

    @phase("optimizer")
    def _take_step(self, optimizer: Optimizer) -> None:
        self._clip()
        optimizer.step()
        optimizer.zero_grad()

    def _clip(self) -> None:
        if self._options.clip_norm:
            nn.utils.clip_grad_norm_(self._params, self._options.clip_norm)
