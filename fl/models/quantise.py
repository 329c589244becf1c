"""Eight bits or fewer: local training that feels the rounding, and integer weights after training.

The arithmetic is that of Jacob et al. (2018), "Quantization and Training of Neural Networks for Efficient Integer-
Arithmetic-Only Inference": weights symmetric per output channel, inputs affine per tensor. Gradients go straight through
the rounding (Bengio et al. 2013, "Estimating or Propagating Gradients Through Stochastic Neurons").

What is simulated. A weight is exactly integer times scale, and so is what is stored. An input is rounded to the
2^bits numbers between its own smallest and largest of the batch (zero among them), so results depend a little on which
samples share a batch; the multiplication itself is done in floating point on the rounded numbers (under autocast, on these
as bf16 or fp16). Biases, norms and what is between the layers stay as they are. Of an LSTM only the weights are rounded,
after training.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fl.common.errors import ConfigError

from .bits import MAX_BITS, MIN_BITS


class _Round(torch.autograd.Function):
    """x -> clamp(round(x / scale), low, high) * scale; the gradient of x passes unchanged.

    The range of x is what scale, low and high are made from, so nothing is clamped by more than half a step and no gradient
    must be masked. On a CPU torch.fake_quantize_per_tensor_affine, which stores such a mask, takes six times as long.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, low: Any, high: Any) -> Tensor:
        """`scale` broadcasts against `x`; `low` and `high` are whole numbers, or tensors [] of them."""
        return torch.div(x, scale).round_().clamp_(low, high).mul_(scale)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        """Straight through."""
        return grad, None, None, None


def _levels(bits: int) -> int:
    """Steps between zero and the largest weight: symmetric, so the lowest integer of the type is not used."""
    return (1 << (bits - 1)) - 1


def _per_channel(values: Tensor, weight: Tensor) -> Tensor:
    """One value per output channel, in a shape that broadcasts against `weight`."""
    return values.view(-1, *[1] * (weight.dim() - 1))


def _weight_scales(weight: Tensor, bits: int) -> Tensor:
    """Fp32 [output channels], never 0: the largest weight of a channel is the largest integer."""
    scales = weight.detach().abs().flatten(1).amax(1).float() / _levels(bits)
    return torch.where(scales == 0, 1.0, scales)


def round_weights(weight: Tensor, bits: int) -> Tensor:
    """A weight [output channels, ...] as integers times one scale a channel, in its own type. Zeros stay zero."""
    scales = _per_channel(_weight_scales(weight, bits), weight)
    return _Round.apply(weight.float(), scales, -_levels(bits), _levels(bits)).to(weight.dtype)


def round_inputs(x: Tensor, bits: int) -> Tensor:
    """A tensor, in its own type, as 2^bits numbers at equal distances from its smallest to its largest, zero among them."""
    with torch.no_grad():
        low, high = x.amin().float().clamp(max=0), x.amax().float().clamp(min=0)
        steps = (1 << bits) - 1
        scale = (high - low) / steps
        scale = torch.where(scale == 0, 1.0, scale)
        lowest = (low / scale).round()
    return _Round.apply(x.float(), scale, lowest, lowest + steps).to(x.dtype)


