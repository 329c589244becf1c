"""Joining the other ranks."""

import datetime
import os
import socket
import sys
from types import SimpleNamespace

import pytest
import torch

from fl.common import ranks
from fl.common.config import Config
from fl.common.errors import LaunchError, RoundError
from fl.common.launch import Place, detect_launcher
from fl.common.ranks import Ranks, _each_has_a_gpu, join_ranks, leave_group
from tests.support import free_port, on_ranks


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


def _join_again_and_again(rank: int, world_size: int, port: int) -> None:
    leave_group()
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), TORCHELASTIC_USE_AGENT_STORE="True")
    for _ in range(2):
        with join_ranks(Config(threads=1)) as ranks:
            assert ranks.sum(torch.ones(1)).item() == world_size
    with pytest.raises(ZeroDivisionError), join_ranks(Config(threads=1)):
        raise ZeroDivisionError
    assert not torch.distributed.is_initialized()
    torch.distributed.init_process_group("gloo")  # the user's own, between two of ours
    leave_group()
    hook = sys.excepthook
    with join_ranks(Config(threads=1)) as ranks:
        assert ranks.sum(torch.ones(1)).item() == world_size
    assert sys.excepthook is hook
    _one_group_more(rank, world_size, port)


def _one_group_more(rank: int, world_size: int, port: int) -> None:
    """What `on_ranks` leaves in the end."""
    store = torch.distributed.TCPStore("127.0.0.1", port, is_master=False)
    last = torch.distributed.PrefixStore("last", store)
    torch.distributed.init_process_group("gloo", store=last, rank=rank, world_size=world_size)


def test_a_program_joins_as_often_as_it_likes():
    """Two ranks and a store that outlives each group, as torchrun's does: once, twice, after an error, after a group of the
    user's own. No group meets the addresses of an earlier one, or all would fail."""
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    on_ranks(2, _join_again_and_again, store.port)


def _join_from(launcher: str, rank: int, world_size: int, port: int) -> None:
    leave_group()
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"):
        os.environ.pop(name, None)
    if launcher == "srun":
        os.environ.update(SLURM_JOB_ID="7", SLURM_STEP_NUM_TASKS=str(world_size))
        os.environ.update(SLURM_PROCID=str(rank), SLURM_LOCALID=str(rank))
    else:
        os.environ.update(OMPI_COMM_WORLD_RANK=str(rank), OMPI_COMM_WORLD_SIZE=str(world_size))
        os.environ.update(OMPI_COMM_WORLD_LOCAL_RANK=str(rank), OMPI_COMM_WORLD_LOCAL_SIZE=str(world_size))
    os.environ["MASTER_PORT"] = str(port)
    for _ in range(2):
        with join_ranks(Config(threads=1)) as ranks:
            assert ranks.launcher == detect_launcher() == launcher
            assert (ranks.rank, ranks.world_size) == (ranks.local_rank, ranks.local_world_size) == (rank, world_size)
            assert ranks.sum(torch.ones(1)).item() == world_size
            assert os.environ["RANK"] == str(rank)
        assert "RANK" not in os.environ
    _one_group_more(rank, world_size, port)


def _join_from_srun(rank: int, world_size: int, port: int) -> None:
    _join_from("srun", rank, world_size, port)


def _join_from_mpirun(rank: int, world_size: int, port: int) -> None:
    _join_from("mpirun", rank, world_size, port)


@pytest.mark.parametrize("join", [_join_from_srun, _join_from_mpirun])
def test_tasks_of_srun_and_mpirun_are_ranks(join):
    """Two processes with the variables of Slurm, or of Open MPI, and none of torch's meet in one group, twice."""
    on_ranks(2, join, free_port())


def test_ranks_that_never_come_are_waited_for_so_long_and_no_longer(monkeypatch):
    """One process of two, which waits for a second instead of half an hour."""
    place = Place(0, 2, 0, 2, "127.0.0.1", free_port())
    monkeypatch.setattr(ranks, "_MEETING_TIMEOUT", datetime.timedelta(seconds=1))
    for name, value in place.variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(LaunchError, match=r"the 2 ranks have not met there .*1/2"):
        ranks._shared_store(place)


def test_a_name_that_no_machine_has_is_told_at_once(monkeypatch):
    """`.invalid` is a domain that never exists (RFC 2606)."""
    place = Place(1, 2, 0, 1, "node.invalid", free_port())
    with pytest.raises(LaunchError, match=r"MASTER_ADDR node.invalid, .* finds no address of that name"):
        ranks._shared_store(place)


def test_a_port_that_is_taken_is_told_in_one_sentence(monkeypatch):
    """Another program listens where rank 0 should."""
    with socket.socket() as other:
        other.bind(("", 0))
        other.listen()
        place = Place(0, 2, 0, 2, "127.0.0.1", other.getsockname()[1])
        for name, value in place.variables.items():
            monkeypatch.setenv(name, value)
        with pytest.raises(LaunchError, match=f"MASTER_PORT {place.port}: another program has this port"):
            ranks._shared_store(place)


@pytest.mark.parametrize(("gpus", "expected"), [("AB", True), ("AA", False), ("ABCA", False), ("A", True)])
def test_nccl_where_no_two_ranks_share_a_gpu(monkeypatch: pytest.MonkeyPatch, gpus: str, expected: bool) -> None:
    """By the names of the GPUs, whatever each rank sees of them: here each is shown one alone."""
    store = torch.distributed.HashStore()
    for rank, gpu in enumerate(gpus[1:], 1):
        store.set(f"gpu_{rank}", gpu)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid=gpus[0]))
    assert _each_has_a_gpu(store, Place(0, len(gpus), 0, len(gpus)), torch.device("cuda", 0)) is expected
