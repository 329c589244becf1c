"""ResNets (He et al. 2016) from torchvision's parts: ResNet-18 and ResNet-50, and a report's resnet12."""

import math
from functools import partial
from typing import Literal

from torch import nn

from fl.common.torchvision_shim import import_torchvision


def group_norm(channels: int) -> nn.GroupNorm:
    """GroupNorm (Wu and He 2018) of 32 groups, or as many fewer as divide the channels."""
    return nn.GroupNorm(math.gcd(32, channels), channels)


def resnet(
    depth: Literal[18, 50],
    *,
    classes: int,
    in_channels: int,
    stem: Literal["cifar", "imagenet"] = "cifar",
    norm: Literal["batch", "group"] = "batch",
) -> nn.Module:
    """An untrained ResNet for [B, in_channels, H, W]; it averages over the last H and W, so any size will do.

    The `cifar` stem is a 3x3 convolution of stride 1 without max-pooling (He et al. 2016, section 4.2), the
    `imagenet` one torchvision's 7x7 of stride 2 with it.
    """
    build = {18: import_torchvision().models.resnet18, 50: import_torchvision().models.resnet50}[depth]
    model = build(weights=None, num_classes=classes, norm_layer=group_norm if norm == "group" else nn.BatchNorm2d)
    first = partial(nn.Conv2d, in_channels, 64, bias=False)
    if stem == "cifar":
        model.conv1, model.maxpool = first(kernel_size=3, stride=1, padding=1), nn.Identity()
    elif in_channels != 3:
        model.conv1 = first(kernel_size=7, stride=2, padding=3)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")
    return model


def resnet12(*, classes: int, in_channels: int) -> nn.Module:
    """The ResNet of a report on pruning and sparse matrices in federated learning (Jeurkar, Michalak and Cala 2024).

    Untrained, for [B, in_channels, H, W], averaged over the last H and W, so any size will do.

    17,443,530 parameters for ten classes of one channel, 17,444,682 of three. The report calls it ResNet12; it has 26
    weighted layers: a 3x3 convolution of 64 channels, four stages of three basic blocks (He et al. 2016) of 64, 128,
    256 and 512 channels, the last three of stride 2 with a 1x1 shortcut, and fc classes. Of 28x28 and 32x32 images 4x4
    are left, the report's pooling window. First weights are PyTorch's defaults, as in the report and unlike He et al.:
    under BatchNorm their scale sets the effective learning rate.
    """
    resnets = import_torchvision().models.resnet
    model: nn.Module = resnets.ResNet(resnets.BasicBlock, [3, 3, 3, 3], num_classes=classes)
    model.conv1, model.maxpool = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False), nn.Identity()
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.reset_parameters()
    return model
