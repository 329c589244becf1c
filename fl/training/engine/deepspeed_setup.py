"""DeepSpeed made quiet, and made to believe that the ranks of a client are all that there are."""

import contextlib
import functools
import importlib
import logging
import os
import warnings
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import torch
import torch.distributed as dist

from fl.common.errors import ConfigError
from fl.common.launch import environment_kept
from fl.common.ranks import Ranks

from .peers import own_group


class Groups:
    """The model-parallel unit by which DeepSpeed learns its groups: data parallel over the ranks that train a client with
    this one (`peers`), if there are several, and model parallel over this rank alone.

    Switching the gradient all-reduce off is not enough where a client trains alone: without such a unit, the overflow check
    of the 16-bit optimizers still reduces over all ranks in every step, and so does gradient clipping.
    """

    def __init__(self, rank: int, peers: Ranks | None = None) -> None:
        # With local synchronisation no other rank takes part: a thousand ranks make one group each, not a thousand.
        self._alone = dist.new_group([rank], use_local_synchronization=True)
        self._together = self._alone if peers is None else own_group(peers)

    def get_data_parallel_group(self) -> Any:
        """The group of the client's ranks."""
        return self._together

    def get_model_parallel_group(self) -> Any:
        """The group of this rank."""
        return self._alone

    def get_data_parallel_world_size(self) -> int:
        """How many ranks train a client."""
        return dist.get_world_size(self._together)

    def get_model_parallel_world_size(self) -> int:
        """One."""
        return 1

    def get_data_parallel_rank(self) -> int:
        """This rank among the client's."""
        return dist.get_rank(self._together)

    def get_model_parallel_rank(self) -> int:
        """Zero."""
        return 0


@contextlib.contextmanager
def old_names() -> Iterator[None]:
    """Without torch's warnings of the names by which DeepSpeed calls collectives."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
        yield


@contextlib.contextmanager
def quiet_deepspeed(device: torch.device, local_rank: int) -> Iterator[ModuleType]:
    """DeepSpeed, to be initialised inside, for `device`: without messages, and without compiling what is never called.

    Sets DS_ACCELERATOR in the environment, and LOCAL_RANK inside this block, unless they are set: DeepSpeed reads them from
    nowhere else. ConfigError if DeepSpeed has chosen another kind of device already.
    """
    os.environ.setdefault("DS_ACCELERATOR", device.type)
    deepspeed = importlib.import_module("deepspeed")
    # A `log_level` in the JSON file is applied later and wins.
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    found = importlib.import_module("deepspeed.accelerator").get_accelerator().device_name()
    if found != device.type:
        raise ConfigError(f"--device {device.type}: DeepSpeed has chosen {found}; set DS_ACCELERATOR={device.type}")
    # On a CPU its first use would compile a shared-memory all-reduce for 20 to 40 s, which only inference calls.
    backend = importlib.import_module("deepspeed.comm.torch")
    build = backend.build_shm_op
    backend.build_shm_op = lambda: None  # type: ignore[attr-defined]
    # ZeRO imports Muon to see whether the optimizer is one, and what Muon has compiled at import loads torch's compiler.
    compiler = importlib.import_module("deepspeed.runtime.compiler")
    at_once = compiler.compile
    compiler.compile = lambda: _compiled_when_called  # type: ignore[attr-defined]
    try:
        with environment_kept(), old_names():
            os.environ.setdefault("LOCAL_RANK", str(local_rank))
            yield deepspeed
    finally:
        backend.build_shm_op = build  # type: ignore[attr-defined]
        compiler.compile = at_once  # type: ignore[attr-defined]


def _compiled_when_called(function: Callable[..., Any]) -> Callable[..., Any]:
    compiled = functools.cache(lambda: torch.compile(function))
    return functools.wraps(function)(lambda *args, **kwargs: compiled()(*args, **kwargs))
