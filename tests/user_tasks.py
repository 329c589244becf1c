"""Data sets and a model of other kinds than images of classes, as a user would write them: `tests.user_tasks:...`."""

from pathlib import Path

import torch
from torch import Tensor, nn

from fl.data import Dataset, Split

NAMES = ("falling", "steady", "rising")


def waves(folder: Path) -> Dataset:
    """Windows [12, 2] of a wave and of noise; the number to predict is the wave's next value, 20 + 8 times a sine. Five
    groups, and a validation split of its own."""
    train, validation, test = (_waves(count, seed) for seed, count in enumerate((300, 60, 90)))
    target = (float(train.y.mean()), float(train.y.std()))
    groups = torch.arange(300) % 5
    return Dataset(
        "waves", train, test, 0, groups=groups, validation=validation, target=target, notes=("made of sines",)
    )


def slopes(folder: Path) -> Dataset:
    """The same windows; the class is whether the wave falls, stands or rises next. No validation split."""
    data = waves(folder)
    train, test = (_slopes(split) for split in (data.train, data.test))
    return Dataset("slopes", train, test, 3, groups=data.groups, class_names=NAMES)


def _waves(count: int, seed: int) -> Split:
    generator = torch.Generator().manual_seed(seed)
    phase = torch.rand(count, 1, generator=generator) * 6.28
    wave = torch.sin(phase + torch.arange(13) * 0.4)
    noise = torch.randn(count, 12, generator=generator)
    return Split(torch.stack((wave[:, :12], noise), dim=2), 20 + 8 * wave[:, 12])


def _slopes(split: Split) -> Split:
    step = (split.y - 20) / 8 - split.x[:, -1, 0]
    return Split(split.x, (step > -0.15).long() + (step > 0.15).long())


class Last(nn.Module):
    """An LSTM, and a linear map of its last state."""

    def __init__(self, features: int, outputs: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(features, 8, batch_first=True)
        self.linear = nn.Linear(8, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[batch, steps, features] to [batch, outputs]."""
        return self.linear(self.lstm(x)[0][:, -1])


def last(classes: int, in_channels: int) -> nn.Module:
    """The model; one output where `classes` is 1."""
    return Last(in_channels, classes)


def two(classes: int, in_channels: int) -> nn.Module:
    """A model with an output too many."""
    return Last(in_channels, classes + 1)
