"""A federation whose clients hold parts of the model, to be looked at from within."""

from typing import Any

from fl.rounds.sync import FederatedRounds
from fl.training.worker import Federation
from tests.end_to_end.test_resume import OPTIONS
from tests.support import make_federation

_EXACT = {"uplink": "none", "downlink": "none", "server": "fedavg", "weight_decay": 0.0, "lr_schedule": "constant"}


def start_rounds(**options: Any) -> tuple[Federation, FederatedRounds]:
    """Four clients on digits, all in every round, exact in both directions unless `options` say otherwise."""
    federation = make_federation(**{**OPTIONS, "model": "lenet5", "clients_per_round": 4, **_EXACT, **options})
    return federation, FederatedRounds(federation)
