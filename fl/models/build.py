"""The network that the options name, with its first weights from the seed or from a file."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from compression.spec import Stage
from fl.common.config import ModelOptions
from fl.common.errors import ConfigError
from fl.common.generators import seeded
from fl.common.plugin import reason
from fl.common.registry import load
from fl.common.surroundings import kept_surroundings
from fl.common.tensors import channels_of, colours_last, size_of

from .names import IMAGE_NETWORKS, LANGUAGE_NETWORKS, RESNETS, SEQUENCE_NETWORKS, check_model, read_gpt, read_network
from .own_state import seed_generators
from .resnet import resnet, resnet12
from .trial import fix_tables, logits_of, need_parameters, refuse_kinds, shape_lazy_layers, want_dense_gradients
from .weights import load_weights


def build_model(
    options: ModelOptions,
    *,
    classes: int,
    in_channels: int,
    image_size: int,
    seed: int,
    sample_shape: tuple[int, ...] | None = None,
    tokens: bool = False,
) -> nn.Module:
    """The network that the options name, fp32 on the CPU, for samples of `sample_shape`; None: square images
    [in_channels, image_size, image_size]. `classes` 0: it predicts one number. `tokens`: samples are text, tokens below
    `classes`.

    Its first weights are a function of `seed` alone, lazily shaped layers included, and no global random state changes;
    `--init` then replaces them with those of a safetensors file. A user's own function is called as `function(classes,
    in_channels)`, with 1 for `classes` 0 and, for sequences [T, F], F channels, for text [T] its length T. Raises
    ConfigError for whatever `check_model` refuses, for a function that fails, for samples that the network does not take,
    for tensors that cannot be exchanged, and for a file that does not fit.
    """
    own = check_model(options)
    if tokens != (read_network(options.model) is not None) and own is None:
        raise ConfigError(
            f"--model {options.model} takes {'no text' if tokens else 'text'}: take "
            + (
                f"{' or '.join(LANGUAGE_NETWORKS)} for --dataset text:PATH"
                if tokens
                else "--dataset shakespeare or text:PATH"
            )
        )
    shape = (in_channels, image_size, image_size) if sample_shape is None else tuple(sample_shape)
    with kept_surroundings(), seeded(seed, "model"):
        if own is not None:
            model = _own(options.model, own, classes or 1, shape, tokens)
        else:
            model = _built_in(options, classes, shape)
        seed_generators(model, seed, "own generators")
    if options.init is not None:
        load_weights(model, options.init)
    return model


def _own(name: str, function: Callable[..., Any], classes: int, shape: tuple[int, ...], tokens: bool) -> nn.Module:
    """A user's network, ready to be trained on samples of this shape."""
    channels = channels_of(shape)
    try:
        model = function(classes, channels)
    except (Exception, SystemExit) as error:  # one that reads the command line exits
        called = f"{name.partition(':')[2]}({classes}, {channels})"
        raise ConfigError(f"--model {name} fails when it is called as {called} ({reason(error)})") from error
    if not isinstance(model, nn.Module):
        raise ConfigError(f"--model {name} must return a torch.nn.Module, not {type(model).__name__}")
    need_parameters(name, model)
    refuse_kinds(name, model)
    want_dense_gradients(model)
    # Complex tensors outside the state, such as tables of rotations, stay what they are.
    model._apply(lambda tensor: tensor.to("cpu", torch.float32 if tensor.is_floating_point() else tensor.dtype))
    shape_lazy_layers(name, model, torch.zeros(2, *shape, dtype=torch.int64 if tokens else torch.float32))
    fix_tables(model)
    if not isinstance(model, torch.jit.ScriptModule):  # which takes no hook, and returns tensors
        model.register_forward_hook(logits_of)
    return model


def _built_in(options: ModelOptions, classes: int, shape: tuple[int, ...]) -> nn.Module:
    network = read_network(options.model)
    if network is not None:
        return _language(network, classes, shape[0])
    name, channels, size = options.model, channels_of(shape), size_of(shape)
    takes, dimensions = ("windows", {2}) if name in SEQUENCE_NETWORKS else ("images", {3})
    if name == "mlp":
        takes, dimensions = "windows and rows", {1, 2}
    if len(shape) not in dimensions:
        hint = "; window=LENGTH makes windows of a csv: table, and --model mlp takes rows" if len(shape) == 1 else ""
        raise ConfigError(f"--model {name} takes {takes}, and the samples of --dataset are {list(shape)}{hint}")
    if len(shape) == 3 and colours_last(shape):
        raise ConfigError(
            f"--model {name} takes samples [C, H, W], and those of --dataset, {list(shape)}, look like [H, W, C]: "
            "x.permute(0, 3, 1, 2)"
        )
    if name in SEQUENCE_NETWORKS:
        return load(SEQUENCE_NETWORKS[name])(classes=classes, features=channels, length=size)
    outputs = classes or 1
    if name in IMAGE_NETWORKS:
        return load(IMAGE_NETWORKS[name])(classes=outputs, in_channels=channels, image_size=size)
    if name == "resnet12":
        return resnet12(classes=outputs, in_channels=channels)
    return resnet(RESNETS[name], classes=outputs, in_channels=channels, stem=options.stem, norm=options.norm)


def _language(network: Stage, classes: int, length: int) -> nn.Module:
    function = load(LANGUAGE_NETWORKS[network.name])
    if network.name != "gpt":
        return function(classes=classes)
    sizes = read_gpt(network)
    if sizes["context"] < length:
        raise ConfigError(
            f"--model {network} takes at most {sizes['context']} tokens at once: --context {length} is more"
        )
    return function(classes=classes, **sizes)
