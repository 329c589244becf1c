"""The option `--model`: the built-in networks by name."""

import re
from collections.abc import Callable
from typing import Any, Literal

from compression.spec import FUNCTION, SpecError, Stage, nearest, parse_stage
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
LANGUAGE_NETWORKS = {"gpt": "fl.models.language:gpt", "char_lstm": "fl.models.language:char_lstm"}
"""Those for text."""
MODELS = (*RESNETS, "resnet12", *IMAGE_NETWORKS, *SEQUENCE_NETWORKS, *LANGUAGE_NETWORKS)
"""Names of the built-in networks."""

_GPT = {"layers": (4, 256), "heads": (4, 256), "width": (128, 1 << 16), "context": (64, 1 << 20)}
"""The options of `gpt`: default and highest value; the lowest is 1."""
_CHAR_LSTM_CONTEXT = 80  # LEAF's


def is_own(model: str) -> bool:
    """Whether `--model` names a function of the user's own."""
    return bool(FUNCTION.fullmatch(model))


def read_gpt(stage: Stage) -> dict[str, Any]:
    """The sizes of `gpt:layers=4,heads=4,width=128,context=64,dropout=0`; SpecError where they are none."""
    stage.expect(0, (*_GPT, "dropout"))
    sizes: dict[str, Any] = {}
    for key, (usual, most) in _GPT.items():
        value = stage.option(key, 1, most) if key in stage.options else usual
        if value != int(value):
            raise SpecError(f"'{stage}': {key} must be a whole number, not {stage.options[key]}")
        sizes[key] = int(value)
    if sizes["width"] % sizes["heads"]:
        raise SpecError(f"'{stage}': width {sizes['width']} must be a multiple of the {sizes['heads']} heads")
    sizes["dropout"] = stage.option("dropout", 0, 0.99) if "dropout" in stage.options else 0.0
    return sizes


def read_network(model: str) -> Stage | None:
    """A language network as `--model` names it, read; None for any other. ConfigError for one that cannot be read."""
    if re.split("[:,]", model.strip())[0] not in LANGUAGE_NETWORKS or is_own(model):
        return None
    try:
        stage = parse_stage(model)
        if stage.name == "gpt":
            read_gpt(stage)
        else:
            stage.expect(0)
    except SpecError as error:
        raise ConfigError(f"--model {error}") from None
    return stage


def context_of(model: str) -> int | None:
    """Tokens that a network takes at once, as many as its samples of text then have; None where it does not say."""
    stage = read_network(model)
    if stage is None:
        return None
    return int(read_gpt(stage)["context"]) if stage.name == "gpt" else _CHAR_LSTM_CONTEXT


def check_model(options: ModelOptions) -> Callable[..., Any] | None:
    """Refuse what cannot work before anything starts (ConfigError): an unknown name, or an absent `--init` file. Returns
    the user's own function, None for a built-in network."""
    name = options.model
    network = read_network(name)
    if network is None and name not in MODELS and ":" not in name:
        raise ConfigError(f"--model '{name}' is not known{nearest(name, MODELS)}")
    if options.init is not None:
        from .weights import check_weights

        check_weights(options.init)
    if network is not None or name in MODELS:
        return None
    from fl.common.plugin import load_function

    return load_function("--model", name, "classes", "in_channels")
