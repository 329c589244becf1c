"""Smaller models. Oracles: the full model with zeros where the sub-model holds nothing; torch-pruning's own surgery on a
model whose weights are their own coordinates; indexing the flat vectors."""

from copy import deepcopy

import pytest
import torch
import torch_pruning

from fl.models.surgery.channels import find_groups
from fl.models.surgery.cut import SmallerModel, cut
from fl.pruning.structured import shrink
from fl.pruning.width import width
from tests.fl.models.surgery.networks import NETWORKS, buffers_of, flat_of, network

pytestmark = pytest.mark.slow


def assert_a_part_of(sub: SmallerModel, name: str) -> None:
    """Its forward is the full model's with zeros elsewhere; its numbers are those at its coordinates."""
    model, example = network(name)
    flat, buffers = flat_of(model), buffers_of(model)
    assert sub.n == flat.numel()
    assert sub.buffer_total == buffers.numel()
    for where, total in ((sub.coordinates, sub.n), (sub.buffers, sub.buffer_total)):
        assert where.dtype == torch.int64
        assert bool((where.diff() > 0).all())
        assert where.numel() == 0 or (where[0] >= 0 and where[-1] < total)
    assert torch.equal(flat_of(sub.model), flat[sub.coordinates])
    assert torch.equal(buffers_of(sub.model), buffers[sub.buffers])
    zeroed = deepcopy(model)
    sub.zero_outside(zeroed)
    assert torch.equal(flat_of(zeroed), flat * sub.mask())
    with torch.no_grad():
        expected = zeroed(example)
        torch.testing.assert_close(sub.model(example), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
        assert float((model(example) - expected).abs().max()) > 1e-2 * float(expected.abs().max())


@pytest.mark.parametrize("name", NETWORKS)
def test_a_sub_model_computes_what_the_zeroed_model_does(name: str) -> None:
    """By norm, and a window of the width that wraps."""
    model, example = network(name)
    groups = find_groups(model, example)
    assert_a_part_of(shrink(model, 0.4, groups=groups), name)
    assert_a_part_of(width(model, 0.6, shift=7, groups=groups), name)


@pytest.mark.parametrize("name", ["resnet18 batch", "lenet5"])
def test_coordinates(name: str) -> None:
    """torch-pruning drops the same channels of a float64 copy whose weights are their own coordinates."""
    model, example = network(name)
    groups = find_groups(model, example)
    sub = shrink(model, 0.4, groups=groups)
    numbered = deepcopy(model).double()
    graph = torch_pruning.DependencyGraph().build_dependency(numbered, example.double())
    offset = 0
    for parameter in numbered.parameters():
        parameter.data = torch.arange(offset, offset + parameter.numel()).double().view(parameter.shape)
        offset += parameter.numel()
    for group, kept in zip(groups, sub.kept, strict=True):
        layer = numbered.get_submodule(group.makers[0])
        dropped = sorted(set(range(group.channels)) - set(kept.tolist()))
        graph.get_pruning_group(layer, graph.get_pruner_of_module(layer).prune_out_channels, dropped).prune()
    expected = torch.cat([p.detach().flatten() for p in numbered.parameters()]).long()
    assert torch.equal(sub.coordinates, expected)


def test_gather_and_scatter() -> None:
    """Indexing; gather, then scatter, is the identity where held and zero elsewhere."""
    model, example = network("resnet18 batch")
    sub = shrink(model, 0.5, example)
    flat, buffers = torch.randn(sub.n), torch.rand(sub.buffer_total)
    other = deepcopy(sub.model)
    sub.gather_into(other, flat, buffers)
    assert torch.equal(flat_of(other), flat[sub.coordinates])
    assert torch.equal(buffers_of(other), buffers[sub.buffers])
    assert torch.equal(sub.scatter(flat_of(other)).dense(), flat * sub.mask())
    kept_buffers = torch.rand(sub.buffer_total)
    sub.gather_into(other, flat)
    assert not torch.equal(buffers_of(other), kept_buffers[sub.buffers])


def test_the_model_is_left_alone() -> None:
    """Its bits, its modes, and the global random state; the sub-model shares no memory with it."""
    model, example = network("lenet5")
    model = deepcopy(model).train()
    before, state = flat_of(model), torch.get_rng_state()
    sub = shrink(model, 0.4, example)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in (*model.modules(), *sub.model.modules()))
    with torch.no_grad():
        for parameter in sub.model.parameters():
            parameter.fill_(9)
    assert torch.equal(flat_of(model), before)


def test_it_trains() -> None:
    """Gradients of the sub-model are the zeroed model's at its coordinates."""
    model, example = network("bilstm attention")
    sub = shrink(model, 0.4, example)
    whole = deepcopy(model)
    sub.zero_outside(whole)
    for net in (whole, sub.model):
        net(example).square().sum().backward()
    gradient = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in whole.parameters()])
    own = torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in sub.model.parameters()])
    torch.testing.assert_close(own, gradient[sub.coordinates], rtol=1e-4, atol=1e-5)


def test_frozen_layers_are_cut_but_not_counted() -> None:
    """lenet5 with its first layer frozen: coordinates are of the others, as in the global model."""
    model, example = network("lenet5")
    model = deepcopy(model)
    model.get_submodule("0").requires_grad_(False)
    sub = shrink(model, 0.4, example)
    assert sub.n == 44_426 - 156
    assert [p.requires_grad for p in sub.model.parameters()] == [False, False] + [True] * 8
    assert torch.equal(flat_of(sub.model), flat_of(model)[sub.coordinates])
    assert sub.model.get_submodule("0").weight.shape == (3, 1, 5, 5)


def test_all_channels_are_the_model() -> None:
    """The identity."""
    model, example = network("resnet12")
    groups = find_groups(model, example)
    sub = cut(model, groups, [torch.arange(group.channels) for group in groups])
    assert torch.equal(sub.coordinates, torch.arange(sub.n))
    with torch.no_grad():
        assert torch.equal(sub.model(example), model(example))


def test_everything_lies_on_the_models_device() -> None:
    """Also the coordinates of buffers where there are none. The device is `meta`, which every machine has."""
    model = torch.nn.Sequential(torch.nn.Linear(4, 6), torch.nn.Linear(6, 2))
    groups = find_groups(model, torch.zeros(1, 4))
    sub = cut(model.to("meta"), groups, [torch.arange(3)])
    assert {tensor.device.type for tensor in (sub.coordinates, sub.buffers, *sub.model.parameters())} == {"meta"}
    assert (sub.coordinates.numel(), sub.buffers.numel()) == (4 * 3 + 3 + 3 * 2 + 2, 0)
