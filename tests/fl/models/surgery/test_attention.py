"""Heads of attention. Oracles: torch's own attention with the same weights; the whole model with zeros where the
sub-model holds nothing; slices by hand."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from fl.models.surgery.attention import HeadAttention
from fl.models.surgery.channels import find_groups
from fl.models.surgery.cut import SmallerModel
from fl.models.surgery.flops import flops
from fl.pruning.structured import shrink
from fl.pruning.width import width
from tests.fl.models.surgery.attention_networks import (
    NETWORKS,
    attention_of,
    network,
    number_of_heads,
    torch_attention,
    without_two_heads,
)
from tests.fl.models.surgery.networks import flat_of


def from_torch(theirs: nn.MultiheadAttention) -> HeadAttention:
    """Ours with copies of the weights of torch's."""
    ours = HeadAttention(
        theirs.embed_dim, theirs.num_heads, dropout=theirs.dropout, bias=theirs.in_proj_bias is not None
    )
    state = {f"out.{name}": tensor for name, tensor in theirs.out_proj.state_dict().items()}
    for kind, joined in (("weight", theirs.in_proj_weight), ("bias", theirs.in_proj_bias)):
        if joined is not None:
            state |= {f"{name}.{kind}": part for name, part in zip("qkv", joined.detach().chunk(3), strict=True)}
    ours.load_state_dict(state)
    return ours.train(theirs.training)


def gradient_of(model: nn.Module) -> Tensor:
    """Of all parameters, flat."""
    return torch.cat([torch.empty(0) if p.grad is None else p.grad.flatten() for p in model.parameters()])


def assert_a_part_of(sub: SmallerModel, model: nn.Module, example: Tensor) -> None:
    """It computes what the model with zeros elsewhere does, and not what the whole one does."""
    zeroed = deepcopy(model)
    sub.zero_outside(zeroed)
    with torch.no_grad():
        expected = zeroed(example)
        scale = float(expected.abs().max())
        torch.testing.assert_close(sub.model(example), expected, rtol=0, atol=1e-5 * scale)
        assert float((model(example) - expected).abs().max()) > 1e-3 * scale


@pytest.mark.parametrize("bias", [True, False])
def test_computes_what_torch_does(bias: bool) -> None:
    """Forward and gradients with the same weights."""
    theirs, x = torch_attention(bias=bias, dropout=0.1), torch.randn(2, 7, 12)
    ours = from_torch(theirs)
    assert (ours.heads, ours.head_dim, ours.dropout, ours.training) == (4, 3, 0.1, False)
    expected = theirs(x, x, x)[0]
    torch.testing.assert_close(ours(x), expected)
    expected.square().sum().backward()
    ours(x).square().sum().backward()
    joined = torch.cat([gradient_of(layer)[: 12 * 12] for layer in (ours.q, ours.k, ours.v)])
    gradient = gradient_of(theirs)[: 3 * 12 * 12]
    torch.testing.assert_close(joined, gradient, rtol=0, atol=1e-5 * float(gradient.abs().max()))


def test_dropout_is_for_training() -> None:
    """Two passes in training differ, in evaluation they do not; without dropout they never do."""
    x = torch.randn(2, 7, 12)
    attention = HeadAttention(12, 4, dropout=0.5)
    assert not torch.equal(attention(x), attention(x))
    assert torch.equal(attention.eval()(x), attention(x))
    attention = HeadAttention(12, 4)
    assert torch.equal(attention(x), attention(x))


@pytest.mark.parametrize("name", NETWORKS)
def test_heads_are_a_group(name: str) -> None:
    """A head stays or goes whole: its rows of queries, keys and values, its columns of the output."""
    model, example = network(name)
    groups = find_groups(model, example)
    group = groups[number_of_heads(groups)]
    attention = attention_of(model)
    assert (group.units, group.block) == (4, attention.head_dim)
    inner = 4 * attention.head_dim
    kinds = ["weight"] if name == "without bias" else ["weight", "bias"]
    rows = {(f"attention.{layer}.{kind}", 0) for layer in "qkv" for kind in kinds}
    assert {(part.tensor, part.dim) for part in group.cuts} == rows | {("attention.out.weight", 1)}
    for part in group.cuts:
        assert part.positions.tolist() == part.channels.tolist() == list(range(inner))


