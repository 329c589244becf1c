"""Exported models back into memory."""

from pathlib import Path

import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from compression import Layout, PayloadError
from fl.common.errors import ConfigError, DataError
from fl.common.plugin import reason
from fl.common.tensor_files import read_tensors
from fl.models.quantise import IntegerWeights, dequantise, fake_quantise, weight_names
from fl.models.surgery.axes import fit

from .payload import unpack
from .structure import STRUCTURE_FILE, Structure, read_structure

KINDS = {
    "model": "model.safetensors",
    "payload": "model.leanfed",
    "quantised": "quantised.safetensors",
    "quantised payload": "quantised.leanfed",
    "small": "small.safetensors",
}
"""What can be loaded, and the file it lies in."""

SCALE = ".scale"
"""What the name of a weight's scales ends in, beside the weight's own name."""


def load(folder: str | Path, kind: str = "model", *, model: str | None = None) -> nn.Module:
    """The exported model in `folder`, on the CPU and in evaluation; `kind` is one of `KINDS`.

    `model` and `payload` compute what the run's model does, in fp32. `quantised` and `quantised payload` have integers
    times scales as weights, and round what goes into each layer to as many bits (see `fl.models.quantise`). `small` is the
    dense model without the channels that pruning emptied. `model`: the run's `--model` once more where that is
    `package.module:function`, which is not called because a folder says so. ConfigError for another kind or model; DataError
    for a file that is absent, damaged or of another network.
    """
    if kind not in KINDS:
        raise ConfigError(f"there is no kind '{kind}' of exported model; there are {', '.join(KINDS)}")
    folder = Path(folder)
    structure, path = read_structure(folder), folder / KINDS[kind]
    try:
        network = structure.build(model)
    except ConfigError:
        raise
    except Exception as error:  # what a network raises that is given other numbers than it can have
        raise DataError(f"{folder / STRUCTURE_FILE} does not describe a network ({reason(error)})") from None
    try:
        if kind == "small":
            _load_shrunk(network, read_tensors(path))
        elif kind.startswith("quantised"):
            weights = _integers(path, network, structure)
            network.load_state_dict({**_counters(network), **dequantise(weights)})
            fake_quantise(network, structure.bits, weights=False)
        elif kind == "payload":
            floats = unpack(path.read_bytes(), [Layout.of(_floats(network).items())])[0]
            network.load_state_dict({**_counters(network), **floats})
        else:
            network.load_state_dict(read_tensors(path))
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror or error}): was it exported?") from None
    except (SafetensorError, PayloadError, RuntimeError, KeyError) as error:
        raise DataError(f"{path} does not hold this model: {' '.join(str(error).split())}") from None
    return network


def load_small(folder: str | Path, *, model: str | None = None) -> nn.Module:
    """The smaller dense model of a run whose pruning emptied whole channels: `load(folder, "small")`."""
    return load(folder, "small", model=model)


def _load_shrunk(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Give every tensor of `model` the shape and the values that it has in `state`."""
    if model.state_dict().keys() != state.keys():
        raise KeyError("other tensors than the network's")
    with torch.no_grad():
        for name, own in model.state_dict(keep_vars=True).items():
            owner, _, leaf = name.rpartition(".")
            value = state[name].to(own.dtype)
            is_parameter = isinstance(own, nn.Parameter)
            setattr(model.get_submodule(owner), leaf, nn.Parameter(value, own.requires_grad) if is_parameter else value)
    for module in model.modules():
        fit(module)


def _floats(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in model.state_dict().items() if tensor.is_floating_point()}


def _counters(model: nn.Module) -> dict[str, Tensor]:
    """Tensors that are no floating-point numbers (BatchNorm's step counter): as built, by the structure."""
    return {name: tensor for name, tensor in model.state_dict().items() if not tensor.is_floating_point()}


def quantised_layouts(model: nn.Module) -> tuple[Layout, Layout]:
    """What lies where in quantised.leanfed: the integers; the scales, then all other floating-point tensors."""
    weights = weight_names(model)
    state = _floats(model)
    integers = [(name, tensor) for name, tensor in state.items() if name in weights]
    scales = [(name + SCALE, tensor.new_empty(len(tensor))) for name, tensor in integers]
    rest = [(name, tensor) for name, tensor in state.items() if name not in weights]
    return Layout.of(integers), Layout.of(scales + rest)


def _integers(path: Path, model: nn.Module, structure: Structure) -> IntegerWeights:
    """The integer weights in either file, checked: they are what int8 holds, and finite numbers."""
    first, second = quantised_layouts(model)
    if path.suffix == ".leanfed":
        levels, others = unpack(path.read_bytes(), [first, second])
    else:
        state = read_tensors(path)
        levels = {name: state.pop(name) for name in first.names}
        others = state
    most = (1 << (structure.bits - 1)) - 1
    for name, tensor in levels.items():
        if bool((tensor.float().abs() > most).any() or (tensor.float() != tensor.float().round()).any()):
            raise PayloadError(f"'{name}' holds other numbers than the integers -{most} ... {most}")
    scales = {name: others.pop(name + SCALE) for name in first.names}
    integers = {name: tensor.to(torch.int8) for name, tensor in levels.items()}
    return IntegerWeights(structure.bits, integers, scales, others)
