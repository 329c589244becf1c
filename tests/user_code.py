"""Models and data sets as a user would write them, named in tests as `tests.user_code:...`."""

import dataclasses
import os
import time
from pathlib import Path
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fl.data import Dataset, Split
from fl.data.digits import load


def norm_model(classes: int, in_channels: int) -> nn.Module:
    """A small network with BatchNorm, for images of any size."""
    return nn.Sequential(
        nn.Conv2d(in_channels, 4, 5, stride=4),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(64, classes),
    )


def flat_norm_model(classes: int, in_channels: int) -> nn.Module:
    """BatchNorm over one value a channel and sample."""
    return nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(in_channels), nn.Linear(in_channels, classes)
    )


def linear_model(classes: int, in_channels: int) -> nn.Module:
    """One layer, which cannot be narrowed."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(16 * in_channels, classes))


def dense_model(classes: int, in_channels: int) -> nn.Module:
    """Layers that several clients can train at once."""
    return nn.Sequential(nn.Flatten(), nn.LazyLinear(8), nn.Tanh(), nn.Linear(8, classes))


class Steep(nn.Sequential):
    """Its outputs are finite and its gradients are not: the square root of zero is infinitely steep."""

    def forward(self, x: Tensor) -> Tensor:
        """The network."""
        outputs: Tensor = super().forward(x)
        return outputs + (outputs * 0).sqrt()


def steep_model(classes: int, in_channels: int) -> nn.Module:
    """`linear_model` whose gradients are NaN."""
    return Steep(*linear_model(classes, in_channels))


class Mixing(nn.Module):
    """Divides channels by their mean: none can go without changing the others. Zeros in give zeros out."""

    def forward(self, x: Tensor) -> Tensor:
        """[batch, channels, height, width], scaled."""
        return x / (x.abs().mean(1, keepdim=True) + 1e-3)


def mixing_model(classes: int, in_channels: int) -> nn.Module:
    """A network without biases whose channels depend on one another."""
    return nn.Sequential(
        nn.Conv2d(in_channels, 4, 5, stride=4, bias=False),
        Mixing(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(64, classes, bias=False),
    )


class Failing(nn.Sequential):
    """Raises in training on rank TEST_FAILING_RANK at its TEST_FAILING_PASS-th forward pass, counted while both are set.

    The first two passes are those of the trial before the first round.
    """

    passes: ClassVar[list[int]] = [0]  # of the class: what an instance keeps begins anew for every client

    def forward(self, x: Tensor) -> Tensor:
        """The network, or the failure."""
        if self.training and "TEST_FAILING_RANK" in os.environ:
            self.passes[0] += 1
            mine = os.environ.get("RANK", "0") == os.environ["TEST_FAILING_RANK"]
            if mine and self.passes[0] == int(os.environ["TEST_FAILING_PASS"]):
                raise ValueError("the user's model has failed")
        return super().forward(x)


def failing_model(classes: int, in_channels: int) -> nn.Module:
    """`norm_model` that fails where TEST_FAILING_RANK and TEST_FAILING_PASS say, if they are set."""
    return Failing(*norm_model(classes, in_channels))


def few_digits(folder: Path) -> Dataset:
    """The first 200 training digits, and 100 to test on."""
    whole = load(folder, False)
    train, test = whole.train.take(torch.arange(200)), whole.test.take(torch.arange(100))
    return Dataset("few", train, test, classes=10, augment="crop:2")


def few_digits_wrongly_tested(folder: Path) -> Dataset:
    """`few_digits` with other labels, in another order, in the test split."""
    data = few_digits(folder)
    order = torch.randperm(len(data.test), generator=torch.Generator().manual_seed(1))
    test = Split(data.test.x[order], (data.test.y + 3) % 10)
    return Dataset("few", data.train, test, classes=10, augment="crop:2")


def make_hook(factor: float = 1.0) -> tuple[dict[str, float], Any]:
    """A DDP hook with a state: the average times `factor`."""
    return {"factor": factor}, _scaled_average


def _scaled_average(state: dict[str, float], bucket: Any) -> torch.futures.Future[Tensor]:
    buffer = bucket.buffer().mul_(state["factor"] / dist.get_world_size())
    return dist.all_reduce(buffer, async_op=True).get_future().then(lambda done: done.value()[0])


def samples_of_this_rank(data_dir: Path) -> Dataset:
    """Digits, of which rank 1 lacks the first."""
    data = load(data_dir, False)
    first = dist.get_rank() if dist.is_initialized() else 0
    return dataclasses.replace(data, train=data.train.take(torch.arange(first, len(data.train))))


def digits_once_there_is_a_file(folder: Path) -> Dataset:
    """Scikit-learn's digits, when the folder holds a file `go`."""
    while not (folder / "go").exists():
        time.sleep(0.1)
    return load(folder, False)


def samples_in_groups(folder: Path) -> Dataset:
    """What `samples.pt` holds: `x`, `y` (0 and 1) and `groups`."""
    saved = torch.load(folder / "samples.pt")
    train = Split(saved["x"], saved["y"])
    return Dataset("samples", train, train, classes=2, groups=saved["groups"], validation=train)


def dropping_model(classes: int, in_channels: int) -> nn.Module:
    """One layer after dropout, which draws from the global generator."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Dropout(0.2), nn.Linear(16 * in_channels, classes))
