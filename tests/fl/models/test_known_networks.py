"""The kinds of networks that docs/models.md says work, small ones. Oracle: a trial in both modes that changes nothing, and a
state that is exchanged and loaded again."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from fl.common.config import ModelOptions
from fl.common.torchvision_shim import import_torchvision
from fl.models import build_model
from fl.models.state import ModelState
from fl.training.tasks import Classification

pytestmark = pytest.mark.slow

NETWORKS: dict[str, Callable[[Any], nn.Module]] = {
    "mobilenet_v2": lambda m: m.mobilenet_v2(num_classes=3, width_mult=0.25),
    "mobilenet_v3": lambda m: m.mobilenet_v3_small(num_classes=3, width_mult=0.25),
    "shufflenet": lambda m: m.shufflenet_v2_x0_5(num_classes=3),
    "efficientnet": lambda m: m.efficientnet_b0(num_classes=3),
    "mnasnet": lambda m: m.mnasnet0_5(num_classes=3),
    "squeezenet": lambda m: m.squeezenet1_1(num_classes=3),
    "densenet": lambda m: m.DenseNet(4, (2, 2, 2, 2), 8, num_classes=3),
    "regnet": lambda m: m.regnet_y_400mf(num_classes=3),
    "vit": lambda m: m.VisionTransformer(32, 8, 2, 2, 32, 64, num_classes=3),
    "swin": lambda m: m.SwinTransformer([2, 2], 8, [2, 2], [2, 2], [4, 4], num_classes=3),
    "convnext": lambda m: m.ConvNeXt(
        [m.convnext.CNBlockConfig(8, 16, 1), m.convnext.CNBlockConfig(16, None, 1)], num_classes=3
    ),
    "googlenet": lambda m: m.GoogLeNet(num_classes=3, init_weights=False),  # auxiliary outputs in training
}


def made(classes: int, in_channels: int) -> nn.Module:
    """The network that the test at work wants."""
    return NETWORKS[WANTED[0]](import_torchvision().models)


WANTED = [""]


@pytest.mark.parametrize("name", NETWORKS)
def test_known_networks(name: str) -> None:
    """Tables of whole numbers, as Swin's, are not taken for counts."""
    WANTED[0] = name
    size = 64 if name == "googlenet" else 32
    options = ModelOptions(model=f"{__name__}:made")
    model = build_model(options, classes=3, in_channels=3, image_size=size, seed=0)
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    Classification(3).check_model(name, model, torch.randn(2, 3, size, size), torch.tensor([0, 2]))
    state = ModelState(model, torch.device("cpu"))
    assert state.layout.total == sum(parameter.numel() for parameter in model.parameters())
    assert state.buffers.numel() == sum(b.numel() for b in model.buffers() if b.is_floating_point())
    model.train()(torch.randn(4, 3, size, size)).sum().backward()
    state.load_into(model)
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
