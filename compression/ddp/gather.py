"""Payloads of different lengths to every rank: their sizes first, then each at its exact size."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..errors import NonFiniteError

# In the place of a length; the worst reason is the least number.
_NOTHING = -1
_NOT_FINITE = -2
_FAILED = -3


def all_gather_payloads(
    payload: Tensor | None, group: Any = None, *, failure: Exception | None = None
) -> list[Tensor] | None:
    """Every rank's payload, uint8 of any length in the CPU's memory, in rank order; None if some rank has None to send.

    A rank that could not make one passes its `failure`, and raises it; the others raise NonFiniteError if that was the
    reason, or else RuntimeError.
    """
    rank, world = dist.get_rank(group), dist.get_world_size(group)
    sizes = torch.zeros(world, dtype=torch.int64, device="cpu")
    if failure is not None:
        sizes[rank] = _NOT_FINITE if isinstance(failure, NonFiniteError) else _FAILED
    else:
        sizes[rank] = _NOTHING if payload is None else payload.numel()
    dist.all_reduce(sizes, group=group)
    lengths = sizes.tolist()
    if failure is not None:
        raise failure
    if min(lengths) == _FAILED:
        raise RuntimeError(f"rank {lengths.index(_FAILED)} failed to encode its gradient; its own error says why")
    if min(lengths) == _NOT_FINITE:
        raise NonFiniteError(f"the gradient of rank {lengths.index(_NOT_FINITE)} holds NaN or infinity")
    if payload is None or min(lengths) == _NOTHING:
        return None
    payloads = [
        payload if source == rank else torch.empty(length, dtype=torch.uint8, device="cpu")
        for source, length in enumerate(lengths)
    ]
    works = [
        dist.broadcast(buffer, _global_rank(source, group), group=group, async_op=True)
        for source, buffer in enumerate(payloads)
    ]
    for work in works:
        work.wait()
    return payloads


def _global_rank(rank: int, group: Any) -> int:
    return rank if group is None else dist.get_global_rank(group, rank)
