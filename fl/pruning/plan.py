"""Which submodel each client trains and sends: the interface of every way to prune; by itself, all of the model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from fl.clock.adaptive import Fractions
from fl.comm.ledger import SubmodelSize
from fl.common.ranks import Ranks
from fl.models.state import ModelState
from fl.models.submodel import WHOLE, Submodel
from fl.training.local_model import LocalModel

from .schedule import parse_prune_schedule
from .score import SquaredUpdates
from .select import MaskSelector
from .spec import Pruning

NEVER = 2**62
"""A round that no run gets to."""


@dataclass(frozen=True)
class PlanInputs:
    """The inputs of every plan that prunes. `make_local`: submodel -> its `LocalModel`. `gradient_of`: (client, round,
    submodel) -> the gradient of the client's loss at the global weights, fp32 [n]. `last_round`: masks stay from this round
    on."""

    pruning: Pruning
    schedule: str
    selector: MaskSelector
    ranks: Ranks
    state: ModelState
    make_local: Callable[..., LocalModel]
    gradient_of: Callable[[int, int, Submodel], Tensor]
    seed: int
    last_round: int = NEVER


@dataclass(frozen=True)
class NewMask:
    """A round began with another mask for all clients: its payload's bytes, and those of the weights that came with it.

    No bytes: it began with the one that there was. `chooser`: the client that chose it from its data, if one did.
    """

    mask_bytes: int = 0
    rewound_bytes: int = 0
    chooser: int | None = None


class SubmodelPlan:
    """Every client trains the whole model.

    A round changes what a plan remembers; `commit` keeps the changes, `rollback` undoes them.
    """

    differs: ClassVar[bool] = False
    """Whether clients may hold different submodels. The mean of a coordinate is then over the clients that hold it, and the
    server's change is sent whole; otherwise the global model is zero outside the submodel of all."""

    kept_vectors: ClassVar[int] = 0
    """How many vectors as large as the model a client keeps between rounds."""

    damped = False
    """Whether the mean of a coordinate is over all clients of the round, those that do not hold it too."""

    def __init__(self, state: ModelState, whole: LocalModel, fractions: Fractions | None = None) -> None:
        self.state = state
        self.whole = whole
        self.fractions = fractions or Fractions()

    def begin(self, round_: int, cohort: Sequence[int]) -> None:
        """Begin a round of these clients: choose and share the masks that it needs. Collective."""

    def submodel(self, client: int) -> Submodel:
        """The submodel of a client of this round, without coordinates on which it has no vote; on its own rank and on rank
        0."""
        return WHOLE

    def local(self, client: int, round_: int) -> LocalModel:
        """The model that `client`, hosted here, trains in this round."""
        return self.whole

    def begins_early(self, own: Mapping[str, Tensor], round_: int) -> bool:
        """Whether a client with these weights of its `own` trains in this round what it would train if the round before it
        had changed nothing."""
        return False

    @property
    def published(self) -> Submodel:
        """The submodel that the server's change is about."""
        return WHOLE

    @property
    def static_batchnorm(self) -> bool:
        """Whether no client sends running statistics (`fl.training.static_batchnorm`)."""
        return False

    @property
    def rewound(self) -> bool:
        """Whether this round began with other weights than the last one ended with, known to all clients."""
        return False

    @property
    def new_mask(self) -> NewMask:
        """The mask that this round began with, if there is a new one for all clients."""
        return NewMask()

    def sections(self, client: int) -> dict[str, Tensor]:
        """After local training: the sections, uint8, that `client`, hosted here, sends beside its update."""
        return {}

    def learn_submodel(self, client: int, sections: Mapping[str, Tensor]) -> None:
        """On rank 0: learn what `client` holds from the sections that it sent; PayloadError if they are damaged."""

    def receive(self, client: int, sections: Mapping[str, Tensor], weight: int) -> None:
        """On rank 0: take the other sections of a client whose update counts with `weight` in the mean; PayloadError if
        they are damaged."""

    def forget(self, client: int) -> None:
        """What `client` has learnt or sent since `begin` does not count."""

    def learn(self, mean_update: Tensor) -> None:
        """On rank 0: the mean update of the round, fp32 [n]."""

    def observe(self, round_: int, val_score: float | None) -> None:
        """The round is over, and its validation score known if it was evaluated; the same call on every rank."""

    def residual_mask(self, client: int) -> Tensor | None:
        """Coordinates, bool [n], whose residual still counts for `client`; None: all."""
        return None

    def held(self, client: int) -> int:
        """How many coordinates a client of this round holds; on rank 0."""
        return self.submodel(client).held(self.state.layout.total)

    def sizes(self, cohort: Sequence[int]) -> dict[int, SubmodelSize]:
        """The size of each client's download at the beginning of this round, where they differ; on rank 0."""
        return {}

    def columns(self, client: int) -> dict[str, float]:
        """Columns of clients.csv."""
        return self.fractions.columns(client)

    def commit(self) -> None:
        """The round has succeeded."""

    def rollback(self) -> None:
        """The round has failed: everything as it was before `begin`."""

    def state_dict(self) -> dict[str, Any]:
        """On rank 0: everything that later rounds depend on, in tensors that are not written over."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`, on every rank."""


class PrunedPlan(SubmodelPlan):
    """The common part of plans that prune: inputs, squared updates, and a snapshot at the beginning of a round."""

    changing: ClassVar[tuple[str, ...]] = ()
    """Attributes that a round changes: dictionaries, or what is replaced and never written over."""

    def __init__(self, inputs: PlanInputs, fractions: Fractions | None = None) -> None:
        super().__init__(inputs.state, inputs.make_local(WHOLE), fractions)
        self.inputs = inputs
        self.pruning = inputs.pruning
        self.damped = inputs.pruning.mean == "cohort"
        self.selector = inputs.selector
        self.schedule = parse_prune_schedule(inputs.schedule)
        watch = inputs.ranks.is_server and "gradient" in (self.pruning.method, self.pruning.score)
        self.squares = SquaredUpdates(inputs.state.parameters, watch=watch)
        self._before: dict[str, Any] = {}

    def note(self) -> None:
        """Note what a round changes, at its beginning; it may begin several times, with further clients."""
        if not self._before:
            own = {name: getattr(self, name) for name in self.changing}
            self._before = {name: dict(value) if isinstance(value, dict) else value for name, value in own.items()}

    def learn(self, mean_update: Tensor) -> None:
        self.squares.learn(mean_update)

    def commit(self) -> None:
        self.squares.commit()
        self._before = {}

    def rollback(self) -> None:
        self.squares.rollback()
        for name, value in self._before.items():
            setattr(self, name, value)
        self._before = {}
