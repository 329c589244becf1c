"""Which process this is among how many, on which device, and the process group between them."""

import contextlib
import datetime
import importlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from .config import RunOptions
from .errors import ConfigError, RoundError

# A rank with little to do waits for the others while they train; one that dies is noticed at once all the same.
_TIMEOUT = datetime.timedelta(hours=24)


@dataclass(frozen=True)
class Ranks:
    """This process among the others.

    `wire_device` is where tensors must lie to be sent: the GPU with NCCL, else the CPU.
    """

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    device: torch.device
    wire_device: torch.device
    launcher: str
    threads: int

    @property
    def is_server(self) -> bool:
        """Whether this is rank 0, which holds the server."""
        return self.rank == 0

    def owner(self, client: int) -> int:
        """The rank that hosts `client`, always the same one: its residual and other state live there."""
        return client % self.world_size

    def hosts(self, client: int) -> bool:
        """Whether this rank hosts `client`."""
        return self.owner(client) == self.rank

    def sum(self, table: Tensor) -> Tensor:
        """The sum of a small CPU tensor over the ranks, in place."""
        if self.world_size > 1:
            dist.all_reduce(table)
        return table

    def all_agree(self, number: int) -> bool:
        """Whether every rank passes the same number; collective."""
        table = torch.zeros(self.world_size, dtype=torch.int64)
        table[self.rank] = number
        return bool((self.sum(table) == number).all())

    def wait_for_all(self) -> None:
        """Return when every rank has got here. (A barrier of its own would pick a device; this one is on the CPU.)"""
        self.sum(torch.zeros(1))

    def broadcast(self, payload: Tensor | None, source: int = 0) -> Tensor:
        """The payload of rank `source` (uint8, on `device`) to every rank, at its exact size; the others pass None.

        Raises RoundError where that rank called `broadcast_failure` instead.
        """
        if self.world_size > 1:
            size = torch.tensor([0 if payload is None else payload.numel()])
            dist.broadcast(size, source)
            if int(size) < 0:
                raise RoundError(f"rank {source} failed in this round, and says why")
            if payload is None:
                buffer = torch.empty(int(size), dtype=torch.uint8, device=self.wire_device)
            else:
                buffer = payload.to(self.wire_device)
            dist.broadcast(buffer, source)
            payload = buffer.to(self.device) if self.rank != source else payload
        assert payload is not None
        return payload

    def broadcast_failure(self, source: int = 0) -> None:
        """Called by rank `source` in place of `broadcast`: the other ranks raise RoundError there."""
        dist.broadcast(torch.tensor([-1]), source)

    def share(self, make: Callable[[], Tensor], source: int = 0) -> Tensor:
        """What `make` returns on rank `source`, uint8, on every rank; if it raises there, every rank raises."""
        payload = None
        if self.rank == source:
            try:
                payload = make()
            except Exception:
                if self.world_size > 1:
                    self.broadcast_failure(source)
                raise
        return self.broadcast(payload, source)


def detect_launcher() -> str:
    """The program that started this process: python, torchrun, accelerate or deepspeed."""
    if "ACCELERATE_MIXED_PRECISION" in os.environ:
        return "accelerate"
    if "RANK" not in os.environ:
        return "python"
    if "CROSS_RANK" in os.environ:
        return "deepspeed"
    return "torchrun"


@contextlib.contextmanager
def join_ranks(options: RunOptions) -> Iterator[Ranks]:
    """Set threads and device, join the process group (or use the one that exists), and leave it at the end.

    Without a launcher a group of one is made, so that DDP and its hooks work in a single process too.
    """
    launcher = detect_launcher()
    rank = int(os.environ.get("RANK", 0))
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    local_world_size = int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or 1)
    cuda = options.device == "cuda" or (options.device == "auto" and torch.cuda.is_available())
    if cuda and not torch.cuda.is_available():
        raise ConfigError("--device cuda: this machine has no usable GPU; use --device cpu or auto")
    device = torch.device("cpu")
    if cuda:
        device = torch.device("cuda", local_rank % torch.cuda.device_count())
        torch.cuda.set_device(device)
    # NCCL refuses two ranks on one GPU; gloo serves ranks that share one.
    nccl = cuda and local_world_size <= torch.cuda.device_count()
    created = not dist.is_initialized()
    if not created:
        rank, world_size, nccl = dist.get_rank(), dist.get_world_size(), cuda and _existing_group_has_nccl()
    threads = options.threads or max(1, _cores() // local_world_size)
    threads_before = torch.get_num_threads()
    torch.set_num_threads(threads)
    if created:
        # Its functions take the group that exists when it is imported as a default, and so keep it alive. A group that
        # outlives destroy_process_group() has threads that sometimes abort the process while Python shuts down.
        importlib.import_module("torch.distributed.nn.functional")
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if nccl else "gloo",
            store=_store(),
            rank=rank,
            world_size=world_size,
            timeout=_TIMEOUT,
        )
    try:
        ranks = Ranks(
            rank=rank,
            world_size=world_size,
            local_rank=local_rank,
            local_world_size=local_world_size,
            device=device,
            wire_device=device if nccl else torch.device("cpu"),
            launcher=launcher,
            threads=threads,
        )
        yield ranks
        if created:
            # Without a barrier a rank that leaves first sometimes ends the others with a C++ exception.
            dist.barrier()
    finally:
        torch.set_num_threads(threads_before)
        if created:
            leave_group()


def leave_group() -> None:
    """Destroy the process group, and free it on this thread.

    A thread of gloo may still hold the last callback of a DDP hook, and that the group: freed there, the group would wait
    for its own thread, and abort the process ("Resource deadlock avoided", about one in 500 with PowerSGD).
    """
    group = dist.group.WORLD
    dist.destroy_process_group()
    time.sleep(0.02)
    del group


def _existing_group_has_nccl() -> bool:
    """Whether the process group that the caller made sends GPU tensors through NCCL; ConfigError if not CPU tensors too."""
    backends = dist.get_backend_config()
    if "cpu:" not in backends:
        raise ConfigError(f"the process group has the backend '{backends}'; make it with 'cpu:gloo,cuda:nccl'")
    return "cuda:nccl" in backends


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _store() -> dist.Store:
    if "RANK" not in os.environ:
        return dist.HashStore()
    store, _, _ = next(iter(dist.rendezvous("env://")))
    # A restarted rank must not read the addresses that the previous attempt left in the shared store.
    return dist.PrefixStore(f"attempt_{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)
