"""The rounds of a federated run: sample, train, upload, step."""

import contextlib
from typing import Protocol

from torch import Tensor

from .errors import RoundError
from .exchange import RoundOutcome
from .federation import Federation


class Rounds(Protocol):
    """What a run consists of, in either mode: rounds that change the global model, and state to be kept."""

    def run(self, round_: int, cohort: list[int]) -> RoundOutcome:
        """One round of these clients; every rank's global model is the new one afterwards."""

    @property
    def has_client_state(self) -> bool:
        """Whether clients keep anything between rounds."""

    def client_state(self, client: int) -> dict[str, Tensor]:
        """What `client`, hosted here, keeps between rounds, by name."""

    def load_client_state(self, client: int, state: dict[str, Tensor]) -> None:
        """Continue from `client_state`."""

    def server_state(self) -> dict[str, Tensor]:
        """The global model and the optimizer's state, by name; used on rank 0."""

    def load_server_state(self, state: dict[str, Tensor]) -> None:
        """Continue from `server_state`; every rank calls it."""


class FederatedRounds:
    """Clients train apart, their updates go to rank 0, and its change comes back."""

    def __init__(self, federation: Federation) -> None:
        self.federation = federation
        self.trainer = federation.make_trainer()
        self.exchange = federation.make_exchange()

    def run(self, round_: int, cohort: list[int]) -> RoundOutcome:
        """As in `Rounds.run`. If any client fails, every rank raises and nothing has changed."""
        ranks, exchange = self.federation.ranks, self.exchange
        exchange.open(round_, cohort)
        try:
            for client in cohort:
                if ranks.hosts(client):
                    exchange.upload(self.trainer.train(client, round_, self.federation.state))
        except RoundError:
            raise
        except Exception:
            with contextlib.suppress(RoundError):
                exchange.abort()
            raise
        return exchange.step()

    @property
    def has_client_state(self) -> bool:
        """As in `Rounds.has_client_state`."""
        return self.exchange.has_client_state

    def client_state(self, client: int) -> dict[str, Tensor]:
        """As in `Rounds.client_state`."""
        return self.exchange.client_state(client)

    def load_client_state(self, client: int, state: dict[str, Tensor]) -> None:
        """As in `Rounds.load_client_state`."""
        self.exchange.load_client_state(client, state)

    def server_state(self) -> dict[str, Tensor]:
        """As in `Rounds.server_state`."""
        state = {"parameters": self.federation.state.parameters, "buffers": self.federation.state.buffers}
        if self.exchange.server is not None:
            state.update(self.exchange.server.state_dict())
        return state

    def load_server_state(self, state: dict[str, Tensor]) -> None:
        """As in `Rounds.load_server_state`."""
        self.federation.state.parameters.copy_(state.pop("parameters"))
        self.federation.state.buffers.copy_(state.pop("buffers"))
        if self.exchange.server is not None:
            self.exchange.server.load_state_dict(state)
