"""The rounds of a run: their interface, and the transaction that makes each of them all or nothing."""

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from fl.comm.ledger import Ledger
from fl.common.tensor_files import State
from fl.output.client_states import ClientStates

from .result import Dropped, RoundResult


class Participant(Protocol):
    """Whatever remembers something of a round."""

    def commit(self) -> None:
        """The round has succeeded: what it changed stays."""

    def rollback(self) -> None:
        """The round has failed: everything is as it was at the last `commit`."""


@contextlib.contextmanager
def transaction(participants: Sequence[Participant]) -> Iterator[None]:
    """In this block a round takes place: all participants commit at its end, or all roll back."""
    with contextlib.ExitStack() as rollbacks:  # all of them, even where one raises
        for each in participants:
            rollbacks.callback(each.rollback)
        yield
        rollbacks.pop_all()
    for each in participants:
        each.commit()


class Rounds(ABC):
    """The rounds of a run, in one of the modes. A method with a default does nothing in most modes."""

    states: ClientStates
    """What the clients that this rank hosts keep between rounds."""

    @abstractmethod
    def run(self, number: int) -> RoundResult:
        """One round; every rank's global model is the new one afterwards. If it fails on any rank, every rank raises, and
        nothing has changed. Collective."""

    @property
    def by_time(self) -> bool:
        """Whether virtual time decides which clients take part, or how much they do; then `timed` must be called after
        each round."""
        return False

    @property
    def ledger(self) -> Ledger | None:
        """The ledger, where the rounds have it: downloads are charged as they begin, or sites may lose what they had; else
        None."""
        return None

    @property
    def engine_bytes(self) -> int | None:
        """Bytes that the engine which carries the messages of sites has carried beside their payloads in the last round;
        None where there is none."""
        return None

    @property
    def query_bytes(self) -> tuple[int, int]:
        """Bytes that each client of the last round sends and receives besides, so that the final model can be used."""
        return 0, 0

    @property
    def kept_vectors(self) -> int:
        """How many vectors as large as the model a client keeps in `states`."""
        return 0

    @property
    def privacy(self) -> dict[str, float]:
        """With `--dp`, the columns of metrics.csv about the guarantee of the rounds so far; on rank 0."""
        return {}

    @property
    def left_out(self) -> list[int]:
        """The clients that failed so often that they are not asked again, ascending."""
        return []

    def wait_s(self, client: int, now: float) -> float:
        """Virtual seconds until a client that was drawn at second `now` is up."""
        return 0.0

    def beginning(self) -> dict[str, Any]:
        """What partition.json is to say of the clients besides their samples, ready for JSON."""
        return {}

    def before_evaluation(self, number: int, cohort: Sequence[int]) -> None:
        """Make the global model ready to be evaluated after a round of this cohort. Collective."""

    def end(self, number: int, val_score: float | None) -> None:
        """The round is over, and its score on the validation split known if it was evaluated; the same on every rank."""

    def timed(self, number: int, now: float, rows: Sequence[Mapping[str, float]]) -> list[str]:
        """After a round that ended at virtual second `now`, with its rows of clients.csv; the same on every rank.
        Returns log lines for the fractions that changed."""
        return []

    def unfinished(self) -> list[Dropped]:
        """If the run ends now: the bytes that clients still at work have begun to download and to send."""
        return []

    def put_states(self) -> None:
        """Before a checkpoint: put into `states` what clients keep elsewhere."""

    @abstractmethod
    def state_dict(self) -> State:
        """On rank 0: the global model, and all that the rounds to come depend on besides clients' states: nested, tensors
        that later rounds do not write over, and what JSON can hold."""

    @abstractmethod
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`; every rank calls it."""
