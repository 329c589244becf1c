"""What a forward pass costs, from shapes alone: a declared cost model, never a clock."""

from copy import deepcopy

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from .group import Example, run


def flops(model: nn.Module, example: Example) -> int:
    """Floating-point operations of one forward pass of `model` on `example`: 2 for every multiply-add of a
    convolution or matrix product, as torch counts them; norms and activations count nothing. A training step costs
    about three times as much. Nothing is computed: the pass runs on a copy without storage.
    """
    without = {id(b): b.to("meta") for b in model.buffers()}
    without.update((id(p), nn.Parameter(p.detach().to("meta"), requires_grad=False)) for p in model.parameters())
    bare = deepcopy(model, without).eval()
    arguments = example if isinstance(example, tuple) else (example,)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run(bare, tuple(argument.to("meta") for argument in arguments))
    return int(counter.get_total_flops())
