"""A round that fails on any rank fails on every rank, in time, and changes nothing.

Oracle: the same rounds without the failure. After it, every rank runs the round again and must end in the same bits.
"""

import os
import types
from pathlib import Path
from typing import Any

import pytest
import torch.distributed as dist

import fl.comm.transport
import fl.training.trainer
from compression import NonFiniteError
from fl.common.errors import RoundError
from fl.run.loop import make_rounds
from tests.end_to_end.parts import remembered, same
from tests.support import TIMES, make_worker, on_ranks, resume_here, rows, run_here

_OPTIONS: dict[str, Any] = {
    "model": "tests.user_code:norm_model",
    "clients": 5,
    "limit_train": 100,
    "local_steps": 1,
    "batch_size": 8,
    "uplink": "topk:0.1",
    "downlink": "topk:0.2",
    "server": "fedyogi",
}


def _break(rounds: Any, way: str, client: int) -> type[Exception]:
    """Make `client`, if it is hosted here, fail in the next round; the error that its own rank must raise."""
    train = rounds.trainer.train

    def failing(job: Any, state: Any) -> Any:
        if way == "raise" and job.client == client:
            raise ValueError("this client fails")
        update = train(job, state)
        if job.client == client and way == "nan":
            update.values[3] = float("nan")
        if job.client == client and way == "buffers":
            update.buffers[1] = float("inf")
        return update

    rounds.trainer.train = failing
    return ValueError if way == "raise" else RoundError


def _fail_one_round(rank: int, world_size: int, way: str, client: int) -> None:
    fl.comm.transport._WAITING_BYTES = 1  # batches as small as they get, so that some are on their way when it fails
    reference, rounds = (make_rounds(make_worker(**_OPTIONS)) for _ in range(2))
    for each in (reference, rounds):
        each.run(0)
    before = remembered(rounds, 5)
    train = rounds.trainer.train
    own = _break(rounds, way, client)
    for _ in range(2):
        with pytest.raises(own if rounds.worker.ranks.hosts(client) else RoundError):
            rounds.run(1)
        same(remembered(rounds, 5), before)
    rounds.trainer.train = train
    for each in (reference, rounds):
        each.run(1)
    same(remembered(rounds, 5), remembered(reference, 5))


@pytest.mark.parametrize("way", ["raise", "nan", "buffers"])
@pytest.mark.parametrize(("world_size", "client"), [(1, 2), (2, 0), (2, 1), (2, 4), (3, 4)])
def test_a_client_that_fails(world_size: int, client: int, way: str) -> None:
    """It raises, or its update or its statistics hold NaN; first or last of the cohort, on rank 0 or another."""
    on_ranks(world_size, _fail_one_round, way, client)


_IN_TIME = {"profiles": "mix:good=0.5+2g=0.5", "clients_per_round": 3, "model": "lenet5"}
_TIMED: dict[str, dict[str, Any]] = {
    "buffered": {"mode": "buffered:2", "timeout": 60, "lost": 0.2},
    "buffered levels": {"mode": "buffered:2", "prune": "magnitude:0.1", "capabilities": "groups:1.0x2+0.5x3"},
    "latest": {"mode": "buffered:2,latest"},
    "async": {"mode": "async:0.5", "server": "fedavg"},
    "drop": {"deadline": 20, "over_select": 1.5},
    "carry": {"deadline": 15, "late": "carry"},
}


def _fail_in_time(rank: int, world_size: int) -> None:
    fl.training.trainer.time = types.SimpleNamespace(perf_counter=lambda: 0.0)  # reports hold the seconds of training
    for options in _TIMED.values():
        reference, rounds = (make_rounds(make_worker(**{**_OPTIONS, **_IN_TIME, **options})) for _ in range(2))
        for number in range(3):
            before, train = remembered(rounds, 5), rounds.trainer.train

            def failing(job: Any, model: Any, train: Any = train) -> Any:
                train(job, model)
                raise ValueError("this client fails")

            rounds.trainer.train = failing
            with pytest.raises((ValueError, RoundError)):
                rounds.run(number)
            same(remembered(rounds, 5), before)
            rounds.trainer.train = train
            for each in (reference, rounds):
                each.run(number)
            same(remembered(rounds, 5), remembered(reference, 5))


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_client_that_fails_in_virtual_time(world_size: int) -> None:
    """Clocks, ledger, messages on their way and who was drawn are as before, in every mode that goes by time."""
    on_ranks(world_size, _fail_in_time)


