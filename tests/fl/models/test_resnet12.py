"""The report's ResNet12. Oracles: its description in numbers (layers, resolutions), and PyTorch's default bound of
first weights. Its parameter counts are checked beside the other networks'."""

import pytest
import torch
from torch import nn

from fl.models.resnet import resnet12


def test_layers() -> None:
    """Oracle: 26 weighted layers, three 1x1 shortcuts beside them, a BatchNorm after each of the 28 convolutions."""
    modules = list(resnet12(classes=10, in_channels=1).modules())
    kernels = [module.kernel_size for module in modules if isinstance(module, nn.Conv2d)]
    assert (kernels.count((3, 3)), kernels.count((1, 1)), len(kernels)) == (25, 3, 28)
    assert sum(isinstance(module, nn.BatchNorm2d) for module in modules) == 28
    assert sum(isinstance(module, nn.Linear) for module in modules) == 1


@pytest.mark.parametrize(("in_channels", "side", "sides"), [(1, 28, [28, 14, 7, 4]), (3, 32, [32, 16, 8, 4])])
def test_resolutions(in_channels: int, side: int, sides: list[int]) -> None:
    """Oracle: strides 1, 2, 2, 2 on an undiminished image, so that pooling over 4x4 and over all is the same."""
    model = resnet12(classes=10, in_channels=in_channels).eval()
    found = []
    for stage in (model.layer1, model.layer2, model.layer3, model.layer4):
        stage.register_forward_hook(lambda module, given, result: found.append(result.shape[-1]))
    assert model(torch.rand(1, in_channels, side, side)).shape == (1, 10)
    assert found == sides


def test_first_weights() -> None:
    """Oracle: uniform within 1 / sqrt(fan in), PyTorch's default: close to the bound, never beyond, for every layer."""
    for module in resnet12(classes=10, in_channels=1).modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            bound = module.weight[0].numel() ** -0.5
            assert 0.95 * bound < float(module.weight.detach().abs().max()) <= bound * (1 + 1e-6)
