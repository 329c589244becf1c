"""VGG-11 without normalisation (Simonyan and Zisserman 2015, configuration A), cut down for small images."""

from torch import nn

from .small import at_least, he_weights

_STAGES = ((64,), (128,), (256, 256), (512, 512), (512, 512))


def vgg11(*, classes: int, in_channels: int, image_size: int) -> nn.Module:
    """PruneFL's network for CIFAR-10 (Jiang et al. 2022): 9,750,922 parameters for ten classes of 3x32x32.

    Eight padded 3x3 convolutions, a pool after each stage of 64, 128, 256 + 256, 512 + 512 and 512 + 512 channels; fc 512,
    fc 512, fc classes. The first fully connected layer reads all that five pools leave, 1x1 of 32x32 images and 2x2 of
    64x64. First weights are He et al.'s (see `he_weights`), but the last layer's, which are PyTorch's, smaller ones:
    the first outputs should be near 0. ConfigError below 32 pixels.
    """
    at_least("vgg11", image_size, 32)
    layers: list[nn.Module] = []
    channels = in_channels
    for stage in _STAGES:
        for width in stage:
            layers += [nn.Conv2d(channels, width, 3, padding=1), nn.ReLU()]
            channels = width
        layers.append(nn.MaxPool2d(2))
    side = image_size // 2 ** len(_STAGES)
    layers += [nn.Flatten(), nn.Linear(channels * side * side, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU()]
    he_weights(layers)
    return nn.Sequential(*layers, nn.Linear(512, classes))