def _spoil_a_payload(rank: int, world_size: int) -> None:
    reference, rounds = (make_rounds(make_worker(**_OPTIONS)) for _ in range(2))
    before = remembered(rounds, 5)
    send = rounds.transport._send

    def spoiling(batch: list[int], own: dict[int, Any]) -> Any:
        for message in own.values():
            message.sections["update"][0] ^= 1
        return send(batch, own)

    if rank == 1:
        rounds.transport._send = spoiling
    with pytest.raises(RoundError, match="round 0: client 1 on rank 1"):
        rounds.run(0)
    same(remembered(rounds, 5), before)
    rounds.transport._send = send
    for each in (reference, rounds):
        each.run(0)
    same(remembered(rounds, 5), remembered(reference, 5))


def test_a_payload_that_arrives_spoiled() -> None:
    """Rank 0 refuses it, takes in what else is on its way, and tells the others."""
    on_ranks(2, _spoil_a_payload)


def _fail_at_the_server(rank: int, world_size: int) -> None:
    rounds = make_rounds(make_worker(**{**_OPTIONS, "uplink": "none", "server": "fedavgm"}))
    rounds.run(0)
    before = remembered(rounds, 5)
    train = rounds.trainer.train

    def huge(job: Any, state: Any) -> Any:
        update = train(job, state)
        update.values.fill_(3e38)  # finite each, but not their weighted sum
        return update

    rounds.trainer.train = huge
    with pytest.raises(RoundError, match="round 1: client 0 on rank 0: its update holds a number of magnitude 3e"):
        rounds.run(1)
    same(remembered(rounds, 5), before)


def test_a_mean_that_would_not_be_finite() -> None:
    """The server refuses the updates before its optimizer has moved."""
    on_ranks(2, _fail_at_the_server)


def _overflow_the_optimizer(rank: int, world_size: int) -> None:
    options = {**_OPTIONS, "uplink": "none", "server": "fedavgm", "server_lr": 1e30, "downlink": "topk:0.2"}
    rounds = make_rounds(make_worker(**options))
    before = remembered(rounds, 5)
    train = rounds.trainer.train

    def large(job: Any, state: Any) -> Any:
        update = train(job, state)
        update.values.fill_(1e20)
        return update

    rounds.trainer.train = large
    with pytest.raises(NonFiniteError if rank == 0 else RoundError):
        rounds.run(0)
    same(remembered(rounds, 5), before)


def test_a_server_step_that_overflows() -> None:
    """The mean is finite, the step is not: nothing is sent, and nobody's weights, moments and residuals have changed."""
    on_ranks(2, _overflow_the_optimizer)


def _fail_when_it_is_sent(rank: int, world_size: int) -> None:
    masks = {"prune": "gradient:0.5,protect=none", "prune_schedule": "oneshot:2"}
    reference, rounds = (make_rounds(make_worker(**{**_OPTIONS, **masks})) for _ in range(2))
    publish = rounds.publish

    def failing(*given: Any) -> Any:
        publish(*given)
        raise ValueError("there is no memory for what is to be sent")

    rounds.publish = failing
    with pytest.raises(ValueError if rank == 0 else RoundError):
        rounds.run(0)
    rounds.publish = publish
    for number in range(3):
        for each in (reference, rounds):
            each.run(number)
    same(remembered(rounds, 5), remembered(reference, 5))


def test_a_server_that_cannot_send_its_step() -> None:
    """What the server had learnt of the round by then, the squared updates that masks go by, counts once."""
    on_ranks(2, _fail_when_it_is_sent)


def _fail_a_run(rank: int, world_size: int, folder: Path) -> None:
    options = {**_OPTIONS, "model": "tests.user_code:failing_model", "rounds": 4}
    run_here(folder, "whole", **options)
    os.environ.update(TEST_FAILING_RANK="1", TEST_FAILING_PASS="7")  # the first of two clients in the third round
    with pytest.raises(ValueError if rank == 1 else RoundError):
        run_here(folder, "run", **options)
    dist.barrier()
    del os.environ["TEST_FAILING_RANK"]
    if rank == 0:
        assert [row["round"] for row in rows(folder / "run")] == ["0", "1"]
        assert rows(folder / "run") == rows(folder / "whole")[:2]
        newest = sorted((folder / "run" / "checkpoints").glob("manifest-*"))[-1]
        assert newest.name == "manifest-000002.json"
        assert "RoundError" in (folder / "run" / "run.log").read_text()
    resume_here(folder, "run")


def test_a_run_on_two_ranks_ends_with_its_last_good_round(tmp_path: Path) -> None:
    """A client fails in the third round: tables and checkpoint are those of the second, and the run can go on."""
    on_ranks(2, _fail_a_run, tmp_path)
    for table in ("metrics", "clients"):
        assert rows(tmp_path / "run", table, TIMES) == rows(tmp_path / "whole", table, TIMES)
    one, other = ((tmp_path / name / "final_model.safetensors").read_bytes() for name in ("run", "whole"))
    assert one == other
