"""Ranks that were not started alike. Oracle: one sentence on each, which names what differs and on which rank."""

import os

import pytest

from fl.common import ranks
from fl.common.config import Config
from fl.common.errors import ConfigError
from fl.common.ranks import join_ranks, leave_group
from tests.distributed.test_ranks import _one_group_more
from tests.support import free_port, on_ranks


def _join(rank: int, world_size: int, port: int) -> None:
    leave_group()
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    own = Config(threads=rank + 1, data_dir=f"/data{rank}", lr=0.1)
    with join_ranks(own, own):
        pass
    for other, name, values in (
        (Config(lr=0.1 + rank // 2), "--lr", "0.1 on rank 0 and 1.1 on rank 2"),
        (Config(device="cpu" if rank == 0 else "auto"), "--device", "cpu on rank 0 and auto on rank 1"),
    ):
        with pytest.raises(ConfigError, match=f"{name} is {values}: start all ranks"), join_ranks(other, other):
            pass
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranks, "source_sha256", lambda: f"version {rank // 2}")
        told = "this program is version 0 on rank 0 and version 1 on rank 2"
        with pytest.raises(ConfigError, match=told), join_ranks(own, own):
            pass
    _one_group_more(rank, world_size, port)


def test_options_and_versions_must_be_the_same() -> None:
    """Three ranks: what may depend on the machine may differ, nothing else, and no rank waits for another."""
    on_ranks(3, _join, free_port())
