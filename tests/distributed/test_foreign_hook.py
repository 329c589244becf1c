"""Bytes of other people's collective calls, by hand."""

import torch
import torch.distributed as dist

from fl.comm.ddp_hooks import count_collectives
from tests.support import on_ranks


def _count(rank: int, world_size: int) -> None:
    ten = torch.ones(10)
    expected = {
        "all_reduce": (40, 40),
        "broadcast": (40, 0) if rank == 0 else (0, 40),
        "broadcast by group rank": (40, 0) if rank == 1 else (0, 40),
        "all_gather": (40, 40),
        "all_gather_into_tensor": (40, 40),
        "reduce_scatter": (20, 20),
    }
    calls = {
        "all_reduce": lambda: dist.all_reduce(ten),
        "broadcast": lambda: dist.broadcast(tensor=ten, src=0),
        "broadcast by group rank": lambda: dist.broadcast(ten, group_src=1),
        "all_gather": lambda: dist.all_gather([torch.empty(10), torch.empty(10)], ten),
        "all_gather_into_tensor": lambda: dist.all_gather_into_tensor(torch.empty(20), ten),
        "reduce_scatter": lambda: dist.reduce_scatter_tensor(torch.empty(5), ten),
    }
    original = dist.all_reduce
    for name, call in calls.items():
        with count_collectives() as traffic:
            call()
        assert (traffic.sent_bytes, traffic.received_bytes) == expected[name], name
    assert dist.all_reduce is original, "the functions are put back"


def test_each_kind_of_call_is_counted_once():
    """Ten floats are 40 bytes; two ranks. A sender sends and the others receive, however the sender is named; a
    reduce-scatter keeps the own half at home."""
    on_ranks(2, _count)
