"""width. Oracle: slices of the weights by hand, as HeteroFL and FedRolex define them."""

import itertools

import pytest
import torch
from torch import nn

from fl.models.surgery.channels import find_groups
from fl.pruning.width import Scaler, width
from tests.fl.models.surgery.networks import network


def test_heterofl_keeps_the_first() -> None:
    """Prefixes of every layer, rounded up: 3 of 6, 8 of 16, ...; all inputs and outputs stay."""
    model, example = network("lenet5")
    sub = width(model, 0.5, example)
    assert torch.equal(sub.model.get_submodule("0").weight, model.get_submodule("0").weight[:3])
    assert torch.equal(sub.model.get_submodule("3").weight, model.get_submodule("3").weight[:8, :3])
    assert torch.equal(sub.model.get_submodule("11").weight, model.get_submodule("11").weight[:, :42])
    assert [kept.numel() for kept in width(model, 0.3, example).kept] == [2, 5, 36, 26]


def test_narrow_models_are_nested() -> None:
    """HeteroFL's point."""
    model, example = network("resnet18 group")
    groups = find_groups(model, example)
    masks = [width(model, ratio, groups=groups).mask() for ratio in (0.0625, 0.25, 0.5, 1.0)]
    for smaller, larger in itertools.pairwise(masks):
        assert bool((smaller <= larger).all())
    assert bool(masks[-1].all())


def test_fedrolex_rolls() -> None:
    """A window that starts at the shift and wraps; over as many rounds as channels, each is held equally often."""
    model, example = network("lenet5")
    groups = find_groups(model, example)
    assert width(model, 0.5, groups=groups, shift=4).kept[0].tolist() == [0, 4, 5]
    assert width(model, 0.5, groups=groups, shift=6).kept[0].tolist() == [0, 1, 2]
    held = torch.zeros(16)
    for shift in range(16):
        held[width(model, 0.25, groups=groups, shift=shift).kept[1]] += 1
    assert held.tolist() == [4.0] * 16


def test_scaler() -> None:
    """Every narrowed layer's output over the ratio while training, nothing in evaluation; names do not change."""
    model, example = network("lenet5")
    plain, scaled = width(model, 0.5, example), width(model, 0.5, example, scaler=True)
    assert list(plain.model.state_dict()) == list(scaled.model.state_dict())
    assert torch.equal(scaled.model(example), plain.model(example))
    by_hand = plain.model(example)
    x = example
    for name, module in plain.model.named_children():
        x = module(x) / 0.5 if name in ("0", "3", "7", "9") else module(x)
    scaled.model.train()
    assert torch.equal(scaled.model(example), x)
    assert not torch.equal(x, by_hand)
    assert not list(_scalers(width(model, 1.0, example, scaler=True).model))
    assert not list(_scalers(model))


def _scalers(model: nn.Module) -> list[Scaler]:
    return [hook for module in model.modules() for hook in module._forward_hooks.values() if isinstance(hook, Scaler)]


@pytest.mark.parametrize("ratio", [0.0, -0.5, 1.5])
def test_refused(ratio: float) -> None:
    """Ratios outside (0, 1]."""
    with pytest.raises(ValueError, match="above 0 and at most 1"):
        width(*network("lenet5")[:1], ratio, network("lenet5")[1])
