"""Small networks of published federated experiments; the first fully connected layer follows from the image size."""

from collections.abc import Iterable

from torch import nn

from fl.common.errors import ConfigError

from .dropout import ByteDropout


def at_least(name: str, image_size: int, smallest: int) -> None:
    """ConfigError if images of `image_size` pixels are smaller than the network `name` can take."""
    if image_size < smallest:
        raise ConfigError(f"--model {name} needs images of at least {smallest} pixels, not {image_size}")


def lenet5(*, classes: int, in_channels: int, image_size: int) -> nn.Module:
    """LeNet-5 (LeCun et al. 1998) with ReLU and max-pooling: 44,426 parameters for ten classes of 1x28x28.

    conv 6 5x5, pool, conv 16 5x5, pool, fc 120, fc 84, fc classes. ConfigError below 16 pixels.
    """
    at_least("lenet5", image_size, 16)
    side = ((image_size - 4) // 2 - 4) // 2
    return nn.Sequential(
        nn.Conv2d(in_channels, 6, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(6, 16, 5),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(16 * side * side, 120),
        nn.ReLU(),
        nn.Linear(120, 84),
        nn.ReLU(),
        nn.Linear(84, classes),
    )


def simple_cnn(*, classes: int, in_channels: int, image_size: int) -> nn.Module:
    """Two padded convolutions and two fully connected layers: 824,458 parameters for ten classes of 1x28x28.

    conv 32 3x3, pool, conv 64 3x3, pool, fc 256, fc classes. ConfigError below 4 pixels.
    """
    at_least("simple_cnn", image_size, 4)
    side = image_size // 2 // 2
    return nn.Sequential(
        nn.Conv2d(in_channels, 32, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * side * side, 256),
        nn.ReLU(),
        nn.Linear(256, classes),
    )


def pfl_cnn(*, classes: int, in_channels: int, image_size: int) -> nn.Module:
    """The CNN of the pfl-research benchmarks (Granqvist et al. 2024): 1,626,442 parameters for ten of 3x32x32.

    conv 32 3x3, conv 64 3x3, pool, dropout 0.25, fc 128, dropout 0.5, fc classes. ConfigError below 6 pixels.
    """
    at_least("pfl_cnn", image_size, 6)
    side = (image_size - 4) // 2
    return nn.Sequential(
        nn.Conv2d(in_channels, 32, 3),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        ByteDropout(0.25),
        nn.Flatten(),
        nn.Linear(64 * side * side, 128),
        nn.ReLU(),
        ByteDropout(0.5),
        nn.Linear(128, classes),
    )


def conv2(*, classes: int, in_channels: int, image_size: int) -> nn.Module:
    """PruneFL's network for FEMNIST (Jiang et al. 2022, "Conv-2"): 6,603,710 parameters for 62 classes of 1x28x28.

    conv 32 5x5, pool, conv 64 5x5, pool, both padded, fc 2048, fc classes. ConfigError below 4 pixels.
    """
    at_least("conv2", image_size, 4)
    side = image_size // 2 // 2
    return nn.Sequential(
        nn.Conv2d(in_channels, 32, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 5, padding=2),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(64 * side * side, 2048),
        nn.ReLU(),
        nn.Linear(2048, classes),
    )


def he_weights(layers: Iterable[nn.Module]) -> None:
    """Give convolutions and linear layers He et al.'s (2015) weights, of variance 2 / fan-in, and biases 0, in place.

    Behind each there should be a ReLU: the signal then is as strong behind as before. PyTorch's weights are less than half
    as large, so it fades from layer to layer, and a deep network without normalisation does not begin to learn.
    """
    for layer in layers:
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
