"""What runs a client's local optimizer steps: plain PyTorch, Accelerate, DeepSpeed or FSDP."""

from typing import Literal, Protocol

import torch
from torch import nn
from torch.nn import functional as F

from fl.common.config import Config
from fl.common.errors import ConfigError
from fl.common.ranks import Ranks

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
    def peers(self) -> Ranks | None:
        """The ranks that train a client together; asked with `--ranks-per-client` alone."""

    @property
    def launcher(self) -> str:
        """What started it: python, torchrun, accelerate, deepspeed, mpirun or srun."""


def choose_engine(config: Config, launcher: str) -> Literal["ddp", "accelerate", "deepspeed", "fsdp"]:
    """`--engine` with `auto` decided: DeepSpeed where its launcher or its JSON file is used, Accelerate under its own."""
    if config.engine != "auto":
        return config.engine
    if launcher == "deepspeed" or config.deepspeed_config:
        return "deepspeed"
    return "accelerate" if launcher == "accelerate" else "ddp"


def make_engine(config: Config, model: nn.Module, ranks: RanksLike, loss: Loss = F.cross_entropy) -> LocalEngine:
    """The engine that makes `loss` of `model` small on this rank; every rank calls it, once the process group exists.

    With DeepSpeed, `config` is the one that `reconcile` returned. A library is imported only if its engine is chosen.
    """
    name = choose_engine(config, ranks.launcher)
    peers = ranks.peers if config.ranks_per_client > 1 else None
    if name == "accelerate":
        from .accelerated import AcceleratedEngine

        return AcceleratedEngine(config, model, ranks.device, loss, peers)
    if name == "deepspeed":
        if config.local_state == "keep":
            raise ConfigError(
                "--local-state keep: DeepSpeed's engine makes its optimizer anew for each client; use --engine ddp or "
                "accelerate"
            )
        if config.accumulate > 1:
            raise ConfigError(
                f"--accumulate {config.accumulate}: DeepSpeed's engine takes one batch a step; use --engine ddp or "
                "accelerate"
            )
        from .deepspeed_engine import DeepSpeedEngine
        from .deepspeed_json import DeepSpeedJson
        from .deepspeed_zero import ZeroEngine

        file = DeepSpeedJson.read(config.deepspeed_config, config.ranks_per_client)
        return (ZeroEngine if file.zero_stage else DeepSpeedEngine)(config, model, ranks, file, loss, peers)
    if name == "fsdp":
        from .sharded import ShardedEngine

        assert peers is not None  # `fl.run.rules`
        return ShardedEngine(config, model, ranks.device, loss, peers=peers)
    from .plain import PlainEngine

    return PlainEngine(config, model, ranks.device, loss, peers)
