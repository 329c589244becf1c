"""First weights of networks that have no normalisation layers."""

from collections.abc import Iterable

from torch import nn


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
