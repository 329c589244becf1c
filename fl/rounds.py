"""The rounds of a federated run: sample, train, upload, step."""

import contextlib
from typing import Protocol

from torch import Tensor

from .errors import RoundError
from .federation import Federation
from .outcome import RoundOutcome
from .pruning import MaskedGradients


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
        self.mask = federation.make_mask()
        self.exchange.after = federation.make_after()
        self._gradients = MaskedGradients(federation.engine.model, federation.state.layout.names) if self.mask else None

    def run(self, round_: int, cohort: list[int]) -> RoundOutcome:
        """As in `Rounds.run`. If any client fails, every rank raises and nothing has changed."""
        if self.mask is None:
            return self._run(round_, cohort)
        before = self.mask.snapshot(round_)
        try:
            changed = self.mask.begin(round_)
            self._use_mask()
            outcome = self._run(round_, cohort)
        except Exception:
            self.mask.restore(before)
            self._use_mask()
            raise
        if self.exchange.mean_update is not None:
            self.mask.observe(self.exchange.mean_update)
        outcome.mask_bytes, outcome.held = self.mask.mask_bytes if changed else 0, self.mask.held
        return outcome

    def _use_mask(self) -> None:
        assert self.mask is not None
        self.exchange.inside = self.mask.inside
        if self.mask.inside is not None and self._gradients is not None:
            self._gradients.use(self.federation.state.layout.views(self.mask.inside.mask))

    def _run(self, round_: int, cohort: list[int]) -> RoundOutcome:
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
        return state if self.mask is None else {**state, **self.mask.state_dict()}

    def load_server_state(self, state: dict[str, Tensor]) -> None:
        """As in `Rounds.load_server_state`."""
        self.federation.state.parameters.copy_(state.pop("parameters"))
        self.federation.state.buffers.copy_(state.pop("buffers"))
        if self.mask is not None:
            self.mask.load_state_dict(state)
            self._use_mask()
        if self.exchange.server is not None:
            self.exchange.server.load_state_dict(state)
