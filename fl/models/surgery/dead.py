"""Channels of a masked model that compute nothing, and the smaller dense model without them.

A channel can go where all that read it do so with zero weights. And layers that make a channel from zero weights alone
make it a constant, whatever the input: its bias, normalised, activated. If what is read is zero, the channel can go. If not,
it can be added to the bias of the layers that read it (folded) where that is exact: not where a convolution pads its input
with zeros, because there the constant ends at the border. All other channels stay.
"""

from collections.abc import Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .channels import find_groups
from .cut import cut
from .group import Cut, Group

_CONV = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_CHANNELWISE = (*_CONV, nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.GroupNorm, nn.PReLU)
_NO_PADDING = ("valid", (0,), (0, 0), (0, 0, 0))
_SAME = 1e-6  # of its size: numbers that are equal on paper may differ by rounding
_TRIAL = 1e-4  # of the largest output: a smaller model adds up in another order

_Ranges = dict[nn.Module, tuple[Tensor, Tensor]]
"""For every layer the smallest and the largest value of each of its input channels or features, [inputs] each."""


@dataclass(frozen=True)
class Reduced:
    """A smaller dense model. `kept`: for every group, its layers' names joined by `+`, the channels that stay.

    `removed` and `folded` count channels; those folded into a bias are among those removed.
    """

    model: nn.Module
    kept: dict[str, list[int]]
    removed: int
    folded: int


@torch.no_grad()
def remove_dead(model: nn.Module, example: Tensor) -> Reduced | None:
    """The dense model that computes what `model` does in evaluation, without its dead channels; None if it has none.

    `example`: a batch [B, ...] of real inputs, B at least 2, on the model's device. Some channel of every layer stays.
    `model` does not change. ValueError if it cannot be traced, or if a trial on the batch shows that the smaller model
    computes something else.
    """
    whole = deepcopy(model).eval()
    groups = find_groups(whole, example[:2])
    expected, ranges = _watch(whole, groups, example)
    verdicts = [_judge(whole, group, ranges) for group in groups]
    removed = sum(int(dead.sum()) for dead, _ in verdicts)
    if not removed:
        return None
    for group, (_, folded) in zip(groups, verdicts, strict=True):
        _fold(whole, group, ranges, folded)
    kept = [dead.logical_not().nonzero().view(-1) for dead, _ in verdicts]
    small = cut(whole, groups, kept).model
    difference = float((small(example) - expected).abs().max())
    if not difference <= _TRIAL * float(expected.abs().max()):
        raise ValueError(f"without its dead channels this model computes something else (by {difference:g})")
    names = {"+".join(group.makers): chosen.tolist() for group, chosen in zip(groups, kept, strict=True)}
    return Reduced(small, names, removed, sum(int(folded.sum()) for _, folded in verdicts))


def _owner(model: nn.Module, part: Cut) -> nn.Module:
    return model.get_submodule(part.tensor.rpartition(".")[0])


def _role(module: nn.Module, part: Cut) -> Literal["makes", "reads", "between", "units", "other"]:
    """What `module` does with the channels that `part` cuts; `units` are those of an LSTM, which makes them in its way."""
    if isinstance(module, nn.Linear) or (isinstance(module, _CONV) and module.groups == 1):
        return "reads" if part.dim else "makes"
    if isinstance(module, nn.LSTM):
        return "reads" if part.dim else "units"
    return "between" if isinstance(module, _CHANNELWISE) else "other"


def _readers(model: nn.Module, group: Group) -> Iterator[tuple[Cut, nn.Module]]:
    """The layers whose inputs can be watched, and the slices of their weights."""
    for part in group.cuts:
        module = _owner(model, part)
        if _role(module, part) == "reads" and not isinstance(module, nn.LSTM):
            yield part, module


def _watch(model: nn.Module, groups: Iterable[Group], example: Tensor) -> tuple[Tensor, _Ranges]:
    """The model's output, and the range of every reader's inputs over the batch and all positions."""
    ranges: _Ranges = {}

    def look(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        x = args[0] if args else next(iter(kwargs.values()))
        flat = x.movedim(1 if isinstance(module, _CONV) else -1, 0).flatten(1)
        low, high = flat.amin(1).cpu(), flat.amax(1).cpu()
        if module in ranges:
            low, high = torch.minimum(low, ranges[module][0]), torch.maximum(high, ranges[module][1])
        ranges[module] = low, high

    modules = {module for group in groups for _, module in _readers(model, group)}
    hooks = [module.register_forward_pre_hook(look, with_kwargs=True) for module in modules]
    expected = model(example)
    for hook in hooks:
        hook.remove()
    return expected, ranges


def _judge(model: nn.Module, group: Group, ranges: _Ranges) -> tuple[Tensor, Tensor]:
    """Which channels can go, and which of those must be folded; bool [channels] each, on the CPU."""
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    unread = torch.ones(group.channels, dtype=torch.bool, device="cpu")
    constant, folded = unread.clone(), unread.logical_not()
    roles = set()
    for part in group.cuts:
        module = _owner(model, part)
        role = _role(module, part)
        roles |= {role, "units"} if isinstance(module, nn.LSTM) else {role}
        tensor, used = tensors[part.tensor], torch.zeros_like(unread)
        nonzero = tensor.movedim(part.dim, 0).reshape(tensor.shape[part.dim], -1).count_nonzero(1).cpu()
        used[part.channels[nonzero[part.positions] > 0]] = True
        if role == "reads":
            unread &= ~used
        elif role == "makes" and part.tensor.endswith("weight"):
            constant &= ~used
    if "other" in roles or "reads" not in roles:
        unread.zero_()
    if "makes" not in roles or roles & {"units", "other"}:
        constant.zero_()
    for part, module in _readers(model, group):
        zero, same = _read(module, part, ranges)
        constant[part.channels[~same]] = False
        folded[part.channels[~zero]] = True
    dead = _whole_blocks(unread, group) | _whole_blocks(constant, group)
    if dead.all():
        dead[: group.block] = False
    return dead, folded & dead & ~unread


def _whole_blocks(flags: Tensor, group: Group) -> Tensor:
    """Only blocks all of whose channels are flagged: what a norm counts together is dropped together."""
    return flags.view(group.units, group.block).all(1).repeat_interleave(group.block)


def _read(module: nn.Module, part: Cut, ranges: _Ranges) -> tuple[Tensor, Tensor]:
    """Whether `module` reads zero there, and whether it reads zero or what its bias can take over; bool [positions]."""
    if module not in ranges:
        return torch.zeros_like(part.positions, dtype=torch.bool), torch.zeros_like(part.positions, dtype=torch.bool)
    low, high = (side[part.positions] for side in ranges[module])
    zero = (low == 0) & (high == 0)
    pads = isinstance(module, _CONV) and module.padding_mode == "zeros" and module.padding not in _NO_PADDING
    if module.bias is None or pads:
        return zero, zero
    return zero, high - low <= _SAME * torch.maximum(low.abs(), high.abs())


def _fold(model: nn.Module, group: Group, ranges: _Ranges, folded: Tensor) -> None:
    """Add to every reader's bias what the `folded` channels give it."""
    for part, module in _readers(model, group):
        chosen = part.positions[folded[part.channels]]
        chosen = chosen[ranges[module][1][chosen] != 0]
        if not len(chosen):
            continue
        weight, bias = module.get_parameter("weight"), module.get_parameter("bias")
        sums = weight[:, chosen.to(weight.device)].reshape(len(weight), len(chosen), -1).double().sum(2)
        bias.add_((sums @ ranges[module][1][chosen].to(sums)).to(bias.dtype))
