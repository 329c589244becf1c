"""The option `--model`: the built-in networks by name."""

from collections.abc import Callable
from typing import Any, Literal

from compression.spec import nearest
from fl.common.config import ModelOptions
from fl.common.errors import ConfigError

RESNETS: dict[str, Literal[18, 50]] = {"resnet18": 18, "resnet50": 50}
"""The networks that have a stem and normalisation layers to choose, and their depths."""
IMAGE_NETWORKS = {
    "lenet5": "fl.models.small:lenet5",
    "simple_cnn": "fl.models.small:simple_cnn",
    "pfl_cnn": "fl.models.small:pfl_cnn",
    "conv2": "fl.models.small:conv2",
    "vgg11": "fl.models.vgg:vgg11",
    "emotion_cnn": "fl.models.emotion:emotion_cnn",
}
"""Others for images, and the functions that make them."""
SEQUENCE_NETWORKS = {
    "mental_state": "fl.models.sequence:mental_state",
    "temperature_lstm": "fl.models.sequence:temperature_lstm",
    "mlp": "fl.models.sequence:mlp",
}
"""Those for other samples."""
MODELS = (*RESNETS, "resnet12", *IMAGE_NETWORKS, *SEQUENCE_NETWORKS)
"""Names of the built-in networks."""


def check_model(options: ModelOptions) -> Callable[..., Any] | None:
    """Refuse what cannot work before anything starts (ConfigError): an unknown name, or an absent `--init` file. Returns
    the user's own function, None for a built-in network."""
    name = options.model
    if name not in MODELS and ":" not in name:
        raise ConfigError(f"--model '{name}' is not known{nearest(name, MODELS)}")
    if options.init is not None:
        from .weights import check_weights

        check_weights(options.init)
    if name in MODELS:
        return None
    from fl.common.plugin import load_function

    return load_function("--model", name, "classes", "in_channels")
