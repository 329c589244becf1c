"""Removing dead channels. Oracles: the masked model's own outputs on inputs that the removal never saw; which channels
stay, by hand."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn

from compression import Layout
from fl.models.surgery.attention import HeadAttention
from fl.models.surgery.channels import find_groups
from fl.models.surgery.dead import Reduced, remove_dead
from fl.pruning.choose import protected_layers
from fl.pruning.filters import choose_filters
from fl.pruning.structured import shrink
from tests.fl.models.surgery.networks import network

pytestmark = pytest.mark.slow


def reduce(model: nn.Module, example: Tensor) -> Reduced:
    """`remove_dead`, checked: the same outputs for other inputs, far from those that it was shown."""
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    reduced = remove_dead(model, example)
    assert reduced is not None
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    x = torch.randn(example.shape) * 3 - 1 if example.is_floating_point() else torch.randint(0, 20, example.shape)
    with torch.no_grad():
        expected = model.eval()(x)
        torch.testing.assert_close(reduced.model(x), expected, rtol=0, atol=1e-5 * float(expected.abs().max()))
    return reduced


@torch.no_grad()
def masked(model: nn.Module, sparsity: float = 0.5, protect: tuple[str, ...] = ("auto",)) -> nn.Module:
    """A copy without the smallest filters of each layer, as `--prune filters:S` leaves it; norms and biases stay."""
    model = deepcopy(model).eval()
    named = list(model.named_parameters())
    layout = Layout.of(named)
    flat = layout.gather([p for _, p in named], torch.empty(layout.total))
    mask = choose_filters(flat, layout, sparsity, protected=protected_layers(layout, protect))
    layout.scatter(flat * mask, [p for _, p in named])
    return model


@torch.no_grad()
def signed(model: nn.Module) -> nn.Module:
    """The networks of the tests have positive vectors only; with half of the biases negative, ReLU makes zeros."""
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.dim() == 1 and name.endswith(("bias", "running_mean")):
            tensor[::2] *= -1
    return model


def example_of(name: str) -> Tensor:
    """A batch for the network of that name."""
    generator = torch.Generator().manual_seed(5)
    example = network(name)[1]
    return torch.randn((4, *example.shape[1:]), generator=generator)


@pytest.mark.parametrize("name", ["lenet5", "pfl_cnn"])
def test_filters_of_plain_networks_all_go(name: str) -> None:
    """No padding, biases everywhere: half of the filters of every inner layer can go, whatever their biases."""
    model = masked(signed(deepcopy(network(name)[0])))
    reduced = reduce(model, example_of(name))
    inner = [len(kept) for kept in reduced.kept.values()][1:]
    assert inner == ([8, 60, 42] if name == "lenet5" else [32, 64])
    assert 0 < reduced.folded < reduced.removed
    assert list(map(len, reduced.kept.values())) == [
        module.weight.shape[0]
        for module in reduced.model.modules()
        if isinstance(module, (nn.Conv2d, nn.Linear)) and module.weight.shape[0] != 10
    ]


@pytest.mark.parametrize("name", ["simple_cnn", "resnet18 batch"])
def test_constants_beside_padding_stay(name: str) -> None:
    """Fewer channels, but not all that have no weights: where a padded convolution reads a constant, it stays."""
    model = masked(signed(deepcopy(network(name)[0])), protect=())
    reduced = reduce(model, example_of(name))
    count = sum(p.numel() for p in reduced.model.parameters())
    assert count < sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", ["lenet5", "resnet18 batch", "resnet50 group", "lstm last", "bilstm2 mean"])
def test_what_is_zero_everywhere_goes(name: str) -> None:
    """A model with zeros outside a sub-model becomes that sub-model, coordinate for coordinate."""
    model, example = network(name)
    sub = shrink(model, 0.4, groups=find_groups(model, example))
    zeroed = deepcopy(model)
    sub.zero_outside(zeroed)
    reduced = reduce(zeroed, example)
    assert [kept.tolist() for kept in sub.kept] == list(reduced.kept.values())
    assert reduced.folded == 0
    for (name, own), (_, its) in zip(sub.model.state_dict().items(), reduced.model.state_dict().items(), strict=True):
        assert torch.equal(own, its), name


@torch.no_grad()
def test_by_hand() -> None:
    """Of four neurons: 0 lives; 1 has no weights and a negative bias (goes); 2 none and a positive one (goes, folded); 3 is
    read by nobody (goes). relu(2) = 2 is read with weight 5, so the reader's bias grows by 10."""
    model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 1))
    model[0].weight.copy_(torch.tensor([[1.0, 2], [0, 0], [0, 0], [3, 4]]))
    model[0].bias.copy_(torch.tensor([0.5, -1, 2, 1]))
    model[2].weight.copy_(torch.tensor([[7.0, 6, 5, 0]]))
    model[2].bias.copy_(torch.tensor([1.0]))
    reduced = reduce(model, torch.randn(8, 2))
    assert (reduced.kept, reduced.removed, reduced.folded) == ({"0": [0]}, 3, 1)
    assert reduced.model[0].weight.tolist() == [[1, 2]]
    assert reduced.model[2].weight.tolist() == [[7]]
    assert reduced.model[2].bias.tolist() == [11]


