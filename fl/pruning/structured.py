"""Structured pruning: the channels, neurons and hidden units worth least go, and a smaller dense model stays."""

import math
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor, nn

from compression.draws import derive_key, uniform
from compression.layout import Layout
from fl.models.surgery.channels import find_groups
from fl.models.surgery.cut import SmallerModel, cut
from fl.models.surgery.group import Example, Group

METHODS = ("l1", "l2", "random", "gradient")
"""What a channel is worth: sum of |w|, of w^2, nothing (random), or a sum of what the caller passes."""


def shrink(
    model: nn.Module,
    sparsity: float,
    example_input: Example | None = None,
    *,
    method: str = "l2",
    key: int = 0,
    gradient: Tensor | None = None,
    protect: Collection[str] = (),
    overrides: Mapping[str, float] | None = None,
    round_to: int = 1,
    groups: Sequence[Group] | None = None,
) -> SmallerModel:
    """The sub-model of `model` without the fraction `sparsity` in [0, 1) of the channels of every group.

    A channel's score is the sum over everything that would be dropped with it (the group norm of Fang et al. 2023):
    |w| for `l1`, w^2 for `l2`, and for `gradient` the caller's `gradient`, fp32 [n] over all trainable parameters
    (accumulated |g| or g^2). `random` draws from `key`. Of c channels floor(c (1 - sparsity)) stay, at least one, the
    highest scores, among equals the first; the same scores at another sparsity give nested sub-models. The model's
    outputs stay whole.

    `protect`: layers, by name or dotted prefix, whose channels stay. `overrides`: sparsity of single layers, likewise;
    where several layers share channels, the first of them that is named decides. `round_to`: kept channels are
    rounded up to a multiple. `groups`: from an earlier `find_groups` (which traces; choosing does not), instead of
    `example_input`. ValueError for what cannot be.
    """
    if method not in METHODS:
        raise ValueError(f"method must be one of {', '.join(METHODS)}, not '{method}'")
    if groups is None:
        if example_input is None:
            raise ValueError("shrink needs an example input or the groups found with one")
        groups = find_groups(model, example_input)
    if method == "random":
        scores = [uniform(derive_key(key, number), group.units, "cpu") for number, group in enumerate(groups)]
    else:
        scores = unit_scores(groups, _worth(model, method, gradient))
    kept = best_channels(groups, scores, sparsity, protect=protect, overrides=overrides, round_to=round_to)
    return cut(model, groups, kept)


def best_channels(
    groups: Sequence[Group],
    scores: Sequence[Tensor],
    sparsity: float,
    *,
    protect: Collection[str] = (),
    overrides: Mapping[str, float] | None = None,
    round_to: int = 1,
    held: Sequence[Tensor] | None = None,
) -> list[Tensor]:
    """For each group the channels to keep, ascending int64: those of highest score, fp32 [units] for each group.

    The arguments are those of `shrink`. `held`: what an earlier call kept; nothing else is kept now.
    """
    overrides = overrides or {}
    _check(sparsity, overrides, groups)
    kept = []
    for number, (group, worth) in enumerate(zip(groups, scores, strict=True)):
        count = units_kept(group, 1.0 - _sparsity_of(group, sparsity, protect, overrides), round_to, up=False)
        if held is not None:
            before = held[number][:: group.block].div(group.block, rounding_mode="floor")
            count = min(count, before.numel())
            worth = torch.full_like(worth, -math.inf).index_copy_(0, before, worth[before])
        best = torch.sort(worth, descending=True, stable=True).indices[:count]
        kept.append(channels_of(group, best))
    return kept


