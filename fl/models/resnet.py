"""ResNet-18 and ResNet-50 (He et al. 2016), torchvision's, for small images or large ones."""

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
