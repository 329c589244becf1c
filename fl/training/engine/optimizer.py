"""The local optimizer, always new, and what a client keeps of it (`--local-state keep`)."""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer

from compression import Layout
from fl.common.config import TrainOptions

from .precision import is_dense


def _eager(kind: type[Optimizer]) -> type[Optimizer]:
    """A class that does what `kind` does, to the bit, and leaves torch's compiler out.

    Methods of torch's optimizers are decorated for the case that somebody compiles them. When one is called, the decorator
    imports the compiler, which takes as long as importing torch.
    """
    decorated = ("add_param_group", "load_state_dict", "state_dict", "zero_grad")
    methods: dict[str, Any] = {name: inspect.unwrap(getattr(kind, name)) for name in decorated}
    methods["step"] = torch.no_grad()(inspect.unwrap(kind.step))
    return type(kind.__name__, (kind,), methods)


_KINDS: dict[str, type[Optimizer]] = {"sgd": SGD, "adam": Adam, "adamw": AdamW}
_EAGER = {name: _eager(kind) for name, kind in _KINDS.items()}


def make_optimizer(
    options: TrainOptions, params: Iterable[Any], lr: float, *, exact: bool = False, **extra: Any
) -> Optimizer:
    """A fresh optimizer of `params` (tensors or parameter groups) as `--optimizer`, `--momentum`, `--adam-beta2` and
    `--weight-decay` say.

    `extra` goes to the torch class as it is (betas, eps, nesterov, ...). `exact`: an instance of that class itself, not of
    one derived from it. The fused kernels are used where they are right: on ResNet-18 and 2 CPU threads a step takes 3.2 ms
    fused, 6.3 ms by default and 8.0 ms with foreach for SGD, and 4.7, 20 and 15 ms for Adam. They differ from the default
    ones in the last bits.
    """
    params = list(params)
    common: dict[str, Any] = {"lr": lr, "weight_decay": options.weight_decay, **extra}
    if options.optimizer == "sgd":
        common["momentum"] = options.momentum
    else:
        common.setdefault("betas", (0.9, options.adam_beta2))
    # Dampening leaves the first gradient of each parameter alone, and a momentum that is there already cannot tell.
    common["fused"] = not extra.get("dampening") and all(
        not hasattr(parameter, "full_tensor")  # in parts on several ranks
        and is_dense(parameter)
        and parameter.device.type in ("cpu", "cuda")
        for parameter in _tensors(params)
    )
    optimizer = (_KINDS if exact else _EAGER)[options.optimizer](params, **common)
    fill_momentum(optimizer)
    return optimizer


def fill_momentum(optimizer: Optimizer) -> None:
    """Give fused SGD the momentum that it has before the first step.

    Left alone, it takes uninitialised memory for it, which stays so if a loss scaler skips that step, and it fails where
    some parameters get their first gradient later than others. Minus zero plus any number is that number, to the bit.
    """
    for group in optimizer.param_groups:
        if isinstance(optimizer, SGD) and group["fused"] and group["momentum"]:
            for parameter in group["params"]:
                optimizer.state[parameter]["momentum_buffer"] = torch.full_like(parameter, -0.0, requires_grad=False)


_STEPS = "step"  # what Adam calls how many it has taken


def read_moments(optimizer: Optimizer, params: Sequence[Tensor]) -> dict[str, Tensor]:
    """What the optimizer remembers of `params`: each moment end to end, fp32 [n], and the steps that each has taken, int64.

    New tensors, by torch's names; without any where the optimizer has no moments. A parameter that never had a gradient has
    zeros.
    """
    states = [optimizer.state.get(parameter, {}) for parameter in params]
    names = {name for state in states for name, value in state.items() if isinstance(value, Tensor)}
    layout = Layout.of((str(at), parameter) for at, parameter in enumerate(params))
    found = {}
    for name in sorted(names - {_STEPS}):
        moments = [
            state[name] if name in state else torch.zeros_like(each) for state, each in zip(states, params, strict=True)
        ]
        found[name] = layout.gather(moments, torch.empty(layout.total, device=params[0].device))
    if _STEPS in names:  # whole numbers, which no rounding of the state changes
        steps = [state.get(_STEPS, torch.zeros(())).to(params[0].device) for state in states]
        found[_STEPS] = torch.stack(steps).long()
    return found


def load_moments(optimizer: Optimizer, params: Sequence[Tensor], kept: Mapping[str, Tensor]) -> None:
    """Go on from what `read_moments` found for these `params`, on any device; it is only read."""
    layout = Layout.of((str(at), parameter) for at, parameter in enumerate(params))
    device, fused = params[0].device, optimizer.param_groups[0]["fused"]
    for name, values in kept.items():
        if name == _STEPS:
            own = values.to(device if fused else "cpu", torch.float32, copy=True).unbind()
        else:
            # Fused kernels walk through memory: moments must lie there in the order of their weights (channels-last, say).
            own = tuple(torch.empty_like(parameter, requires_grad=False) for parameter in params)
            layout.scatter(values.to(device, torch.float32), own)
        for parameter, value in zip(params, own, strict=True):
            optimizer.state[parameter][name] = value


def count_moments(options: TrainOptions) -> int:
    """How many vectors as large as the model a client keeps of its optimizer between rounds."""
    if options.local_state == "fresh":
        return 0
    return int(options.momentum > 0) if options.optimizer == "sgd" else 2


def _tensors(params: list[Any]) -> Iterable[Tensor]:
    for entry in params:
        if isinstance(entry, torch.Tensor):
            yield entry
        else:
            yield from entry["params"]
