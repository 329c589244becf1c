"""flops. Oracle: 2 for every multiply-add, by hand."""

import pytest
import torch
from torch import nn

from fl.models.surgery.flops import flops
from fl.pruning.structured import shrink
from tests.fl.models.surgery.networks import network

pytestmark = pytest.mark.slow


def test_by_hand() -> None:
    """A linear layer, a convolution, and lenet5."""
    assert flops(nn.Linear(5, 7), torch.zeros(3, 5)) == 2 * 3 * 5 * 7
    assert flops(nn.Conv2d(3, 4, 3), torch.zeros(2, 3, 8, 8)) == 2 * 2 * 6 * 6 * 4 * 3 * 9
    model, _ = network("lenet5")
    layers = 24 * 24 * 6 * 25 + 8 * 8 * 16 * 6 * 25 + 256 * 120 + 120 * 84 + 84 * 10
    assert flops(model, torch.zeros(1, 1, 28, 28)) == 2 * layers


def test_lstm() -> None:
    """Every step multiplies the input and the hidden state with four gates, in both directions."""
    model = nn.LSTM(5, 6, bidirectional=True)
    assert flops(model, torch.zeros(7, 3, 5)) == 2 * 2 * 7 * 3 * 4 * 6 * (5 + 6)


def test_a_sub_model_costs_less() -> None:
    """At 0.4 about 0.36 of ResNet-18; the model stays where it is, and as it is."""
    model, example = network("resnet18 batch")
    share = flops(shrink(model, 0.4, example).model, example) / flops(model, example)
    assert 0.34 < share < 0.38
    assert all(p.device.type == "cpu" and p.requires_grad for p in model.parameters())
    assert not model.training
