"""Several small clients at once: their parameters are stacked, and `torch.func.vmap` takes the model over all of them."""

from collections.abc import Mapping, Sequence
from itertools import chain

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from compression.phases import phase
from fl.common.config import Config, TrainOptions
from fl.models.trial import logits_of

from .engine.base import LocalEngine
from .engine.optimizer import make_optimizer
from .engine.plain import PlainEngine
from .schedule import step_schedule

Batch = tuple[Tensor, Tensor]

_LAYERS = frozenset(
    {
        *(nn.Sequential, nn.Flatten, nn.Identity, nn.Linear),
        *(nn.ReLU, nn.LeakyReLU, nn.ELU, nn.GELU, nn.SiLU, nn.Tanh, nn.Sigmoid, nn.Softplus),
    }
)
"""Layers that draw and remember nothing, and are faster at once. Convolutions become one in groups, which is slower."""
_LARGEST_ON_CPU = 100_000
"""Parameters of a model. The weights of many larger ones at once do not fit into the cache of a processor."""


def reason_for_one(config: Config, engine: LocalEngine) -> str:
    """Why clients train one at a time, whatever `--clients-at-once` says; empty if they need not."""
    if config.algorithm != "fedavg":
        return f"--algorithm {config.algorithm} changes gradients or updates of each client"
    if config.fragments > 1 or config.merge:
        return f"--fragments {config.fragments} keeps weights of each client's own"
    if config.prune != "none":
        return f"--prune {config.prune} changes what clients train"
    if step_schedule(config, 1) is not None:
        return f"--lr-schedule {config.lr_schedule} goes by the steps of each client"
    if config.accumulate > 1:
        return f"--accumulate {config.accumulate} takes the batches of each client one after another"
    if config.local_state == "keep":
        return "--local-state keep gives each client's optimizer moments of its own"
    if config.ranks_per_client > 1:
        return f"--ranks-per-client {config.ranks_per_client} averages the gradients of each client"
    if type(engine) is not PlainEngine:
        return f"--engine {config.engine} has one model"
    if not engine.can_halve:
        return "--precision fp16, or a hook on a parameter, looks at the gradients of each client"
    for module in engine.model.modules():
        if type(module) not in _LAYERS:
            return f"--model {config.model} has a {type(module).__name__}"
        if module._forward_pre_hooks or any(hook is not logits_of for hook in module._forward_hooks.values()):
            return f"--model {config.model} has hooks"
    parameters = sum(parameter.numel() for parameter in engine.model.parameters())
    if engine.device.type == "cpu" and parameters > _LARGEST_ON_CPU:
        return f"--model {config.model} has {parameters:,} parameters, and above {_LARGEST_ON_CPU:,} a CPU is slower at once"
    return ""


class ClientsTogether:
    """So many clients that start from the weights in the model of `engine`, at learning rate `lr`.

    Each has parameters, gradients and moments of its own in memory. What it ends in depends on the others by rounding alone:
    matrix products of several clients may add up in another order.
    """

    @torch.no_grad()
    def __init__(self, options: TrainOptions, engine: PlainEngine, clients: int, lr: float) -> None:
        named = {name: p for name, p in engine.model.named_parameters() if p.requires_grad}
        self._clip_norm = options.clip_norm
        self._names = [f"model.{name}" for name in named]
        self._trained = list(named.values())
        first = [_turned(parameter).contiguous() for parameter in self._trained]
        self._weights = [[nn.Parameter(weight.clone()) for weight in first] for _ in range(clients)]
        self._optimizer = make_optimizer(options, chain(*self._weights), lr)
        self._loss = _Loss(engine)
        self._losses = vmap(self._loss_of)

    def step(self, batches: Mapping[int, Batch]) -> dict[int, Tensor]:
        """One optimizer step of each of these clients, by number from 0, on its batch. Returns their losses before the step,
        as `LocalEngine.step` does."""
        losses: dict[int, Tensor] = {}
        for same in _alike(batches):
            found = self._stacked([self._weights[at] for at in same], [batches[at] for at in same])
            with phase("backward"):
                found.sum().backward()
            losses.update(zip(same, found.detach(), strict=True))
        with phase("optimizer"):
            if self._clip_norm:
                for at in batches:
                    nn.utils.clip_grad_norm_(self._weights[at], self._clip_norm)
            self._optimizer.step()
            self._optimizer.zero_grad()  # to None: whoever takes no part in a step stays as it is
        return losses

    @torch.no_grad()
    def put(self, at: int) -> None:
        """Copy the weights of client `at` into the engine's model."""
        for parameter, weight in zip(self._trained, self._weights[at], strict=True):
            parameter.copy_(_turned(weight))

    def _stacked(self, weights: Sequence[Sequence[Tensor]], batches: Sequence[Batch]) -> Tensor:
        """The loss [K] of K clients, each on its batch; all batches are of one shape."""
        x, y = (torch.stack(each) for each in zip(*batches, strict=True))
        return self._losses([torch.stack(each) for each in zip(*weights, strict=True)], x, y)

    def _loss_of(self, weights: Sequence[Tensor], x: Tensor, y: Tensor) -> Tensor:
        named = dict(zip(self._names, map(_turned, weights), strict=True))
        return functional_call(self._loss, named, (x, y))


class _Loss(nn.Module):
    """The engine's loss of a batch, as a module with the engine's `model`."""

    def __init__(self, engine: PlainEngine) -> None:
        super().__init__()
        self.model = engine.model
        self._loss_of = engine.loss_of

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self._loss_of(x, y)


def _turned(weight: Tensor) -> Tensor:
    """The weight of a linear layer [outputs, inputs] with its axes in the other order; others as they are.

    vmap gives the gradients of these weights in that order, and PyTorch would copy each into the order of the weight.
    """
    return weight.mT if weight.dim() == 2 else weight


def _alike(batches: Mapping[int, Batch]) -> list[list[int]]:
    """The clients whose batches are of one size, together."""
    by_size: dict[int, list[int]] = {}
    for at, (_, y) in batches.items():
        by_size.setdefault(len(y), []).append(at)
    return list(by_size.values())
