"""What a forward pass costs, in all and for each coordinate: a declared cost model from shapes alone, never a clock.

PruneFL (see `fl.pruning.prunefl`) measures the time a weight adds to a round on its devices. Here it is the number of
floating-point operations that read the weight, so that a run replays on any machine.
"""

from collections.abc import Iterable, Iterator
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry

from .group import Example, run

_UNREAD = 1.0


def flops(model: nn.Module, example: Example) -> int:
    """Floating-point operations of one forward pass of `model` on `example`: 2 for every multiply-add of a
    convolution or matrix product, as torch counts them; norms and activations count nothing. A training step costs
    about three times as much. Nothing is computed: the pass runs on a copy without storage.
    """
    bare = _without_storage(model)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        run(bare, _meta(example))
    return int(counter.get_total_flops())


def layer_times(model: nn.Module, example: Example) -> Tensor:
    """Floating-point operations for each sample and each coordinate of every trainable tensor, float64 [layers].

    In the order of `named_parameters`. `example`: an input, or a tuple of them, whose first dimension counts samples; its
    values do not matter. Each operation on a tensor, or on a part of it, costs:

    - a matrix product or a convolution, for the tensor with two dimensions or more: 2 for every multiply-add, so 2 for
      each position of a convolution's output, 2 for a linear layer, 2 for each step of an LSTM;
    - any other, such as adding a bias, scaling in a norm, looking up an embedding: 1 for every number that comes out.

    A tensor that no operation reads costs 1 for every coordinate: it is sent all the same. The model does not change, and
    nothing is computed: the pass, in evaluation mode, runs on a copy without storage. ValueError for a batch of none.
    """
    trainable = [name for name, p in model.named_parameters() if p.requires_grad]
    bare = _without_storage(model)
    inputs = _meta(example)
    samples = len(inputs[0])
    if not samples:
        raise ValueError("the example must hold at least one sample, not none")
    with _Readers(bare.parameters()) as readers, torch.no_grad():
        run(bare, inputs)
    named = dict(bare.named_parameters())
    return torch.tensor(
        [_of_one(readers, named[name], samples) for name in trainable], dtype=torch.float64, device="cpu"
    )


def _without_storage(model: nn.Module) -> nn.Module:
    """A copy of `model` in evaluation mode whose parameters, all fixed, and buffers lie on `meta`."""
    bare = {id(b): b.to("meta") for b in model.buffers()}
    bare.update((id(p), nn.Parameter(p.detach().to("meta"), requires_grad=False)) for p in model.parameters())
    return deepcopy(model, bare).eval()


def _meta(example: Example) -> tuple[Tensor, ...]:
    """The arguments of a forward pass, without storage."""
    return tuple(argument.to("meta") for argument in (example if isinstance(example, tuple) else (example,)))


def _of_one(readers: "_Readers", parameter: Tensor, samples: int) -> float:
    operations = readers.operations[_storage(parameter)]
    return operations / (samples * parameter.numel()) if operations else _UNREAD


class _Readers(TorchDispatchMode):
    """Adds up the operations that read each of `parameters`, in `operations`, by their storage.

    Sums, not shares of them, so that views of a tensor (a transposed weight, one gate of an LSTM) count for the whole.
    """

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        super().__init__()
        self.operations = dict.fromkeys(map(_storage, parameters), 0)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation, and count it."""
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        first = next(_tensors((out,)), None)
        if first is None:
            return out
        for tensor in _tensors((*args, *kwargs.values())):
            key = _storage(tensor)
            if key not in self.operations or key == _storage(first):  # no parameter, or a mere view of it
                continue
            if tensor.dim() >= 2 and func.overloadpacket in flop_registry:
                self.operations[key] += flop_registry[func.overloadpacket](*args, **kwargs, out_val=out)
            else:
                self.operations[key] += first.numel()
        return out


def _tensors(values: Iterable[Any]) -> Iterator[Tensor]:
    """The tensors among `values` and in the lists and tuples among them."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, list | tuple):
            yield from _tensors(value)


def _storage(tensor: Tensor) -> int:
    """What views of one tensor have in common, where there is no memory to have an address."""
    return tensor.untyped_storage()._cdata
