"""What a run consists of: rounds."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from fl.comm.ledger import Ledger
from fl.output.client_states import HasClientStates

from .result import RoundOutcome, Wasted


class Rounds(HasClientStates, Protocol):
    """What a run consists of, in either mode: rounds that change the global model, and state to be kept."""

    def run(self, round_: int, cohort: list[int]) -> RoundOutcome:
        """One round of these clients; every rank's global model is the new one afterwards."""

    @property
    def has_client_state(self) -> bool:
        """Whether clients keep anything between rounds."""

    def server_state(self) -> dict[str, Tensor]:
        """The global model and the optimizer's state, by name; used on rank 0."""

    def load_server_state(self, state: dict[str, Tensor]) -> None:
        """Continue from `server_state`; every rank calls it."""

    def before_evaluation(self, round_: int, cohort: list[int]) -> None:
        """Make the global model ready to be evaluated after `round_`; collective."""

    def evaluated(self, round_: int, val_score: float | None) -> None:
        """After every round: its score on the validation split, where it was evaluated; the same on every rank."""

    def cohort(self, round_: int, now: float = 0.0) -> list[int]:
        """The clients of a round that begins at virtual second `now`, ascending; the same on every rank."""

    def wait_s(self, client: int, now: float) -> float:
        """Virtual seconds until a client that was drawn at second `now` is up."""

    @property
    def by_time(self) -> bool:
        """Whether who takes part, or what clients do, depends on virtual time: then `timed` is to be called."""

    def timed(self, round_: int, rows: Sequence[Mapping[str, float]]) -> list[str]:
        """After every round of clients that take virtual time: their rows of clients.csv, the same on every rank.
        What follows from them, in words."""

    @property
    def capabilities(self) -> list[float] | None:
        """The fraction of the model that each client can hold; None where all can hold all of it."""

    def plan(self) -> dict[str, Any]:
        """What the rounds to come depend on besides tensors, for JSON; the same on every rank."""

    def load_plan(self, plan: dict[str, Any]) -> None:
        """Continue from `plan`; before `load_server_state`."""

    @property
    def ledger(self) -> Ledger | None:
        """The ledger, where downloads are charged as they begin; None where rounds are charged when they are over."""

    def unfinished(self) -> list[Wasted]:
        """Where the run ends now: what clients that are still at work have begun to download, and to send."""

    @property
    def query_bytes(self) -> tuple[int, int]:
        """What each client of the last round sends and receives besides, so that the final model can be used."""
