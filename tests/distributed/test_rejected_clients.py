"""A client that fails is as if it had not been asked, in every mode and with everything that rounds remember.

Oracle: the same rounds without that client.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch
import torch.distributed as dist

from fl.comm.message import Message
from fl.common.errors import RoundError
from fl.rounds.costs import Costs
from fl.rounds.result import RoundResult
from fl.run.loop import make_rounds
from fl.training.trainer import ClientTrainer
from tests.distributed.test_failed_round_modes import _MODES, _OPTIONS
from tests.end_to_end.parts import remembered, run_with, same
from tests.support import make_worker, on_ranks

_WAYS = {
    "raises": "ValueError: this client fails",
    "exits": "SystemExit: 3",
    "nan": "the update holds NaN or infinity",
    "huge": "lower the learning rate",
    "variance": "negative variance",
    "samples": "it reports samples = 1000000000, which must be a whole number from 1 to",
    "loss": "it reports a training loss of nan",
    "cut": "bytes",
}
"""The ways in which a client fails, and what is said of each."""
_SYNC = (
    "sync",
    "dgc",
    "powersgd",
    "median",
    "kept",
    "fragments",
    "scaffold",
    "feddyn",
    "rewound",
    "prunefl",
    "own masks",
    "nested",
)
_CLIENT = 1  # on rank 1 of two


class _Fault:
    """Makes one client fail in this process."""

    def __init__(self, client: int) -> None:
        self.client, self.way = client, ""
        self._train: Any = ClientTrainer.train
        ClientTrainer.train = lambda trainer, job, model: self.train(trainer, job, model)  # type: ignore[method-assign]

    def train(self, trainer: Any, job: Any, model: Any) -> Any:
        update = self._train(trainer, job, model)
        update.train_s = 0.0  # measured
        if job.client != self.client:
            return update
        if self.way == "raises":
            raise ValueError("this client fails")
        if self.way == "exits":
            raise SystemExit(3)
        if self.way == "nan":
            update.values[-1] = float("nan")
        elif self.way == "huge":
            update.values.fill_(3e38)
        elif self.way == "variance":
            update.buffers.fill_(-1.0)
        elif self.way == "samples":
            update.samples = 10**9
        elif self.way == "loss":
            update.train_loss = float("nan")
        return update

    def cut(self, rounds: Any) -> None:
        """The client's update arrives without its last byte, if it is to."""
        gather = rounds.transport.gather

        def cutting(*arguments: Any) -> Iterator[Message]:
            for each in gather(*arguments):
                whole = each.sections["update"]
                is_cut = self.way == "cut" and each.report.client == self.client
                yield dataclasses.replace(each, sections={**each.sections, "update": whole[:-1]}) if is_cut else each

        rounds.transport.gather = cutting


def _rounds(**options: Any) -> Any:
    return make_rounds(make_worker(**{**_OPTIONS, "min_clients": 1, **options}))


def _memory(rounds: Any) -> dict[str, Any]:
    return remembered(rounds, rounds.worker.config.clients)


def _ways(options: dict[str, Any]) -> list[str]:
    has_buffers = "capabilities" not in options or "width" not in options.get("prune", "")
    return [way for way in _WAYS if way != "variance" or has_buffers]


def _without(rank: int, world_size: int, mode: str) -> None:
    options = {**_MODES[mode], "sampling": "uniform"}
    for way in _ways(options):
        fault = _Fault(_CLIENT)
        reference, rounds = _rounds(**options), _rounds(**options)
        fault.cut(rounds)
        cohort = [0, _CLIENT, 2, 3]
        for number in range(3):
            # Whoever fails in the first round comes back with nothing remembered, in the last one with a residual.
            fault.way = way if number != 1 else ""
            others = cohort if number == 1 else [client for client in cohort if client != _CLIENT]
            result = run_with(rounds, number, cohort)
            fault.way = ""
            expected = run_with(reference, number, others)
            assert result.reports == expected.reports
            assert [each.client for each in result.rejected] == ([] if number == 1 else [_CLIENT])
            assert all(_WAYS[way] in each.reason for each in result.rejected if rank == 0), result.rejected
            rounds.rejections.load_state_dict({"in_a_row": []})
            for each in (rounds, reference):
                each.end(number, 0.5)
            try:
                same(_memory(rounds), _memory(reference))
            except AssertionError as error:
                raise AssertionError(f"{mode}, {way}, round {number}: {error}") from None


@pytest.mark.parametrize("mode", _SYNC)
def test_a_rejected_client_is_as_if_it_had_not_been_asked(mode: str) -> None:
    """In training, by its numbers, and on the way; with residuals, variates, masks and statistics."""
    on_ranks(1, _without, mode)


@pytest.mark.parametrize("mode", ["sync", "scaffold", "own masks"])
def test_a_client_is_rejected_on_another_rank(mode: str) -> None:
    """Both ranks go on alike."""
    on_ranks(2, _without, mode)


