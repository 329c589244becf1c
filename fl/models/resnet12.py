"""The ResNet of a report on pruning and sparse matrices in federated learning (Jeurkar, Michalak and Cala 2024)."""

from torch import nn

from fl.common.torchvision_shim import import_torchvision


def resnet12(*, classes: int, in_channels: int) -> nn.Module:
    """An untrained ResNet for [B, in_channels, H, W], averaged over the last H and W, so any size will do.

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