def unit_scores(groups: Sequence[Group], worth: Mapping[str, Tensor]) -> list[Tensor]:
    """For each group the sum of `worth` (by tensor name, in the tensors' shapes) over what each block of channels that
    stay or go together owns: fp32 [units], on the CPU, since adding up by index on a GPU has no fixed order."""
    owned = dict.fromkeys((part.tensor, part.dim) for group in groups for part in group.cuts if part.tensor in worth)
    sums = [_sum_of_slices(worth[name], dim) for name, dim in owned]
    # All in one copy: the host waits for each.
    on_host = torch.cat(sums).cpu().split([len(each) for each in sums]) if sums else ()
    slices = dict(zip(owned, on_host, strict=True))
    return [_channel_scores(group, slices).view(group.units, group.block).sum(1) for group in groups]


def units_kept(group: Group, fraction: float, round_to: int, *, up: bool) -> int:
    """How many of the group's blocks stay: `fraction` of them, rounded up or down, then up to whole `round_to`."""
    if not 0.0 < fraction <= 1.0:
        raise ValueError(f"the fraction of channels to keep must be above 0 and at most 1, not {fraction:g}")
    if round_to < 1:
        raise ValueError(f"round_to must be at least 1, not {round_to}")
    exact = group.units * fraction
    # 10 * (1 - 0.9) is 0.9999999999999998: what is whole up to rounding is meant whole.
    count = max(1, math.ceil(exact - 1e-9) if up else math.floor(exact + 1e-9))
    step = math.lcm(group.block, round_to) // group.block
    return min(group.units, -(-count // step) * step)


def channels_of(group: Group, units: Tensor) -> Tensor:
    """The channels of the blocks `units`, ascending int64."""
    first = units.sort().values.mul(group.block)
    return (first[:, None] + torch.arange(group.block, device=first.device)).flatten()


def _sum_of_slices(values: Tensor, dim: int) -> Tensor:
    others = [other for other in range(values.dim()) if other != dim]
    return values.sum(others) if others else values


def _channel_scores(group: Group, slices: Mapping[tuple[str, int], Tensor]) -> Tensor:
    """The sum over what each channel owns, fp32 [channels], of sums by tensor and dimension."""
    scores = torch.zeros(group.channels, device="cpu")
    for part in group.cuts:
        if (part.tensor, part.dim) in slices:
            scores.index_add_(0, part.channels, slices[part.tensor, part.dim][part.positions])
    return scores


def _check(sparsity: float, overrides: Mapping[str, float], groups: Sequence[Group]) -> None:
    named = {"sparsity": sparsity} | {f"the sparsity of '{name}'": value for name, value in overrides.items()}
    for what, value in named.items():
        if not 0.0 <= value < 1.0:
            raise ValueError(f"{what} must be at least 0 and below 1, not {value:g}")
    makers = [maker for group in groups for maker in group.makers]
    for name in overrides:
        if not any(_under(maker, name) for maker in makers):
            raise ValueError(f"'{name}' is no layer that can be pruned; these are: {', '.join(makers)}")


def _worth(model: nn.Module, method: str, gradient: Tensor | None) -> dict[str, Tensor]:
    """What every trainable coordinate adds to the score of its channel, by tensor name."""
    named = [(name, p.detach()) for name, p in model.named_parameters() if p.requires_grad]
    if method != "gradient":
        return {name: p.float().abs() if method == "l1" else p.float().square() for name, p in named}
    layout = Layout.of(named)
    if gradient is None or gradient.shape != (layout.total,):
        given = "none" if gradient is None else str(list(gradient.shape))
        raise ValueError(f"method 'gradient' needs a gradient of [{layout.total}] coordinates, not {given}")
    return dict(zip(layout.names, layout.views(gradient.float()), strict=True))


def _sparsity_of(group: Group, usual: float, protect: Collection[str], overrides: Mapping[str, float]) -> float:
    if any(_under(maker, name) for maker in group.makers for name in protect):
        return 0.0
    for maker in group.makers:
        matching = [name for name in overrides if _under(maker, name)]
        if matching:
            return overrides[max(matching, key=len)]
    return usual


def _under(maker: str, name: str) -> bool:
    """Whether layer `maker` is called `name` (or `name` is its weight) or lies below it."""
    return maker == name or maker.startswith(name + ".") or name == maker + ".weight"
