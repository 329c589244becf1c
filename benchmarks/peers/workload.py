"""What every contender of `benchmarks/peers.py` trains: the benchmark of pfl-research (Granqvist et al. 2024).

CIFAR-10 among 1,000 clients of 50 images each, 50 of them a round, one epoch in batches of 10, SGD with learning rate 0.1,
the CNN of 1,626,442 parameters. It needs torch, torchvision and this checkout, and so runs in the peers' environments too.
"""

import functools
import json
import sys
import time
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor, nn

from fl.data.cifar10 import load
from fl.models.small import pfl_cnn

CLIENTS, COHORT, BATCH, LR = 1000, 50, 10, 0.1
WARM_UP = 1
"""Rounds that do not count."""


def network() -> nn.Module:
    """The CNN as it is written with PyTorch alone, seeded."""
    torch.manual_seed(0)
    network = pfl_cnn(classes=10, in_channels=3, image_size=32)
    assert isinstance(network, nn.Sequential)
    for at, layer in enumerate(network):
        if isinstance(layer, nn.Dropout):
            network[at] = nn.Dropout(layer.p)
    return network


@functools.cache
def clients(data_dir: str) -> list[tuple[Tensor, Tensor]]:
    """Images fp32 [50, 3, 32, 32] and classes int64 [50] of each client."""
    train = load(Path(data_dir), download=False).train
    order = torch.randperm(len(train.y), generator=torch.Generator().manual_seed(0)).chunk(CLIENTS)
    return [(train.x[part].float().div_(255), train.y[part]) for part in order]


class Rounds:
    """Seconds of each round, told as one line of JSON; rank 0 speaks."""

    def __init__(self) -> None:
        self.times = [time.perf_counter()]

    def end(self) -> None:
        """A round is over."""
        self.times.append(time.perf_counter())

    def tell(self) -> None:
        """Print seconds of the rounds that count."""
        seconds = [after - before for before, after in pairwise(self.times)]
        sys.stdout.write(json.dumps({"round_s": seconds[WARM_UP:]}) + "\n")
