"""find_groups. Oracle: the groups of small networks by hand; what cannot be cut stays whole or is refused."""

import pytest
import torch
from torch import Tensor, nn

from fl.models.surgery.channels import find_groups
from fl.pruning.structured import shrink
from tests.fl.models.surgery.networks import network


class Softmaxed(nn.Module):
    """A softmax over hidden channels, whose sum counts every channel."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(torch.softmax(self.a(x), 1))


class Tied(nn.Module):
    """Two layers with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        return self.c(torch.relu(self.b(torch.relu(self.a(x)))))


class TwoHeads(nn.Module):
    """Two outputs and two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 6), nn.Linear(6, 2), nn.Linear(6, 3)

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        hidden = torch.relu(self.a(x + y))
        return {"b": self.b(hidden), "c": self.c(hidden)}


def test_lenet5() -> None:
    """Four groups, each read by the next layer; the ten outputs are none."""
    groups = find_groups(*network("lenet5"))
    assert [(group.makers, group.channels) for group in groups] == [
        (("0",), 6),
        (("3",), 16),
        (("7",), 120),
        (("9",), 84),
    ]
    flattened = {part.tensor: part for part in groups[1].cuts}["7.weight"]
    assert torch.equal(flattened.channels[flattened.positions.argsort()], torch.arange(256) // 16)


def test_conv2() -> None:
    """Three groups; 49 inputs of the first fully connected layer read each of the 64 channels before it."""
    model, example = network("conv2")
    groups = find_groups(model, example)
    assert [(group.makers, group.channels) for group in groups] == [(("0",), 32), (("3",), 64), (("7",), 2048)]
    flattened = {part.tensor: part for part in groups[1].cuts}["7.weight"]
    assert torch.equal(flattened.channels[flattened.positions.argsort()], torch.arange(3136) // 49)
    small = shrink(model, 0.5, example).model
    assert small.get_submodule("7").weight.shape == (1024, 32 * 49)


def test_residual_layers_share_channels() -> None:
    """What is added up has one group: ResNet-18 has four of them, and eight inside its blocks."""
    groups = find_groups(*network("resnet18 batch"))
    assert groups[0].makers == ("conv1", "layer1.0.conv2", "layer1.1.conv2")
    assert sorted(len(group.makers) for group in groups) == [1] * 8 + [3] * 4


def test_several_inputs_and_outputs() -> None:
    """A tuple of arguments; nested outputs stay whole."""
    groups = find_groups(TwoHeads(), (torch.randn(2, 4), torch.randn(2, 4)))
    assert [group.makers for group in groups] == [("a",)]


def test_layers_that_are_left_whole() -> None:
    """Grouped convolutions and LayerNorm; depthwise convolutions are cut with what they read."""
    convolutions = nn.Sequential(
        nn.Conv2d(3, 8, 1),
        nn.Conv2d(8, 8, 3, groups=8),
        nn.PReLU(8),
        nn.Conv2d(8, 12, 1),
        nn.Conv2d(12, 6, 1, groups=2),
        nn.BatchNorm2d(6, affine=False),
        nn.Conv2d(6, 5, 1),
    )
    convolutions[5].running_mean.copy_(torch.rand(6))
    example = torch.randn(2, 3, 6, 6)
    assert [group.makers for group in find_groups(convolutions, example)] == [("0", "1")]
    small = shrink(convolutions, 0.5, example).model
    assert (small.get_submodule("1").groups, small.get_submodule("3").in_channels) == (4, 4)
    normed = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 2))
    assert [group.makers for group in find_groups(normed, torch.randn(2, 4))] == [("2",)]


def test_transposed_convolutions() -> None:
    """Their weights hold inputs first."""
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ConvTranspose2d(6, 4, 2, stride=2), nn.ReLU(), nn.Conv2d(4, 2, 1))
    sub = shrink(model, 0.5, torch.randn(2, 3, 8, 8))
    assert sub.model.get_submodule("1").weight.shape == (3, 2, 2, 2)


def test_a_batch_of_one() -> None:
    """The example is one argument, never unpacked."""
    model, example = network("bilstm last")
    assert len(find_groups(model, example[:1])) == len(find_groups(model, example))


def test_refused() -> None:
    """One sentence: nothing to drop, channels that mix, weights that are shared."""
    x = torch.randn(2, 4)
    with pytest.raises(ValueError, match="no channels that could be dropped"):
        find_groups(nn.Linear(4, 2), x)
    with pytest.raises(ValueError, match="mixes its channels"):
        find_groups(Softmaxed(), x)
    with pytest.raises(ValueError, match=r"shares its weights|does not run"):
        find_groups(Tied(), x)
    with pytest.raises(ValueError, match="cannot be traced: RuntimeError: mat1 and mat2"):
        find_groups(network("lenet5")[0], torch.randn(2, 1, 20, 20))
