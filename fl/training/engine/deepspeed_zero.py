"""Local training in a DeepSpeed engine that shares out a client among its ranks (ZeRO stages 1 to 3)."""

import contextlib
import copy
import importlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fl.common.config import Config
from fl.common.errors import ConfigError
from fl.common.ranks import Ranks

from .base import Loss
from .deepspeed_engine import DeepSpeedEngine
from .deepspeed_json import DeepSpeedJson
from .deepspeed_setup import old_names
from .precision import resolve_precision

if TYPE_CHECKING:
    from . import RanksLike


@contextlib.contextmanager
def _among_peers() -> Iterator[None]:
    """Calls of DeepSpeed without its check that all ranks of the world, whatever client they train, go through layers in the
    same order, which stage 3 makes where it learns this order."""
    module = importlib.import_module("deepspeed.runtime.zero.partitioned_param_coordinator")
    check = module.assert_ints_same_as_other_ranks
    module.assert_ints_same_as_other_ranks = lambda ints: None  # type: ignore[attr-defined]
    try:
        with old_names():
            yield
    finally:
        module.assert_ints_same_as_other_ranks = check  # type: ignore[attr-defined]


class ZeroEngine(DeepSpeedEngine):
    """DeepSpeed's engine on a copy of `model`, of which each of the client's ranks holds a part: of the moments and of the
    fp32 weights that are stepped (stage 1), of gradients too (2), and of the weights that compute too (3).

    ZeRO's optimizer has hooks on the copy, so it is made once. `start` loads the weights into its parts, and clears what it
    remembers. Every rank must use the same layers in a step, and must not fail inside one: the others would wait for it in
    ZeRO's collectives. Hooks on the gradients of `model` see nothing.
    """

    def __init__(
        self,
        config: Config,
        model: nn.Module,
        ranks: "RanksLike",
        file: DeepSpeedJson,
        loss: Loss = F.cross_entropy,
        peers: Ranks | None = None,
    ) -> None:
        native = file.is_native(resolve_precision(config.precision, ranks.device))
        if native and any(isinstance(module, nn.modules.batchnorm._NormBase) for module in model.modules()):
            raise ConfigError(
                f"zero_optimization.stage {file.zero_stage} in {file.name} has weights of one type, and batch norm "
                "computes with fp32 ones: say torch_autocast in place of bf16, or take a model without (--norm group)"
            )
        super().__init__(config, model, ranks, file, loss, peers)
        self._rank = 0 if peers is None else peers.rank
        optimizer = self._engine.optimizer.optimizer  # of Adagrad, ZeRO makes one of its own
        for parameter in self.network.parameters():
            optimizer.state.pop(parameter, None)  # from before there were parts
        self._first_state = [(part, copy.deepcopy(state)) for part, state in optimizer.state.items()]
        self._first_groups = [{key: group[key] for key in group if key != "params"} for group in optimizer.param_groups]
        self._utils: Any = importlib.import_module("deepspeed.utils")

    @torch.no_grad()
    def _renew(self) -> None:
        self._own.put_back()
        if self._file.zero_stage == 3:
            self._engine.optimizer.empty_partition_cache()  # the engine's own also collects garbage: 0.3 s a client
        for own, whole in zip(self.network.parameters(), self.model.parameters(), strict=True):
            if self._file.zero_stage == 3:
                self._load_part(own, whole)
            else:
                own.copy_(whole)
                if own.requires_grad:
                    self._utils.safe_set_full_fp32_param(own, whole)
        for copied, buffer in zip(self.network.buffers(), self.model.buffers(), strict=True):
            copied.copy_(buffer)
        optimizer = self._engine.optimizer.optimizer
        optimizer.state.clear()
        optimizer.state.update((part, copy.deepcopy(state)) for part, state in self._first_state)
        for group, first in zip(optimizer.param_groups, self._first_groups, strict=True):
            for key in group.keys() - first.keys() - {"params"}:
                del group[key]
            group.update(first)

    def _load_part(self, own: Any, whole: Tensor) -> None:
        """Stage 3: this rank's part of a weight. DeepSpeed's setter takes no weight that the ranks do not divide."""
        size = own.ds_tensor.numel()
        part = whole.reshape(-1)[size * self._rank : size * (self._rank + 1)]
        part = F.pad(part, (0, size - part.numel()))
        own.ds_tensor.copy_(part)
        if own.requires_grad:
            self._utils.safe_set_local_fp32_param(own, part)

    @_among_peers()
    def step(self, x: Tensor, y: Tensor) -> Tensor:
        if self._file.zero_stage == 3:
            self._meet()
        return super().step(x, y)

    @old_names()
    @torch.no_grad()
    def finish(self) -> None:
        """End the client: gather the weights in `model`."""
        self._meet()
        for own, whole in zip(self.network.parameters(), self.model.parameters(), strict=True):
            if own.requires_grad:
                whole.copy_(self._utils.safe_get_full_fp32_param(own))
        for copied, buffer in zip(self.network.buffers(), self.model.buffers(), strict=True):
            buffer.copy_(copied)

    def _meet(self) -> None:
        """A rank that has failed since it was here tells the others, who would wait for it in what comes next."""
        with self._together():
            pass
