"""Which channels of a network go together: dropping one means dropping a slice of each tensor that makes or reads it.

torch-pruning's dependency graph (Fang et al. 2023, "DepGraph: Towards Any Structural Pruning") finds them from one
traced forward pass; which slices of which tensors they are, and how a module shrinks, is in `axes`.
"""

import math
from copy import deepcopy
from typing import Any

import torch
import torch_pruning
from torch import Tensor, nn
from torch_pruning.ops import OPTYPE

from .attention import linear_heads
from .axes import Axis, axes_of, block_of
from .cut import cut
from .group import Cut, Example, Group, run
from .recurrent import stand_ins, stands_for

_ROOTS = (torch_pruning.ops.TORCH_CONV, nn.Linear)  # convolutions of all kinds
_BETWEEN = (
    OPTYPE.CONCAT,
    OPTYPE.SPLIT,
    OPTYPE.ELEMENTWISE,
    OPTYPE.RESHAPE,
    OPTYPE.UNBIND,
    OPTYPE.EXPAND,
    OPTYPE.SLICE,
)


def find_groups(model: nn.Module, example: Example) -> tuple[Group, ...]:
    """The groups of channels of `model` that can be dropped, in the order of its layers; deterministic.

    `example`: an input with a batch dimension, on the model's device; its values do not matter. Left whole: the
    model's outputs, and channels that meet a layer which cannot be cut (grouped convolutions, torch's own attention,
    parameters outside layers, LayerNorm, whose mean counts every channel). The model itself does not change, nor does
    any global random state. ValueError where the model cannot be traced, where nothing can be dropped, or where a trial
    shows that a smaller model would not compute what the whole one does without those channels.
    """
    copy = linear_heads(stand_ins(deepcopy(model))).requires_grad_(True).eval()
    names = {module: name for name, module in copy.named_modules()}
    order = {name: i for i, name in enumerate(names.values())}
    found = [group for raw in _trace(copy, example) if (group := _read(raw, copy, names)) is not None]
    found = _recurrent_together(model, found)
    if not found:
        raise ValueError("this model has no channels that could be dropped: a layer before the last one is needed")
    groups = tuple(sorted(found, key=lambda group: order[group.makers[0]]))
    _try_out(model, groups, example)
    return groups


@torch.enable_grad()
def _trace(model: nn.Module, example: Example) -> list[Any]:
    graph = torch_pruning.DependencyGraph()
    try:
        # The graph marks an output as such only where an operation, not a layer, made it: hence the products.
        graph.build_dependency(
            model,
            (example,),
            forward_fn=lambda net, args: [out * 1 for out in _outputs(net, args[0])],
            verbose=False,
        )
        return list(graph.get_all_groups(root_module_types=_ROOTS))
    except Exception as error:  # whatever the model raises on the example, or the graph on the model
        raise ValueError(f"the layers of this model cannot be traced: {type(error).__name__}: {error}") from error


def _outputs(model: nn.Module, example: Example) -> list[Tensor]:
    """What `model` computes, however nested."""
    return [out for out in torch_pruning.utils.flatten_as_list(run(model, example)) if isinstance(out, Tensor)]


def _read(raw: Any, model: nn.Module, names: dict[nn.Module, str]) -> Group | None:
    """torch-pruning's group in our words; None where it must stay whole."""
    graph = raw._DG
    channels, block = len(raw[0].idxs), 1
    makers: list[str] = []
    cuts: list[Cut] = []
    for item in raw:
        module, kind = item.dep.target.module, item.dep.target.type
        if kind in _BETWEEN:
            continue
        makes = graph.is_out_channel_pruning_fn(item.dep.handler)
        axes = axes_of(module, names[module], makes) if module in names else None
        if axes is None:
            return None
        positions, roots = (torch.tensor(each, device="cpu") for each in (item.idxs, item.root_idxs))
        size = (graph.get_out_channels if makes else graph.get_in_channels)(module)
        if size == 1:
            continue  # one channel that is spread over all, as the weights of an attention are
        if size is not None and int(positions.max()) >= size:
            return None
        if makes and isinstance(module, _ROOTS):
            makers.append(names[module])
        together = block_of(module, makes)
        if together > 1 and not torch.equal(positions, roots):
            return None
        block = math.lcm(block, together)
        cuts += [_cut(axis, positions, roots) for axis in axes]
    if channels <= block or channels % block:
        return None
    return Group(tuple(sorted(makers, key=list(names.values()).index)), channels, block, tuple(cuts))


def _cut(axis: Axis, positions: Tensor, channels: Tensor) -> Cut:
    copies = torch.arange(axis.repeats, device="cpu").mul_(axis.stride)
    return Cut(axis.tensor, axis.dim, (positions + copies[:, None]).flatten(), channels.repeat(axis.repeats))


def _recurrent_together(model: nn.Module, groups: list[Group]) -> list[Group]:
    """Without the groups of an LSTM of which some layer or direction must stay whole: all have one hidden size."""
    whole: set[str] = set()
    made = {maker for group in groups for maker in group.makers}
    for name, module in model.named_modules():
        parts = stands_for(module, name)
        if not made.issuperset(parts):
            whole.update(parts)
    kept = [group for group in groups if whole.isdisjoint(group.makers)]
    return kept if len(kept) == len(groups) else _recurrent_together(model, kept)


@torch.no_grad()
def _try_out(model: nn.Module, groups: tuple[Group, ...], example: Example) -> None:
    """ValueError unless half of all channels compute what the whole model does with the others zero."""
    whole = deepcopy(model).requires_grad_(True).eval()
    small = cut(whole, groups, [torch.arange(group.units // 2 * group.block, device="cpu") for group in groups])
    small.zero_outside(whole)
    expected = _outputs(whole, example)
    try:
        got = _outputs(small.model, example)
    except Exception as error:
        raise ValueError(f"this model does not run with fewer channels: {error}") from error
    for a, b in zip(got, expected, strict=True):
        # Reduced-precision matrix products differ by thousandths; channels mixed up differ by as much as they hold.
        if a.shape != b.shape or float((a - b).abs().max()) > 0.01 * float(b.abs().max()):
            raise ValueError("this model mixes its channels (a norm or a softmax over them): they cannot be dropped")
