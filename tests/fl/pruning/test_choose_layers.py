"""Masks of whole models: protected layers, sparsities of their own, schedules. Oracles: layers named and counted by hand."""

import numpy as np
import pytest
import torch
from torch import Tensor

from compression import Layout
from compression.spec import SpecError
from fl.common.config import ModelOptions
from fl.models import build_model
from fl.pruning.choose import choose_mask, protected_layers
from fl.pruning.schedule import changes_at, parse_prune_schedule, pruning_at, sparsity_at
from fl.pruning.spec import parse_pruning

NOTHING: frozenset[str] = frozenset()


def sparsity_by_layer(mask: Tensor, layout: Layout) -> dict[str, float]:
    """The fraction of each layer that `mask`, bool [n], has dropped; no layer is empty."""
    parts = zip(layout.names, mask.split(layout.sizes), strict=True)
    return {name: 1 - part.count_nonzero().item() / part.numel() for name, part in parts}


def model_layout(name: str) -> Layout:
    model = build_model(ModelOptions(model=name), classes=10, in_channels=3, image_size=32, seed=0)
    return Layout.of(model.named_parameters())


def test_overrides_lie_outside_the_common_budget() -> None:
    """By hand: b.* at 0.5, b.y at 1 by its longer name, the rest at 0.25 in one ranking."""
    layout = Layout(("a", "b.x", "b.y", "c"), ((4, 1), (4, 1), (2, 1), (2, 2)))
    scores = torch.tensor([5.0, 1, 6, 7, 4, 3, 2, 1, 9, 9, 8, 2, 8, 8])
    mask = choose_mask(scores, layout, 0.25, protected=NOTHING, overrides={"b": 0.5, "b.y": 1.0})
    assert mask.int().tolist() == [1, 0, 1, 1, 1, 1, 0, 0, 0, 0, 1, 0, 1, 1]
    assert sparsity_by_layer(mask, layout) == {"a": 0.25, "b.x": 0.5, "b.y": 1.0, "c": 0.25}


def test_a_full_name_reaches_a_protected_layer() -> None:
    """A prefix does not."""
    layout = Layout(("a.weight", "a.bias", "b.weight"), ((4, 1), (4,), (4, 1)))
    scores, protected = torch.arange(12.0), frozenset(("a.bias", "b.weight"))
    mask = choose_mask(scores, layout, 0.0, protected=protected, overrides={"a": 0.5, "b.weight": 0.25})
    assert mask.int().tolist() == [0, 0, 1, 1, 1, 1, 1, 1, 0, 1, 1, 1]


def test_resnet18_keeps_first_last_norms_and_biases() -> None:
    """By the published names; 0.9 of the rest to within one weight, ranked by a sort of all."""
    layout = model_layout("resnet18")
    protected = protected_layers(layout)
    sizes = dict(zip(layout.names, layout.sizes, strict=True))
    shapes = dict(zip(layout.names, layout.shapes, strict=True))
    assert {name for name in protected if len(shapes[name]) > 1} == {"conv1.weight", "fc.weight"}
    assert {name for name in sizes if name not in protected} == {
        name for name in sizes if len(shapes[name]) == 4 and name != "conv1.weight"
    }
    scores = torch.randn(layout.total, generator=torch.Generator().manual_seed(0)).abs_()
    mask = choose_mask(scores, layout, 0.9, min_density=0.05, overrides={"layer4": 0.95})
    found = sparsity_by_layer(mask, layout)
    own = {name for name in sizes if name.startswith("layer4.") and name not in protected}
    common = [name for name in sizes if name not in protected and name not in own]
    assert all(found[name] == 0 for name in protected)
    assert all(found[name] == 1 - (sizes[name] - round(0.95 * sizes[name])) / sizes[name] for name in own)
    prunable = sum(sizes[name] for name in common)
    assert round(sum(found[name] * sizes[name] for name in common)) == round(0.9 * prunable)
    parts = dict(zip(layout.names, zip(scores.split(layout.sizes), mask.split(layout.sizes), strict=True), strict=True))
    bound = np.sort(np.concatenate([parts[name][0].numpy() for name in common]))[round(0.9 * prunable) - 1]
    assert all(torch.equal(parts[name][1], parts[name][0] > bound) for name in common)


