"""Sub-models by width alone: the same fraction of every layer, whatever the weights.

HeteroFL (Diao, Ding and Tarokh 2021): the first channels of every layer, so that narrower models lie inside wider ones.
FedRolex (Alam et al. 2022): a window of channels that moves by one every round and wraps, so that all are trained.
"""

from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from fl.models.surgery.channels import find_groups
from fl.models.surgery.cut import SmallerModel, cut
from fl.models.surgery.group import Example, Group

from .structured import channels_of, units_kept


class Scaler:
    """A forward hook that divides a layer's output by `ratio` while training, not in evaluation.

    HeteroFL, section 3 ("Scaler"): what follows then sees, in a narrow model that trains, the magnitude that it will
    see in the whole one.
    """

    def __init__(self, ratio: float) -> None:
        self.ratio = ratio

    def __call__(self, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        """The layer's output, scaled."""
        return output / self.ratio if module.training else output


class AbsentClasses:
    """A forward hook that sets a classifier's outputs for the classes that a client does not have to 0 while training.

    HeteroFL, section 3 ("masked cross-entropy"): a client says nothing of classes that it has never seen. `absent`:
    int64 numbers of these classes.
    """

    def __init__(self) -> None:
        self.absent: Tensor | None = None

    def __call__(self, module: nn.Module, args: Any, output: Tensor) -> Tensor:
        """The outputs [batch, classes], masked."""
        if self.absent is None or not module.training:
            return output
        return output.index_fill(1, self.absent, 0.0)


@torch.no_grad()
def class_layers(model: nn.Module, example: Tensor, classes: int) -> list[str]:
    """The trainable parameters of which row c makes output c alone: weight and bias of the last layer.

    Found by changing rows of a copy, whatever the layers are called. `example`: [batch, ...], on the model's device.
    HeteroFL's program aggregates row c over the clients that have class c.
    """
    copy = deepcopy(model).eval()
    before = copy(example)
    found = []
    for name, parameter in copy.named_parameters():
        if parameter.requires_grad and parameter.dim() and len(parameter) == classes:
            probes = {0, classes // 2, classes - 1}
            if all(_changes(copy, example, before, parameter[row]) == {row} for row in probes):
                found.append(name)
    return found


def _changes(model: nn.Module, example: Tensor, before: Tensor, row: Tensor) -> set[int]:
    """The outputs that are others than `before` when a row of a parameter is; afterwards it is as it was."""
    kept = row.clone()
    row.add_(1.0)
    changed = (model(example) - before).abs().transpose(0, 1).flatten(1).amax(1) > 1e-5
    row.copy_(kept)
    return set(changed.nonzero().view(-1).tolist())


def width(
    model: nn.Module,
    ratio: float,
    example_input: Example | None = None,
    *,
    shift: int = 0,
    scaler: bool = False,
    round_to: int = 1,
    groups: Sequence[Group] | None = None,
) -> SmallerModel:
    """The sub-model of `model` with the fraction `ratio` in (0, 1] of the channels of every group, rounded up.

    `shift` 0: the first channels (HeteroFL). Otherwise the window that begins at channel `shift` modulo their number
    and wraps (FedRolex, Algorithm 1: the shift is the round); where GroupNorm holds channels together it moves by its
    groups. The model's outputs stay whole. `scaler`: put a `Scaler` behind every convolution and linear layer that
    was narrowed. `groups` as for `shrink`. ValueError for what cannot be.
    """
    if groups is None:
        if example_input is None:
            raise ValueError("width needs an example input or the groups found with one")
        groups = find_groups(model, example_input)
    sub = cut(model, groups, windows(groups, ratio, shift, round_to))
    if scaler and ratio < 1:
        put_scalers(sub, groups, ratio)
    return sub


def windows(groups: Sequence[Group], ratio: float, shift: int = 0, round_to: int = 1) -> list[Tensor]:
    """For each group the channels of `width`, ascending int64."""
    kept = []
    for group in groups:
        count = units_kept(group, ratio, round_to, up=True)
        kept.append(channels_of(group, torch.arange(shift, shift + count, device="cpu").remainder(group.units)))
    return kept


def put_scalers(sub: SmallerModel, groups: Sequence[Group], ratio: float) -> None:
    """A `Scaler` behind every layer of the sub-model that was narrowed."""
    for name in sorted({maker for group in groups for maker in group.makers}):
        _put_behind(sub.model, name, Scaler(ratio))


def _put_behind(model: nn.Module, name: str, scaler: Scaler) -> None:
    modules = dict(model.named_modules())
    if name in modules:  # a stand-in's part is none: an LSTM's output is bounded by its gates, not by its width
        modules[name].register_forward_hook(scaler)
