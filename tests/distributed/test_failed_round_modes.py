"""A round that fails changes nothing, in every mode and with everything that rounds remember.

Oracle: the same rounds without the failures. In every round each way to fail is tried once; then all that is remembered
is as it was before, and the round that succeeds has the same bits, bytes and virtual times as that of the reference.
"""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor

from compression import NonFiniteError
from fl.comm.message import Message
from fl.common.errors import RoundError
from fl.common.tensor_files import split_state
from fl.rounds.costs import Costs
from fl.rounds.ddp import DdpRounds
from fl.rounds.hook import HookRounds
from fl.run.loop import make_rounds
from fl.training.trainer import ClientTrainer
from tests.end_to_end.parts import remembered, same
from tests.support import make_worker, on_ranks

_ROUNDS = 3
_OPTIONS: dict[str, Any] = {
    "model": "tests.user_code:norm_model",
    "clients": 5,
    "clients_per_round": 4,
    "limit_train": 100,
    "local_steps": 2,
    "batch_size": 8,
    "rounds": _ROUNDS,
    "uplink": "topk:0.1",
    "downlink": "topk:0.2+bf16",
    "server": "fedyogi",
}
_TIMED = {"profiles": "mix:good=0.5+2g=0.5,compute=1e8..1e9", "clients": 6}
_EXACT_SUMS = {"error_feedback": "none", "momentum": 0.0, "server": "fedavg"}
_DGC = {"error_feedback": "dgc:0.9", "momentum": 0.0, "server": "fedavg"}
_LEVELS = {"capabilities": "groups:1.0x2+0.5x4", "clients": 6}
_PEERS = {"clients": None, "clients_per_round": None}

_MODES: dict[str, dict[str, Any]] = {
    "sync": {"sampling": "power:5", "clients_per_round": 3, "uplink_warmup": 3},
    "dgc": {**_DGC, "uplink_warmup": 3},
    "powersgd": {"uplink": "powersgd:2", "server": "fedadam"},
    "median": {"aggregate": "median", "server": "fedavgm"},
    "kept": {"local_state": "keep", "optimizer": "adamw"},
    "fragments": {"fragments": 2, "merge": 0.3, "server": "nesterov"},
    "scaffold": {"algorithm": "scaffold", **_EXACT_SUMS},
    "feddyn": {"algorithm": "feddyn:0.1", **_EXACT_SUMS},
    "rewound": {"prune": "magnitude:0.5,protect=vectors,rewind", "prune_schedule": "iterative:1,3,1"},
    "snip": {"prune": "snip:0.5,protect=vectors", "prune_schedule": "linear:0,3,1"},
    "gradient": {"prune": "gradient:0.5,protect=vectors", "prune_schedule": "linear:1,3,1"},
    "prunefl": {"prune": "prunefl:0.5,protect=vectors,every=2"},
    "own masks": {"prune": "magnitude:0.5,protect=vectors,by=client", "prune_schedule": "linear:0,3,1", **_LEVELS},
    "own masks, snip": {"prune": "snip:0.5,protect=vectors,by=client", "prune_schedule": "linear:0,3,1"},
    "own channels": {"prune": "structured:0.3,by=client", "prune_schedule": "oneshot:1"},
    "after": {
        "prune": "magnitude:0.5,protect=vectors,by=after",
        "uplink": "bf16",
        "error_feedback": "none",
        "rounds": 2,
        "finetune_rounds": _ROUNDS - 2,
    },
    "nested": {
        "prune": "gradient:0.5,protect=vectors",
        "prune_schedule": "linear:0,3,1",
        **_LEVELS,
        "recover": "schedule:1,1",
    },
    "rolling": {"prune": "width:1,shift=rolling", "partition": "labels:3", **_LEVELS},
    "hours": {"sampling": "diurnal:2s,0.4", **_TIMED},
    "buffered": {"mode": "buffered:2", "staleness": "poly:0.5", **_DGC, **_TIMED},
    "buffered, lost": {"mode": "buffered:2", "lost": 0.3, "timeout": 6.0, "sampling": "power:4", **_TIMED},
    "latest": {
        "mode": "buffered:3,latest",
        "sampling": "diurnal:1s,0.5",
        **_TIMED,
        "clients_per_round": 6,
        "profiles": "mix:good=0.5+poor_3g=0.5,compute=1e8..1e9",  # few updates that the client's next one replaces
    },
    "buffered, warm": {"mode": "buffered:2", "uplink": "powersgd:2", "algorithm": "fednova", **_TIMED},
    "buffered, nested": {
        "mode": "buffered:2",
        "prune": "gradient:0.5,protect=vectors",
        "prune_schedule": "linear:0,3,1",
        "recover": "schedule:2,1",
        **_TIMED,
        **_LEVELS,
    },
    "buffered, learnt": {
        "mode": "buffered:3",
        "prune": "structured:0",
        "capabilities": "online:0.3",
        "uplink_shares": "online:0.2",
        **_TIMED,
    },
    "async": {"mode": "async:0.6", "staleness": "hinge:1,1", "server": "fedavg", **_TIMED},
    "deadline": {"deadline": 1.0, "lost": 0.3, "over_select": 1.5, **_TIMED},
    "deadline, width": {"deadline": 1.0, "prune": "width:1", "partition": "labels:3", **_TIMED, **_LEVELS},
    "carried": {"deadline": 0.5, "late": "carry", "lost": 0.2, "timeout": 4.0, "staleness": "poly:1", **_TIMED},
    "first": {"over_select": 1.5, "uplink_shares": "equal_time:0.2", **_TIMED},
    "hook": {"exchange": "hook", **_PEERS},
    "hook, warm": {"exchange": "hook", "uplink": "powersgd:2", **_PEERS},
    "step": {"mode": "step", "optimizer": "adam", "server": "fedavg", "downlink": "none", **_PEERS},
    "step, dgc": {"mode": "step", "downlink": "none", **_DGC, **_PEERS},
}
_WHERE_RANKS_DIFFER = ["sync", "scaffold", "snip", "own masks", "nested", "latest", "async", "deadline", "hook", "step"]