def test_protected_by_name_and_prefix() -> None:
    """Only the named ones, or the usual ones as well; nothing."""
    layout = model_layout("resnet18")
    assert protected_layers(layout, ()) == NOTHING
    assert protected_layers(layout, ("fc",)) == {"fc.weight", "fc.bias"}
    block = {name for name in layout.names if name.startswith("layer1.0.")}
    assert protected_layers(layout, ("auto", "layer1.0")) == protected_layers(layout) | block
    with pytest.raises(SpecError, match="there is no layer 'layr1'; did you mean 'layer1'"):
        protected_layers(layout, ("layr1",))


def test_a_model_of_one_layer() -> None:
    """Its only matrix is the first and the last: pruning it has to be asked for."""
    layout = Layout(("weight", "bias"), ((10, 4), (10,)))
    scores = torch.arange(50.0)
    assert protected_layers(layout) == {"weight", "bias"}
    assert choose_mask(scores, layout, 0.0).all()
    with pytest.raises(SpecError, match="every layer is protected; try protect=none"):
        choose_mask(scores, layout, 0.5)
    assert choose_mask(scores, layout, 0.5, protected=frozenset(("bias",))).tolist() == [False] * 20 + [True] * 30
    assert choose_mask(scores, layout, 0.5, overrides={"weight": 0.25}).tolist() == [False] * 10 + [True] * 40


@pytest.mark.parametrize("schedule", ["cubic:1,9,3", "linear:0,8,2", "iterative:2,8,3", "oneshot:4", "constant"])
@pytest.mark.parametrize(
    "option", ["magnitude:0.9,min=0.02,layer2=0.5", "magnitude:0.9,scope=layer,protect=auto+layer3"]
)
def test_every_scheduled_step_hits_its_sparsity(schedule: str, option: str) -> None:
    """A network of ten rounds: at each step the count is the hand-counted one to within one weight, masks nested."""
    layout = Layout(
        ("conv.weight", "conv.bias", "layer1.weight", "layer2.weight", "layer2.bias", "layer3.weight", "fc.weight"),
        ((4, 3, 3, 3), (4,), (64, 48), (48, 33), (48,), (31, 17), (10, 31)),
    )
    stage, pruning = parse_prune_schedule(schedule), parse_pruning(option)
    protected = protected_layers(layout, pruning.protect)
    layers = [("layer1.weight", 64 * 48), *([("layer2.weight", 48 * 33)] if pruning.scope == "layer" else [])]
    common = [*layers, *([("layer3.weight", 31 * 17)] if "layer3.weight" not in protected else [])]
    held = torch.ones(layout.total, dtype=torch.bool)
    for r in range(10):
        if not changes_at(stage, r):
            continue
        now = pruning_at(pruning, stage, r)
        scores = torch.rand(layout.total, generator=torch.Generator().manual_seed(r))
        new = choose_mask(
            scores,
            layout,
            now.sparsity,
            scope=now.scope,
            protected=protected,
            min_density=now.min_density,
            overrides=now.overrides,
            held=held,
        )
        assert not (new & ~held).any()
        found = sparsity_by_layer(new, layout)
        dropped, size = sum(found[name] * n for name, n in common), sum(n for _, n in common)
        slack = len(common) if pruning.scope == "layer" else 1
        assert abs(dropped - sparsity_at(stage, 0.9, r) * size) <= slack
        if now.overrides:
            assert abs(found["layer2.weight"] - sparsity_at(stage, 0.5, r)) * 48 * 33 <= 1
        if pruning.scope == "layer":
            assert all(abs(found[name] - now.sparsity) * n <= 1 for name, n in common)
        assert all(found[name] == 0 for name in protected)
        held = new
    assert sparsity_by_layer(held, layout)["layer1.weight"] > 0.7
