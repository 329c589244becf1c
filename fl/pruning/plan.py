"""What a round asks of pruning, whoever decides what is pruned."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from fl.clock.adaptive import Shares
from fl.comm.ledger import Holding
from fl.models.state import ModelState
from fl.models.submodel import WHOLE, Part
from fl.training.local_model import LocalModel


class Masks(ABC):
    """The part of the global model that each client holds, round after round.

    `alike`: all clients always hold the same part, and the global model is zero outside it. Otherwise the mean of a
    coordinate is over the clients that hold it, and the server's change is sent whole.
    """

    alike = True
    shares: Shares | None = None  # what each client is able to hold, where that can change

    def __init__(self, state: ModelState) -> None:
        self.state = state

    @abstractmethod
    def begin(self, round_: int, cohort: Sequence[int]) -> None:
        """Begin a round of these clients: choose and share the masks that it needs. Collective."""

    @abstractmethod
    def part(self, client: int) -> Part:
        """What a client of this round holds, or has a say in if that is less; on its own rank and on rank 0."""

    @abstractmethod
    def local(self, client: int, round_: int) -> LocalModel:
        """What `client`, hosted here, trains in this round."""

    @property
    def able(self) -> list[float] | None:
        """The capability of each client, where they differ."""
        return None

    def capability(self, client: int) -> float | None:
        """The fraction of the server's model that a client holds now, where they differ."""
        able = self.able
        return None if able is None else able[client]

    @property
    def common(self) -> Part:
        """What the server's change is about."""
        return WHOLE

    @property
    def static_statistics(self) -> bool:
        """Whether no client sends running statistics (`fl.training.static_batchnorm`)."""
        return False

    @property
    def rewound(self) -> bool:
        """Whether this round began with other weights than the last one ended with, known to all clients."""
        return False

    def side(self, client: int) -> Tensor | None:
        """After local training: what `client`, hosted here, sends beside its update, uint8."""
        return None

    def take_side(self, client: int, payload: Tensor, weight: int) -> None:  # noqa: B027 - most have nothing to do
        """On rank 0: what a client, which counts so much, sent beside its update; PayloadError if it is not that."""

    def close(self, mean_update: Tensor | None) -> None:  # noqa: B027 - most have nothing to do
        """The round succeeded; `mean_update`, fp32 [n], on rank 0 where it is known."""

    def evaluated(self, round_: int, val_score: float | None) -> None:  # noqa: B027 - most have nothing to do
        """The global model was evaluated after `round_`; the same call on every rank."""

    @abstractmethod
    def snapshot(self, round_: int) -> Any:
        """Before `begin`: what `restore` needs."""

    @abstractmethod
    def restore(self, before: Any) -> None:
        """The round failed: everything as it was at `snapshot`."""

    @property
    def mask_bytes(self) -> int:
        """Payload of the mask that began this round for all clients; 0 if none did."""
        return 0

    @property
    def told_by(self) -> tuple[int, int] | None:
        """The client that chose this round's mask, and the bytes that it told the server; None: rank 0 did."""
        return None

    @property
    def rewound_bytes(self) -> int:
        """Payload of the weights that this round began with, where they are others than the last one ended with."""
        return 0

    def remembered(self, client: int) -> Tensor | None:
        """Coordinates, bool [n], where what `client` kept of earlier updates still counts; None: all."""
        return None

    @abstractmethod
    def held(self, client: int) -> int:
        """How many coordinates a client of this round holds; on rank 0."""

    def holdings(self, cohort: Sequence[int]) -> dict[int, Holding] | None:
        """What each client downloads at the beginning of this round, where they differ; on rank 0."""
        return None

    @abstractmethod
    def state_dict(self) -> dict[str, Tensor]:
        """On rank 0: everything that later rounds depend on, by name."""

    @abstractmethod
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from `state_dict()`, on every rank."""