@torch.no_grad()
@pytest.mark.parametrize(("mode", "padding", "gone"), [("zeros", 1, 1), ("circular", 1, 2), ("zeros", 0, 2)])
def test_padding_by_hand(mode: str, padding: int, gone: int) -> None:
    """Of three channels, one is zero and one constant: the constant goes unless it would end at a border of zeros."""
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Conv2d(3, 2, 3, padding=padding, padding_mode=mode))
    model[0].weight[1:] = 0
    model[0].bias.copy_(torch.tensor([0.1, -1, 1]))
    assert reduce(model, torch.randn(3, 1, 8, 8)).removed == gone


@torch.no_grad()
def test_a_norm_over_channels_by_hand() -> None:
    """GroupNorm counts channels 0 and 1 together, and 2 and 3: with 1 alive both stay, though 0 has no weights.
    Of 2 and 3, which are constants, one is folded and one is zero."""
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.GroupNorm(2, 4), nn.ReLU(), nn.Flatten(), nn.Linear(16, 2))
    for channel in (0, 2, 3):
        model[0].weight[channel] = 0
    model[1].bias.fill_(-10)
    model[1].bias[3] = 10
    reduced = reduce(model, torch.randn(5, 1, 2, 2))
    assert (reduced.kept, reduced.folded) == ({"0": [0, 1]}, 1)


@torch.no_grad()
def test_an_attention_head() -> None:
    """A head without weights gives every step the bias of its values, since attention weights add up to 1: it goes, folded.
    One that has lost only its values' weights stays, for it is judged by all of its rows."""
    attention = HeadAttention(12, 3)
    model = nn.Sequential(nn.Linear(5, 12), attention, nn.ReLU(), nn.Linear(12, 2))
    for layer in (attention.q, attention.k, attention.v):
        layer.weight[:4] = 0
    attention.v.weight[4:8] = 0
    attention.v.bias.normal_()
    reduced = reduce(model, torch.randn(6, 7, 5))
    assert reduced.kept["1.v"] == [4, 5, 6, 7, 8, 9, 10, 11]
    assert (reduced.removed, reduced.folded, reduced.model[1].heads) == (4, 4, 2)


@torch.no_grad()
def test_a_reader_without_a_bias_cannot_fold() -> None:
    """The constant stays then."""
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 2, bias=False))
    model[0].weight[1:] = 0
    model[0].bias.copy_(torch.tensor([0.1, -1, 1]))
    assert reduce(model, torch.randn(5, 3)).kept == {"0": [0, 2]}


@torch.no_grad()
def test_something_always_stays() -> None:
    """A layer of zeros keeps one neuron: a tensor without channels is no layer."""
    model = nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 2))
    model[0].weight.zero_()
    assert reduce(model, torch.randn(5, 3)).kept == {"0": [0]}


def test_nothing_to_remove() -> None:
    """None, for a model all of whose channels live; a sentence, for one that cannot be traced."""
    model, _ = network("lenet5")
    assert remove_dead(model, example_of("lenet5")) is None
    with pytest.raises(ValueError, match="no channels"):
        remove_dead(nn.Sequential(nn.Linear(3, 2)), torch.randn(5, 3))