@pytest.mark.parametrize("name", NETWORKS)
def test_half_of_the_heads(name: str) -> None:
    """Heads 1 and 3 alone compute what all do with the weights of heads 0 and 2 zero."""
    model, example = network(name)
    sub = without_two_heads(model, example)
    whole, small = attention_of(model), attention_of(sub.model)
    size = whole.head_dim
    rows = torch.cat([torch.arange(size, 2 * size), torch.arange(3 * size, 4 * size)])
    assert (small.heads, small.head_dim, small.q.in_features) == (2, size, whole.q.in_features)
    for layer in "qkv":
        assert torch.equal(getattr(small, layer).weight, getattr(whole, layer).weight[rows])
    assert torch.equal(small.out.weight, whole.out.weight[:, rows])
    assert_a_part_of(sub, model, example)


@pytest.mark.parametrize("name", NETWORKS)
def test_all_channels_shrink(name: str) -> None:
    """By norm, and a window of the width that wraps: heads, and channels into and out of the attention."""
    model, example = network(name)
    groups = find_groups(model, example)
    for sub in (shrink(model, 0.5, groups=groups), width(model, 0.5, shift=3, groups=groups)):
        small = attention_of(sub.model)
        expected = attention_of(model).q.in_features // 2
        assert (small.heads, small.q.in_features, small.out.out_features) == (2, expected, expected)
        assert_a_part_of(sub, model, example)
        assert flops(sub.model, example) < flops(model, example)


def test_the_windows_of_a_width_are_heads() -> None:
    """From head 3 on, and around."""
    model, example = network("plain")
    groups = find_groups(model, example)
    number = number_of_heads(groups)
    assert width(model, 0.5, shift=3, groups=groups).kept[number].tolist() == [0, 1, 2, 9, 10, 11]


@pytest.mark.parametrize("name", ["residual", "mental state"])
def test_gather_and_scatter(name: str) -> None:
    """The identity where held, zero elsewhere."""
    model, example = network(name)
    sub = without_two_heads(model, example)
    assert torch.equal(flat_of(sub.model), flat_of(model)[sub.coordinates])
    flat = torch.randn(sub.n)
    other = deepcopy(sub.model)
    sub.gather_into(other, flat)
    assert torch.equal(flat_of(other), flat[sub.coordinates])
    assert torch.equal(sub.scatter(flat_of(other)).dense(), flat * sub.mask())


@pytest.mark.parametrize("name", ["residual", "mental state"])
def test_it_trains(name: str) -> None:
    """Gradients of the sub-model are the zeroed model's at its coordinates."""
    model, example = network(name)
    sub = shrink(model, 0.5, example)
    sub.zero_outside(model)
    for net in (model, sub.model):
        net(example).square().sum().backward()
    gradient, own = gradient_of(model), gradient_of(sub.model)
    assert own.count_nonzero() > 0.5 * own.numel()
    torch.testing.assert_close(own, gradient[sub.coordinates], rtol=1e-4, atol=1e-5 * float(own.abs().max()))


def test_attention_alone() -> None:
    """Its output is the model's and stays; its heads can go. The global random state is as it was."""
    model, example, before = HeadAttention(12, 4).eval(), torch.randn(2, 7, 12), torch.get_rng_state()
    assert [group.makers for group in find_groups(model, example)] == [("v",)]
    assert torch.equal(torch.get_rng_state(), before)
    sub = shrink(model, 0.5, example)
    assert isinstance(sub.model, HeadAttention)
    assert sub.model.heads == 2
    assert_a_part_of(sub, model, example)


def test_refused() -> None:
    """One sentence: sizes that do not fit."""
    with pytest.raises(ValueError, match="12 channels cannot be split into 5 heads"):
        HeadAttention(12, 5)
    with pytest.raises(ValueError, match="at least one head, not 0"):
        HeadAttention(12, 0)
