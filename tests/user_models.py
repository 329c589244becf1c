"""Models that draw, remember and count, as a user would write them, named in tests as `tests.user_models:...`."""

import random
from collections import namedtuple
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

Outputs = namedtuple("Outputs", ["logits", "auxiliary"])


class Head(nn.Module):
    """A linear layer behind average pooling."""

    def __init__(self, classes: int, in_channels: int) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16 * in_channels, classes))

    def forward(self, x: Tensor) -> Any:
        """[batch, channels, height, width] to [batch, classes]."""
        return self.net(x)


class Drawing(Head):
    """Scales its inputs by what three global generators give, in evaluation too."""

    def forward(self, x: Tensor) -> Tensor:
        """As `Head`."""
        return self.net(x * float(np.random.beta(2, 2)) * (0.5 + random.random()) * (0.5 + torch.rand(())))


class Remembering(Head):
    """Keeps a running centre in a buffer outside the state, the last batch's mean in an attribute, and counts in a dict."""

    def __init__(self, classes: int, in_channels: int) -> None:
        super().__init__(classes, in_channels)
        self.register_buffer("centre", torch.zeros(in_channels), persistent=False)
        self.last: Tensor | None = None
        self.seen = {"batches": 0}

    def forward(self, x: Tensor) -> Tensor:
        """As `Head`."""
        mean = x.mean((0, 2, 3)).detach()
        with torch.no_grad():
            self.centre.mul_(0.5).add_(mean, alpha=0.5)
        shift = self.centre if self.last is None else self.centre + self.last
        self.last = mean
        self.seen["batches"] += 1
        return self.net((x - shift.view(1, -1, 1, 1)) / self.seen["batches"])


class Counting(Head):
    """Counts its steps and sets a flag in buffers of the state, and has a table that stays."""

    def __init__(self, classes: int, in_channels: int) -> None:
        super().__init__(classes, in_channels)
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))
        self.register_buffer("begun", torch.zeros(2, dtype=torch.bool))
        self.register_buffer("order", torch.randperm(in_channels))

    def forward(self, x: Tensor) -> Tensor:
        """As `Head`."""
        if self.training:
            self.steps += 1
            self.begun.fill_(True)
        return self.net(x[:, self.order]) / (1 + 0.01 * self.steps)


@dataclass
class Answer:
    """Outputs as transformers' models return them."""

    logits: Tensor
    loss: Tensor | None = None


class Answering(Head):
    """Returns an object in evaluation, and another with auxiliary outputs in training."""

    def forward(self, x: Tensor) -> Any:
        """As `Head`."""
        y = self.net(x)
        return Outputs(y, y) if self.training else Answer(y)


def all_in_one(classes: int, in_channels: int) -> nn.Module:
    """Everything at once, with lazily shaped layers."""

    class All(Drawing):
        def __init__(self) -> None:
            super().__init__(classes, in_channels)
            self.generators = [torch.Generator(), np.random.default_rng()]
            self.register_buffer("mask", torch.full((in_channels, 1, 1), -torch.inf))
            self.counting, self.remembering = Counting(classes, in_channels), Remembering(classes, in_channels)
            self.lazy = nn.Sequential(
                nn.LazyConv2d(4, 5, stride=4), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(classes)
            )

        def forward(self, x: Tensor) -> Any:
            if self.training:
                x = x * torch.rand((), generator=self.generators[0]) * self.generators[1].random()
            x = torch.where(x > self.mask, x, 0.0)
            y = super().forward(x) + self.counting(x) + self.remembering(x) + self.lazy(x)
            return Outputs(y, None) if self.training else y

    return All()


def narrow(classes: int, in_channels: int) -> nn.Module:
    """A network that can be made narrower, with counts and an attribute that lasts from batch to batch."""

    class Narrow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(in_channels, 8, 5, stride=4)
            self.norm = nn.BatchNorm2d(8, momentum=None)
            self.head = Head(classes, 8)
            self.register_buffer("steps", torch.zeros((), dtype=torch.int32))
            self.factor = torch.ones(())

        def forward(self, x: Tensor) -> Tensor:
            if self.training:
                self.steps += 1
                self.factor.mul_(0.9)
            return self.head(torch.relu(self.norm(self.first(x)))) * self.factor

    return Narrow()


def synchronised(classes: int, in_channels: int) -> nn.Module:
    """BatchNorm over the batches of all ranks."""
    return nn.Sequential(nn.SyncBatchNorm(in_channels), Head(classes, in_channels))


class Freezing(Head):
    """Has a second head, which its forward pass freezes and thaws in turn."""

    def __init__(self, classes: int, in_channels: int) -> None:
        super().__init__(classes, in_channels)
        self.second, self.steps = Head(classes, in_channels), 0

    def forward(self, x: Tensor) -> Tensor:
        """As `Head`."""
        if self.training:
            self.steps += 1
            self.second.requires_grad_(self.steps % 2 == 0)
        return self.net(x) + self.second(x)


class Looking(nn.Sequential):
    """Does something else where the values say so."""

    def forward(self, x: Tensor) -> Tensor:
        """The network of the samples, or of their negatives."""
        return super().forward(x if float(x.sum()) > 0 else -x)


def looking(classes: int, in_channels: int) -> nn.Module:
    """A network whose operations cannot be counted without values."""
    return Looking(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16 * in_channels, classes))
