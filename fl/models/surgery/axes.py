"""Where the channels of a layer lie in its tensors, and how a layer is told that its tensors have shrunk."""

from typing import NamedTuple

from torch import nn

from .attention import HeadsOf
from .recurrent import UnitsOf

_CONV = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_BATCH_NORM = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)


class Axis(NamedTuple):
    """Channel c is slice c of `tensor` along `dim`, and slices c + stride, c + 2 stride, ... (`repeats` in all)."""

    tensor: str
    dim: int
    repeats: int = 1
    stride: int = 0


def axes_of(module: nn.Module, name: str, makes: bool) -> list[Axis] | None:
    """Where the channels lie that `module` makes (or else reads); None if it cannot be cut there.

    A tensor that the layer does without (`bias=False`) has none.
    """
    if isinstance(module, UnitsOf):
        return _recurrent_axes(module, makes)
    if isinstance(module, HeadsOf):
        return _head_axes(module, makes)
    axes: list[tuple[str, int]]
    if isinstance(module, _CONV):
        if module.groups > 1 and not _depthwise(module):
            return None
        out = int(module.transposed and module.groups == 1)
        axes = [("weight", out), ("bias", 0)] if makes or module.groups > 1 else [("weight", 1 - out)]
    elif isinstance(module, nn.Linear):
        axes = [("weight", 0), ("bias", 0)] if makes else [("weight", 1)]
    elif isinstance(module, _BATCH_NORM):
        axes = [("weight", 0), ("bias", 0), ("running_mean", 0), ("running_var", 0)]
    elif isinstance(module, nn.GroupNorm) and module.affine:
        axes = [("weight", 0), ("bias", 0)]
    elif isinstance(module, nn.PReLU):
        axes = [("weight", 0)] if module.num_parameters > 1 else []
    elif isinstance(module, nn.Embedding):
        axes = [("weight", 1)]
    else:
        return None
    prefix = name + "." if name else ""
    return [Axis(prefix + tensor, dim) for tensor, dim in axes if getattr(module, tensor, None) is not None]


def block_of(module: nn.Module, makes: bool = True) -> int:
    """How many neighbouring channels of those that `module` makes (or else reads) it can only keep or lose together."""
    if isinstance(module, HeadsOf):
        return module.head_dim if makes else 1
    return module.num_channels // module.num_groups if isinstance(module, nn.GroupNorm) else 1


def fit(module: nn.Module) -> None:
    """Tell `module`, whose tensors were replaced by smaller ones, its new sizes. ValueError where they disagree."""
    if isinstance(module, nn.LSTM):
        _fit_lstm(module)
    elif isinstance(module, _CONV):
        if _depthwise(module):
            module.groups = module.in_channels = module.out_channels = module.weight.shape[0]
        elif module.groups == 1:
            first, second = module.weight.shape[:2]
            module.in_channels, module.out_channels = (first, second) if module.transposed else (second, first)
    elif isinstance(module, nn.Linear):
        module.out_features, module.in_features = module.weight.shape
    elif isinstance(module, _BATCH_NORM):
        tensor = module.weight if module.affine else module.running_mean
        module.num_features = module.num_features if tensor is None else tensor.numel()
    elif isinstance(module, nn.GroupNorm) and module.affine:
        size = block_of(module)
        module.num_channels = module.weight.numel()
        module.num_groups = module.num_channels // size
    elif isinstance(module, nn.PReLU):
        module.num_parameters = module.weight.numel()
    elif isinstance(module, nn.Embedding):
        module.embedding_dim = module.weight.shape[1]


def _depthwise(module: nn.Module) -> bool:
    return isinstance(module, _CONV) and 1 < module.groups == module.in_channels == module.out_channels


def _recurrent_axes(units: UnitsOf, makes: bool) -> list[Axis]:
    """The rows of the four gates and the column of the hidden state, or else the column of the input."""
    if not makes:
        return [Axis(units.tensor("weight_ih"), 1)]
    names = ["weight_ih", "weight_hh", *(["bias_ih", "bias_hh"] if units.biased else [])]
    rows = [Axis(units.tensor(name), 0, repeats=4, stride=units.out_features) for name in names]
    return [*rows, Axis(units.tensor("weight_hh"), 1)]


def _head_axes(heads: HeadsOf, makes: bool) -> list[Axis]:
    """The rows of queries, keys and values, or else the columns of the input."""
    if not makes:
        return [Axis(name, 1) for name in heads.weights]
    return [Axis(name, 0) for name in (*heads.weights, *heads.biases)]


def _fit_lstm(module: nn.LSTM) -> None:
    shapes = {name: tensor.shape for name, tensor in module.named_parameters()}
    sizes = sorted({shape[1] for name, shape in shapes.items() if name.startswith("weight_hh")})
    if len(sizes) > 1:
        raise ValueError(f"every layer and direction of an LSTM has one hidden size, not {sizes}")
    module.hidden_size, module.input_size = sizes[0], shapes["weight_ih_l0"][1]
    module.flatten_parameters()
