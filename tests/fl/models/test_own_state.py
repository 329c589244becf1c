"""What a model keeps for itself. Oracle: what was there at first."""

import random
from collections import deque
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from fl.models.own_state import OwnState, seed_generators


class Keeping(nn.Module):
    """Keeps things of many kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(2, 2)
        self.lstm = nn.LSTM(2, 2)
        self.norm = nn.BatchNorm1d(2)
        self.register_buffer("cache", torch.ones(2), persistent=False)
        self.register_buffer("nothing", None)
        self.hidden: Any = None
        self.tensor, self.array = torch.ones(2), np.ones(2)
        self.queue, self.table = deque([torch.ones(1)], maxlen=3), {"steps": 0, "all": [1, 2]}
        self.both = self.table
        self.view = self.linear.weight.detach()[0]
        self.layers = [self.linear]


def change(model: Keeping) -> None:
    """As a forward pass might."""
    with torch.no_grad():
        model.cache += 1
        model.tensor *= 3
        model.norm.running_mean += 1
        model.linear.weight.fill_(7)
    model.nothing = torch.zeros(3)
    model.hidden = model.linear(torch.ones(1, 2))
    model.array[0] = 5
    model.queue.append(model.hidden)
    model.queue[0].add_(1)
    model.table["steps"] += 1
    model.table["all"].append(3)
    model.late = torch.ones(4)
    model.layers.append(model.lstm)


def test_everything_begins_anew_in_place() -> None:
    """Parameters, exchanged buffers, what shares their memory, and lists of layers are left alone."""
    model = Keeping()
    own = OwnState(model, ["norm.running_mean", "norm.running_var"])
    tensor = model.tensor
    for _ in range(2):
        change(model)
        own.put_back()
        assert model.cache.tolist() == model.tensor.tolist() == model.array.tolist() == [1, 1]
        assert model.tensor is tensor
        assert model.nothing is model.hidden is None
        assert [each.tolist() for each in model.queue] == [[1]]
        assert model.table == {"steps": 0, "all": [1, 2]}
        assert model.both is model.table
        assert not hasattr(model, "late")
        assert model.view.tolist() == model.linear.weight[0].tolist() == [7, 7]
        assert len(model.layers) > 1
    assert model.norm.running_mean.tolist() == [2, 2]
    model.lstm(torch.ones(1, 2))


@pytest.mark.parametrize("make", [lambda: torch.jit.script(nn.Linear(2, 2)), lambda: nn.LazyLinear(2)])
def test_modules_that_are_left_alone(make: Any) -> None:
    """Scripted ones, and those without a shape: they work as before."""
    model = nn.Sequential(make())
    own = OwnState(model)
    model(torch.ones(1, 2))
    own.put_back()
    assert model(torch.ones(1, 2)).shape == (1, 2)


class Generating(nn.Module):
    """Keeps generators of every kind."""

    def __init__(self) -> None:
        super().__init__()
        self.torchs, self.pythons = torch.Generator(), {"one": random.Random()}
        self.numpys = [np.random.default_rng(), np.random.RandomState()]
        self.mersenne = np.random.Generator(np.random.MT19937())

    def draw(self) -> list[float]:
        """A number of each."""
        numbers = [torch.rand((), generator=self.torchs).item(), self.pythons["one"].random(), self.mersenne.random()]
        return [*numbers, *(each.random() for each in self.numpys)]


def test_generators_go_back_to_where_they_were() -> None:
    """Oracle: what they gave the first time."""
    model = Generating()
    own = OwnState(model)
    first = model.draw()
    assert model.draw() != first
    own.put_back()
    assert model.draw() == first


def test_seeded_generators() -> None:
    """Oracles: two models whose generators began with entropy, a later round, and each other."""
    one, other = nn.Sequential(Generating()), nn.Sequential(Generating())
    for model in (one, other):
        seed_generators(model, 5, "a test", 2)
    numbers = one[0].draw()
    assert other[0].draw() == numbers
    assert len(set(numbers)) == len(numbers)
    seed_generators(one, 5, "a test", 3)
    assert set(one[0].draw()).isdisjoint(numbers)


def test_parameters_that_are_frozen_on_the_way() -> None:
    """They want gradients, or not, as at first."""
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    own = OwnState(model)
    model.weight.requires_grad_(False), model.bias.requires_grad_(True)
    own.put_back()
    assert (model.weight.requires_grad, model.bias.requires_grad) == (True, False)
