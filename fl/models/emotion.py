"""A network for faces of 48x48 pixels (FER2013: Goodfellow et al. 2013)."""

from torch import nn

from .dropout import ByteDropout
from .small import at_least, he_weights


def emotion_cnn(*, classes: int, in_channels: int, image_size: int) -> nn.Module:
    """Four convolutions without padding and two fully connected layers: 2,345,607 parameters for seven of 1x48x48.

    conv 32 3x3, conv 64 3x3, pool, dropout 0.25, conv 128 3x3, pool, conv 128 3x3, pool, dropout 0.25, fc 1024,
    dropout 0.5, fc classes. Of 48x48 pixels 4x4 are left. First weights are He et al.'s, the last layer's PyTorch's.
    ConfigError below 24 pixels.
    """
    at_least("emotion_cnn", image_size, 24)
    side = (((image_size - 4) // 2 - 2) // 2 - 2) // 2
    layers = [
        nn.Conv2d(in_channels, 32, 3),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        ByteDropout(0.25),
        nn.Conv2d(64, 128, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(128, 128, 3),
        nn.ReLU(),
        nn.MaxPool2d(2),
        ByteDropout(0.25),
        nn.Flatten(),
        nn.Linear(128 * side * side, 1024),
        nn.ReLU(),
        ByteDropout(0.5),
    ]
    he_weights(layers)
    return nn.Sequential(*layers, nn.Linear(1024, classes))