def _charged(rank: int, world_size: int) -> None:
    fault, rounds = _Fault(_CLIENT), _rounds(clients=4)
    fault.way = "raises"
    costs = Costs(rounds.worker, rounds.wait_s)
    entry, _ = costs.charge(0, rounds.run(0))
    row = next(row for row in entry.clients if row["client"] == _CLIENT)
    others = [row for row in entry.clients if row["client"] != _CLIENT]
    assert row["rejected"] == "ValueError: this client fails"
    assert (row["samples"], row["uplink_bytes"], row["downlink_bytes"]) == (0, 0, others[0]["downlink_bytes"])
    assert entry.metrics["rejected"] == 1
    assert entry.metrics["clients"] == 3
    assert entry.metrics["uplink_bytes"] == sum(row["uplink_bytes"] for row in others)


def test_a_rejected_client_is_charged_what_it_downloaded() -> None:
    """By hand: it downloads the model as the others do, sends nothing, and has a row with the reason."""
    on_ranks(1, _charged)


def _too_few(rank: int, world_size: int) -> None:
    fault, rounds = _Fault(_CLIENT), _rounds(clients=4, min_clients=4)
    before = _memory(rounds)
    for way in ("raises", "nan"):
        fault.way = way
        raised = ValueError if way == "raises" and rank == world_size - 1 else RoundError
        with pytest.raises(raised) as told:
            rounds.run(0)
        words = [str(told.value), *getattr(told.value, "__notes__", [])]
        assert any(f"round 0: client {_CLIENT} on rank {world_size - 1}" in each for each in words), words
        same(_memory(rounds), before)


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_round_fails_where_too_few_clients_remain(world_size: int) -> None:
    """With client and round: the client's own error on its rank, one sentence on the other; nothing has changed."""
    on_ranks(world_size, _too_few)


def _left_out(rank: int, world_size: int) -> None:
    fault, rounds = _Fault(_CLIENT), _rounds(clients=4, min_clients=3)
    asked = []
    for number in range(5):
        fault.way = "" if number == 1 else "raises"  # once in between it does not fail
        result = rounds.run(number)
        asked.append(
            _CLIENT in [*(report.client for report in result.reports), *(each.client for each in result.rejected)]
        )
        if number == 3:
            assert rounds.left_out == []
            again = _rounds(clients=4, min_clients=3)
            again.load_state_dict(rounds.state_dict())
    assert rounds.left_out == [_CLIENT]
    assert asked == [True] * 5
    assert _CLIENT not in [report.client for report in rounds.run(5).reports]
    again.run(4)
    assert again.left_out == [_CLIENT], "a checkpoint knows how often it has failed"
    rounds.rejections.load_state_dict({"in_a_row": [[0, 3], [1, 3]]})
    with pytest.raises(RoundError, match="since client 0, 1 failed 3 times in a row and is left out"):
        rounds.run(6)


def test_a_client_that_fails_three_times_in_a_row_is_left_out() -> None:
    """Rounds 0 and 2 to 4: it is asked until the third time in a row, and no more in round 5."""
    on_ranks(1, _left_out)


_TIMED = ("buffered", "buffered, nested", "async", "deadline", "carried", "latest")


def _in_virtual_time(rank: int, world_size: int, mode: str) -> None:
    fault, rounds = _Fault(_CLIENT), _rounds(**{**_MODES[mode], "lost": 0.0})
    fault.cut(rounds)
    costs = Costs(rounds.worker, rounds.wait_s, rounds.ledger)
    rejected, arrived = [], []
    for number in range(8):
        fault.way = ("raises", "huge", "cut")[number % 3]
        result: RoundResult = rounds.run(number)
        if rank == 0:
            entry, _ = costs.charge(number, result)
            rejected += [row["rejected"] for row in entry.clients if row.get("rejected")]
            arrived += [report.client for report in result.reports]
            assert entry.metrics["virtual_time_s"] >= 0
            assert all(torch.isfinite(value).all() for value in (rounds.state.parameters, rounds.state.buffers))
    told = [rejected, arrived, rounds.left_out]
    dist.broadcast_object_list(told)
    assert told[0], "it has failed at least once"
    assert _CLIENT not in told[1]
    assert rounds.left_out == told[2]
    assert set(rounds.inbox.reports) | set(rounds.inbox.rejections) <= set(rounds.in_flight.starts)


@pytest.mark.parametrize("mode", _TIMED)
def test_in_virtual_time_a_rejected_client_makes_room(mode: str) -> None:
    """Its update never counts, its place is free when it would have arrived, and the reason is in its row."""
    on_ranks(2, _in_virtual_time, mode)


def _latest(rank: int, world_size: int) -> None:
    rounds = _rounds(**{**_MODES["latest"], "clients": 3, "clients_per_round": 3, "sampling": "uniform"})
    rounds.run(0)
    rounds.rejections.load_state_dict({"in_a_row": [[2, 3]]})
    with pytest.raises(RoundError, match=r"a buffer of 3 clients can no longer be filled: \[2\] are left out"):
        rounds.run(1)


def test_a_buffer_of_different_clients_that_cannot_be_filled() -> None:
    """`latest` counts clients: three are wanted and two are left. It does not go on for ever."""
    on_ranks(1, _latest)
