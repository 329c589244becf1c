"""What every exchange of a round does: updates to rank 0, and the server's change back to every rank."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence

from torch import Tensor

from compression import make_codec
from compression.wire import dense_bytes
from fl.clock.adaptive import Shares
from fl.comm.message import apply_change, part_payloads
from fl.common.ranks import Ranks
from fl.common.seeds import derive_seed
from fl.models.state import ModelState
from fl.models.submodel import WHOLE, Part
from fl.pruning.after import AfterTraining
from fl.pruning.plan import Masks
from fl.server.aggregate import Aggregate
from fl.server.server import Server
from fl.training.trainer import Update

from .result import RoundOutcome


class Exchange(ABC):
    """One round after another: `open`, `upload` for each client of this rank, then `step` on every rank.

    A failure on any rank before the server's step makes every rank raise, and leaves the model, the residuals and the
    server as they were.
    """

    def __init__(self, ranks: Ranks, state: ModelState, server: Server | None, downlink: str, *, seed: int) -> None:
        self.ranks = ranks
        self.state = state
        self.server = server
        self.downlink = make_codec(downlink)
        self.seed = seed
        self.count_layers = False  # whether rank 0 notes what clients hold and send of each layer
        self.masks: Masks | None = None  # which part of the model each client holds, if not all of it
        self.shares: Shares | None = None  # of the uplink's coordinates that each client sends, if not all
        self.after: AfterTraining | None = None  # what makes clients send pruned weights, if anything does

    @abstractmethod
    def open(self, round_: int, cohort: Sequence[int]) -> None:
        """Begin a round of these clients; the same list, in the same order, on every rank."""

    @abstractmethod
    def upload(self, update: Update) -> None:
        """Hand over a client's update, whose `values` are used up; clients come in cohort order."""

    @abstractmethod
    def abort(self) -> None:
        """Tell the other ranks that this one failed; they raise RoundError, and so does this call."""

    @abstractmethod
    def step(self) -> RoundOutcome:
        """Finish the round: every rank's global model is the new one afterwards. The outcome is whole on rank 0."""

    @abstractmethod
    def client_state(self, client: int) -> dict[str, Tensor]:
        """What must be kept for `client` between rounds, by name."""

    @abstractmethod
    def load_client_state(self, client: int, state: dict[str, Tensor]) -> None:
        """Continue from `client_state`."""

    @property
    @abstractmethod
    def has_client_state(self) -> bool:
        """Whether clients keep anything between rounds."""

    def serve(
        self,
        round_: int,
        aggregate: Callable[[], Aggregate],
        outcome: RoundOutcome,
        failure: Exception | None = None,
    ) -> None:
        """Rank 0 steps on what `aggregate` gives and broadcasts; every rank applies what it decodes."""
        payload: Tensor | None = None
        if self.server is not None:
            try:
                if failure is not None:
                    raise failure
                key = derive_seed(self.seed, "downlink", round_)
                rewound = self.masks is not None and self.masks.rewound
                payload, _, outcome.update_norm = self.server.step(
                    aggregate(), key=key, part=self.common, rewound=rewound
                )
            except Exception:
                if self.ranks.world_size > 1:
                    self.ranks.broadcast_failure()
                raise
        payload = self.ranks.broadcast(payload)
        buffers = self.common.buffer_count(self.state.buffers.numel())
        outcome.buffers_bytes = dense_bytes(buffers) if buffers else 0
        outcome.change_bytes = payload.numel() - outcome.buffers_bytes
        codec = self.common.codec(self.downlink)
        apply_change(self.state, *part_payloads(payload, self.state, codec, self.common))

    @property
    def mean_update(self) -> Tensor | None:
        """On rank 0 the mean update of the last round, fp32 [n], where updates go through payloads."""
        return None

    @property
    def common(self) -> Part:
        """What the server's change is about."""
        return WHOLE if self.masks is None else self.masks.common

    def part(self, client: int) -> Part:
        """What a client of this round holds."""
        return WHOLE if self.masks is None else self.masks.part(client)
