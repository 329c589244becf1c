"""Joining the other ranks."""

import os

import pytest
import torch

from fl.config import Config
from fl.errors import RoundError
from fl.ranks import Ranks, detect_launcher, join_ranks
from tests.support import on_ranks


def _join_what_exists(rank: int, world_size: int) -> None:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        os.environ.pop(name, None)
    with join_ranks(Config(threads=1)) as ranks:
        assert (ranks.rank, ranks.world_size, ranks.is_server) == (rank, world_size, rank == 0)
        assert ranks.sum(torch.ones(1)).item() == world_size
        assert [client for client in range(5) if ranks.hosts(client)] == list(range(rank, 5, world_size))
        assert ranks.all_agree(7)
        assert not ranks.all_agree(rank)
    assert torch.distributed.is_initialized(), "a group that the caller made stays"


def test_a_group_that_exists_is_used_without_a_launcher():
    """Two ranks started by hand: rank and world size come from the group, not from the (absent) environment."""
    on_ranks(2, _join_what_exists)


def _broadcast(rank: int, world_size: int) -> None:
    cpu = torch.device("cpu")
    ranks = Ranks(rank, world_size, rank, world_size, cpu, cpu, "test", 1)
    payload = torch.arange(5, dtype=torch.uint8) if rank == 0 else None
    assert ranks.broadcast(payload).tolist() == [0, 1, 2, 3, 4]
    if rank == 0:
        ranks.broadcast_failure()
    else:
        with pytest.raises(RoundError):
            ranks.broadcast(None)


def test_broadcast_has_the_exact_size_and_failure_reaches_every_rank():
    """Five bytes from rank 0; then the server fails."""
    on_ranks(2, _broadcast)


@pytest.mark.parametrize(
    ("variables", "launcher"),
    [
        ({}, "python"),
        ({"RANK": "0"}, "torchrun"),
        ({"RANK": "0", "CROSS_RANK": "0"}, "deepspeed"),
        ({"ACCELERATE_MIXED_PRECISION": "no"}, "accelerate"),
        ({"RANK": "0", "ACCELERATE_MIXED_PRECISION": "no"}, "accelerate"),
        ({"ACCELERATE_LOG_LEVEL": "info"}, "python"),
    ],
)
def test_launchers_are_told_apart_by_what_they_export(monkeypatch, variables, launcher):
    """A variable that a user exports for good does not make a launcher."""
    for name in ("RANK", "CROSS_RANK", "ACCELERATE_MIXED_PRECISION", "ACCELERATE_LOG_LEVEL"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert detect_launcher() == launcher