class _Quantised(nn.Module):
    """What a layer becomes: `quantised_bits` bits for its inputs, and for its weights unless they are rounded already."""

    quantised_bits: int
    rounds_weights: bool

    def _rounded(self, x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        bits = self.quantised_bits
        return round_inputs(x, bits), round_weights(weight, bits) if self.rounds_weights else weight


class QuantisedLinear(_Quantised, nn.Linear):
    """A Linear that computes with rounded inputs and weights."""

    def forward(self, input: Tensor) -> Tensor:
        """As nn.Linear."""
        return F.linear(*self._rounded(input, self.weight), self.bias)


class QuantisedConv1d(_Quantised, nn.Conv1d):
    """A Conv1d that computes with rounded inputs and weights."""

    def forward(self, input: Tensor) -> Tensor:
        """As nn.Conv1d."""
        return self._conv_forward(*self._rounded(input, self.weight), self.bias)


class QuantisedConv2d(_Quantised, nn.Conv2d):
    """A Conv2d that computes with rounded inputs and weights."""

    def forward(self, input: Tensor) -> Tensor:
        """As nn.Conv2d."""
        return self._conv_forward(*self._rounded(input, self.weight), self.bias)


_CLASSES: dict[type[nn.Module], type[_Quantised]] = {
    nn.Linear: QuantisedLinear,
    nn.Conv1d: QuantisedConv1d,
    nn.Conv2d: QuantisedConv2d,
}


def fake_quantise(model: nn.Module, bits: int = 8, *, weights: bool = True) -> list[str]:
    """Have every Conv1d, Conv2d and Linear of `model` compute in `bits` (4 to 8) bits, in place; returns their names.

    Parameters, buffers, their names and the state stay as they are: only the forward pass rounds. Without `weights` it
    rounds inputs alone, for a model whose weights are integers times scales already. Subclasses of these layers, whose own
    forward this would replace, are left alone; and a parent that reads a layer's weight itself, as attention and, in
    evaluation, torch's TransformerEncoderLayer do, does not notice. ConfigError if there is no layer to quantise.
    """
    if not MIN_BITS <= bits <= MAX_BITS:
        raise ConfigError(f"{bits} bits: a model can be quantised to {MIN_BITS} to {MAX_BITS} bits")
    names = []
    for name, module in model.named_modules():
        own = _CLASSES.get(type(module))
        if own is not None or isinstance(module, _Quantised):
            module.__class__ = own or type(module)
            module.quantised_bits, module.rounds_weights = bits, weights
            names.append(name)
    if not names:
        raise ConfigError(f"{type(model).__name__} has no Conv1d, Conv2d or Linear that could compute in {bits} bits")
    return names


@dataclass(frozen=True)
class IntegerWeights:
    """A model after quantisation: by name, int8 `integers` and fp32 `scales` [output channels]; `rest` is unchanged."""

    bits: int
    integers: dict[str, Tensor]
    scales: dict[str, Tensor]
    rest: dict[str, Tensor]


def quantise(model: nn.Module, bits: int = 8) -> IntegerWeights:
    """The weights of every Conv1d, Conv2d, Linear and LSTM as integers of `bits` (4 to 8) bits; the model is only read.

    One scale per output channel (of an LSTM: per row, a unit of one gate); zeros stay zero. ConfigError as `fake_quantise`.
    """
    if not MIN_BITS <= bits <= MAX_BITS:
        raise ConfigError(f"{bits} bits: a model can be quantised to {MIN_BITS} to {MAX_BITS} bits")
    names = weight_names(model)
    integers, scales, rest = {}, {}, {}
    for name, tensor in model.state_dict().items():
        if name not in names:
            rest[name] = tensor
            continue
        scales[name] = _weight_scales(tensor, bits)
        levels = (tensor.float() / _per_channel(scales[name], tensor)).round_()
        integers[name] = levels.clamp_(-_levels(bits), _levels(bits)).to(torch.int8).contiguous()
    return IntegerWeights(bits, integers, scales, rest)


def dequantise(quantised: IntegerWeights) -> dict[str, Tensor]:
    """The state of the model, for `load_state_dict`: every weight is its integer times its scale, fp32."""
    state = dict(quantised.rest)
    for name, integers in quantised.integers.items():
        state[name] = integers.float() * _per_channel(quantised.scales[name], integers)
    return state


def weight_names(model: nn.Module) -> set[str]:
    """The names of the weights that `quantise` turns into integers."""
    names = set()
    for name, module in model.named_modules(remove_duplicate=False):
        prefix = name + "." if name else ""
        if type(module) in _CLASSES or isinstance(module, _Quantised):
            names.add(prefix + "weight")
        elif isinstance(module, nn.LSTM):
            names |= {prefix + tensor for tensor, _ in module.named_parameters() if tensor.startswith("weight_")}
    return names
