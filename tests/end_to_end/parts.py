"""The rounds of a run, to be looked at from within."""

from collections.abc import Sequence
from typing import Any

from torch import Tensor

from fl.common.tensor_files import split_state
from fl.rounds.base import Rounds
from fl.rounds.result import RoundResult
from fl.run.loop import make_rounds
from tests.end_to_end.test_resume import OPTIONS
from tests.support import make_worker

_EXACT = {"uplink": "none", "downlink": "none", "server": "fedavg", "weight_decay": 0.0, "lr_schedule": "constant"}


def start_rounds(**options: Any) -> tuple[Any, Any]:
    """Four clients on digits, all in every round, exact in both directions unless `options` say otherwise: what the rank
    holds, and the rounds."""
    worker = make_worker(**{**OPTIONS, "model": "lenet5", "clients_per_round": 4, **_EXACT, **options})
    return worker, make_rounds(worker)


def run_with(rounds: Any, number: int, cohort: Sequence[int]) -> RoundResult:
    """A round of this cohort."""
    rounds.cohort = lambda number: list(cohort)
    try:
        return rounds.run(number)
    finally:
        del rounds.cohort


def remembered(rounds: Rounds, clients: int) -> dict[str, Any]:
    """Copies of all tensors that the rounds, and these clients, remember, by path; and all else as text."""
    rounds.put_states()
    states = {
        "rounds": rounds.state_dict(),
        **{f"client {client}": rounds.states.get(client) for client in range(clients)},
    }
    tensors, rest = split_state(states)
    return {**{name: tensor.clone() for name, tensor in tensors.items()}, "rest": str(rest)}


def same(left: dict[str, Any], right: dict[str, Any]) -> None:
    """Assert that two of these are equal, bit for bit."""
    assert left.keys() == right.keys()
    for name, value in left.items():
        assert value.equal(right[name]) if isinstance(value, Tensor) else value == right[name], name