class _Fault:
    """What goes wrong on this rank, and when: counted in losses and trainings since `begin`."""

    def __init__(self) -> None:
        self.begin("")

    def begin(self, way: str, last: int = 0) -> None:
        self.way, self._last = way, last
        self.losses = self.trainings = 0

    def loss(self, loss: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
        def failing(outputs: Tensor, targets: Tensor) -> Tensor:
            self.losses += outputs.requires_grad
            if self.way == "raise in the first" and self.losses == 2:
                raise ValueError("this client fails")
            return loss(outputs, targets) * (float("nan") if self.way == "nan" else 1.0)

        return failing

    def train(self, train: Any) -> Any:
        def failing(trainer: Any, job: Any, model: Any) -> Any:
            update = train(trainer, job, model)
            self.trainings += 1
            update.train_s = 0.0  # measured, and remembered of clients on their way
            if self.trainings == self._last and self.way in ("raise in the last", "interrupt in training"):
                raise (ValueError if self.way == "raise in the last" else KeyboardInterrupt)
            return update

        return failing


def _spoil(rounds: Any, patch: pytest.MonkeyPatch) -> None:
    """The first bytes alone of every update arrive."""
    gather = rounds.transport.gather

    def spoiling(*arguments: Any) -> Any:
        for each in gather(*arguments):
            yield Message(each.report, {**each.sections, "update": each.sections["update"][:5]})

    patch.setattr(rounds.transport, "gather", spoiling)


def _overflow(rounds: Any, patch: pytest.MonkeyPatch) -> None:
    """The server's optimizer moves its moments as ever, and its weights to infinity."""
    if not rounds.ranks.is_server:
        return
    step = rounds.server.optimizer.step

    def overflowing() -> None:
        step()
        with torch.no_grad():
            rounds.server._stepped.fill_(float("inf"))

    patch.setattr(rounds.server.optimizer, "step", overflowing)


def _interrupt(rounds: Any, patch: pytest.MonkeyPatch) -> None:
    def interrupted(sections: Any) -> None:
        raise KeyboardInterrupt

    patch.setattr(rounds, "apply", interrupted)


_PATCHES = {"spoiled": _spoil, "overflow": _overflow, "interrupt when published": _interrupt}
_OWN: dict[str, type[BaseException] | tuple[type[BaseException], ...]] = {
    "raise in the first": ValueError,
    "raise in the last": ValueError,
    "nan": (RoundError, NonFiniteError),  # the latter from who chooses the mask of all
    "spoiled": RoundError,
    "overflow": NonFiniteError,
    "interrupt in training": KeyboardInterrupt,
    "interrupt when published": KeyboardInterrupt,
}
"""What each way to fail raises on the rank that it is about; RoundError elsewhere."""


def _told(rounds: Any, costs: Costs, number: int, result: Any) -> Any:
    """The end of a round, as a run does it: what it is charged, and what the rounds are told."""
    told = [costs.charge(number, result) if rounds.worker.ranks.is_server else None]
    dist.broadcast_object_list(told)
    entry = told[0][0]
    if rounds.by_time:
        timed = [row for row in entry.clients if row.get("arrive_s") is not None]
        rounds.timed(number, entry.metrics["virtual_time_s"], timed)
    rounds.end(number, 0.5)
    return entry, result.reports, result.published, costs.state_dict()


def _memory(rounds: Any) -> dict[str, Any]:
    tensors, rest = split_state(rounds.ledger.state_dict() if rounds.ledger else {})
    return {**remembered(rounds, rounds.worker.config.clients), **tensors, "ledger": rest}


def _ways(rounds: Any, result: Any, trainings: int, failing_rank: int) -> list[tuple[str, int]]:
    """The ways in which this round can fail, and the rank on which each does."""
    ranks, has_server = rounds.worker.ranks, rounds.worker.config.mode != "step"
    # In step mode the others would wait in DDP's collectives: the launcher ends them.
    raises = trainings and (has_server or ranks.world_size == 1)
    # What is spoiled must be taken in this round; a message on its way would spoil another.
    arrives = any(row.get("staleness", 0) == 0 for row in result.columns)
    asked = [
        ("raise in the first", failing_rank, raises),
        ("raise in the last", failing_rank, raises),
        ("nan", failing_rank, trainings),
        ("spoiled", 0, arrives),
        ("overflow", 0, has_server),
        ("interrupt in training", 0, trainings and ranks.world_size == 1),
        ("interrupt when published", 0, has_server and ranks.world_size == 1),
    ]
    return [(way, rank) for way, rank, can in asked if can]


def _fail_in_every_way(rank: int, world_size: int, options: dict[str, Any]) -> None:
    fault = _Fault()
    ClientTrainer.train = fault.train(ClientTrainer.train)  # in this process alone
    workers = [make_worker(**{**_OPTIONS, **options}) for _ in range(2)]
    for worker in workers:
        worker.engine.loss = fault.loss(worker.engine.loss)
    reference, rounds = map(make_rounds, workers)
    if isinstance(rounds, DdpRounds):
        reference.worker, rounds.worker = workers
    costs = [Costs(each.worker, each.wait_s, each.ledger) for each in (reference, rounds)]
    tried = set()
    for number in range(_ROUNDS):
        fault.begin("")
        result = reference.run(number)
        counts = [fault.trainings]
        dist.broadcast_object_list(counts, world_size - 1)
        before = _memory(rounds)
        for way, failing_rank in _ways(rounds, result, counts[0], world_size - 1):
            tried.add(way)
            told = way == "nan" and isinstance(rounds, DdpRounds | HookRounds)  # by the codec's hook, which tells all
            fault.begin(way if rank == failing_rank else "", counts[0])
            with pytest.MonkeyPatch.context() as patch:
                if way in _PATCHES:
                    _PATCHES[way](rounds, patch)
                with pytest.raises(_OWN[way] if rank == failing_rank or told else RoundError):
                    rounds.run(number)
            _same(_memory(rounds), before, f"round {number}, {way}")
        fault.begin("")
        again = rounds.run(number)
        ends = [_told(*each) for each in ((reference, costs[0], number, result), (rounds, costs[1], number, again))]
        assert str(ends[0]) == str(ends[1]), number
        _same(_memory(rounds), _memory(reference), f"round {number}")
    assert "nan" in tried


def _same(left: dict[str, Any], right: dict[str, Any], when: str) -> None:
    try:
        same(left, right)
    except AssertionError as error:
        raise AssertionError(f"{when}: {error}") from None


@pytest.mark.parametrize("mode", list(_MODES))
def test_a_round_that_fails_changes_nothing(mode: str) -> None:
    """Clients raise, in the middle of their training or after it, or diverge; payloads are spoiled; the server's step
    overflows; the user interrupts."""
    on_ranks(1, _fail_in_every_way, _MODES[mode])


@pytest.mark.parametrize("mode", _WHERE_RANKS_DIFFER)
def test_a_round_that_fails_on_one_of_two_ranks(mode: str) -> None:
    """Clients fail on rank 1, the server on rank 0: both ranks raise, and nothing has changed on either."""
    on_ranks(2, _fail_in_every_way, _MODES[mode])
