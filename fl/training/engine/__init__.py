"""What runs a client's local optimizer steps: plain PyTorch, Accelerate or DeepSpeed."""

from typing import Literal, Protocol

import torch
from torch import nn
from torch.nn import functional as F

from fl.common.config import Config

from .base import LocalEngine, Loss


class RanksLike(Protocol):
    """The part of `fl.common.ranks.Ranks` that an engine needs."""

    @property
    def rank(self) -> int:
        """This process among all."""

    @property
    def local_rank(self) -> int:
        """This process among those of its machine."""

    @property
    def device(self) -> torch.device:
        """Where it trains."""

    @property
    def launcher(self) -> str:
        """What started it: python, torchrun, accelerate, deepspeed, mpirun or srun."""


def choose_engine(config: Config, launcher: str) -> Literal["ddp", "accelerate", "deepspeed"]:
    """`--engine` with `auto` decided: DeepSpeed where its launcher or its JSON file is used, Accelerate under its own."""
    if config.engine != "auto":
        return config.engine
    if launcher == "deepspeed" or config.deepspeed_config:
        return "deepspeed"
    return "accelerate" if launcher == "accelerate" else "ddp"


def make_engine(config: Config, model: nn.Module, ranks: RanksLike, loss: Loss = F.cross_entropy) -> LocalEngine:
    """The engine that makes `loss` of `model` small on this rank; every rank calls it, once the process group exists.

    With DeepSpeed, `config` is the one that `reconcile` returned. Accelerate and DeepSpeed are imported only if chosen.
    """
    name = choose_engine(config, ranks.launcher)
    if name == "accelerate":
        from .accelerated import AcceleratedEngine

        return AcceleratedEngine(config, model, ranks.device, loss)
    if name == "deepspeed":
        from .deepspeed_engine import DeepSpeedEngine

        return DeepSpeedEngine(config, model, ranks, loss)
    from .plain import PlainEngine

    return PlainEngine(config, model, ranks.device, loss)
