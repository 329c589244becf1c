"""The server's work shared out by ranges of coordinates: `--server-shards`."""

import contextlib
from contextlib import AbstractContextManager
from itertools import pairwise

import torch.distributed as dist
from torch import Tensor

from compression.wire import Sparse
from fl.common.ranks import Ranks

_BLOCK = 1024
"""Ranges begin at multiples: vector instructions then take a coordinate together with the same neighbours as on one rank, so
that sums are the same bits."""


class Shards:
    """The range of the n coordinates that is this rank's: all of them, or where `ranks` share the work, a part.

    `are_several`: whether there are other ranks; `leads`: whether this is the rank where parts are joined, rank 0.
    """

    def __init__(self, ranks: Ranks | None, n: int) -> None:
        self._ranks = ranks
        self.are_several = ranks is not None
        count, blocks = 1 if ranks is None else ranks.world_size, -(-n // _BLOCK)
        bounds = [min(n, blocks * at // count * _BLOCK) for at in range(count + 1)]
        self._ranges = list(pairwise(bounds))
        self.range = self._ranges[0 if ranks is None else ranks.rank]
        self.leads = ranks is None or ranks.is_server

    def part_of(self, update: Sparse) -> Sparse:
        """This rank's part of an update."""
        return update if self._ranks is None else update.between(*self.range)

    def own(self, whole: Tensor) -> Tensor:
        """This rank's part of a vector [n], in memory of its own if it is not all."""
        return whole if self._ranks is None else whole[slice(*self.range)].clone()

    def memory(self, like: Tensor) -> Tensor:
        """Uninitialised memory to join parts in: [n] on the rank that leads, on the others a part; of the type of `like`."""
        return like.new_empty(self._ranges[-1][1] if self.leads else self.range[1] - self.range[0])

    def within(self, memory: Tensor) -> Tensor:
        """Where this rank's part lies in such `memory`."""
        return memory[slice(*self.range)] if self.leads else memory

    def together(self) -> AbstractContextManager[None]:
        """In this block all ranks succeed, or each of them raises PeerError; on a single one the error itself."""
        return contextlib.nullcontext() if self._ranks is None else self._ranks.together()

    def join(self, part: Tensor, memory: Tensor) -> Tensor:
        """The parts of all ranks as one vector [n] where this rank leads, in `memory` if there are several; else `part`.
        Collective."""
        ranks = self._ranks
        if ranks is None:
            return part
        if not self.leads:
            dist.send(part.to(ranks.wire_device), group=ranks.group, group_dst=0)
            return part
        self.within(memory).copy_(part)
        for source, (begin, end) in enumerate(self._ranges[1:], start=1):
            received = part.new_empty(end - begin, device=ranks.wire_device)
            dist.recv(received, group=ranks.group, group_src=source)
            memory[begin:end].copy_(received)
        return memory
