"""`--prune prunefl:S`: a shared mask that gives weights up and takes others in (Jiang et al. 2022, PruneFL)."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from compression import PayloadError, make_codec
from compression.masks.payload import encode_mask
from fl.models.submodel import WHOLE
from fl.training.local_model import LocalModel

from .plan import PlanInputs
from .reconfigure import reconfigure
from .shared_mask import SharedMask

_SQUARES = make_codec("bf16+zstd")


class PruneFLMask(SharedMask):
    """One mask of all clients that is chosen anew every `pruning.every` rounds.

    Initial pruning: in round 0 the first client of the cohort trains the whole model for one local round, chooses the mask
    from what it learned, and sends the mask alone; all then begin with the first weights under it. (In the paper its
    weights are kept too, which would cost a model more. `train_flops` leaves this training out.) Reconfiguration: in the
    round before one, every client adds up the squared gradients of all coordinates, held or not, over its local steps and
    sends them in bf16 beside its update; rank 0 takes their mean, weighted as that of the updates, and makes the next mask
    (`fl.pruning.reconfigure.reconfigure`). A coordinate that comes in starts at zero. A run cannot know whether it
    will be continued: where it ends just before a reconfiguration, its last round sends squared gradients too.

    `times`: the declared cost of a coordinate of each layer, float64 [layers]. `train`: (client, model) -> the
    client's update in round 0, [n].
    """

    changing = (*SharedMask.changing, "_came_in")

    def __init__(self, inputs: PlanInputs, *, times: Tensor, train: Callable[[int, LocalModel], Tensor]) -> None:
        super().__init__(inputs)
        self._times = times
        self._train = train
        self._mean_squares = torch.zeros_like(self.state.parameters) if inputs.ranks.is_server else None
        self._incoming: Tensor | None = None  # this round's, on rank 0
        self._weight = 0
        self._own: dict[int, Tensor] = {}  # of this rank's clients, until they are sent
        self._watching = False
        self._came_in = torch.zeros(self.state.layout.total, dtype=torch.int64, device=self.state.parameters.device)

    def begin(self, round_: int, cohort: Sequence[int]) -> None:
        self.note()
        self._round, self._cohort, self._told_by = round_, list(cohort), None
        self._changed, ranks = self._changes(round_), self.inputs.ranks
        if round_ == 0:
            first = cohort[0]
            self.install(ranks.share(lambda: encode_mask(self._initial(first)), ranks.owner(first)))
            self._told_by = first
        elif self._changed:
            before = self._submodel.mask
            self.install(ranks.share(lambda: encode_mask(self._next(self.state.parameters, self._mean_squares))))
            assert before is not None  # round 0 made one
            self._came_in = torch.where(self._submodel.mask_(~before), round_, self._came_in)
        self._watching = self._changes(round_ + 1)
        self._incoming, self._weight, self._own = None, 0, {}

    def _changes(self, round_: int) -> bool:
        return round_ < self.inputs.last_round and round_ % self.pruning.every == 0

    def _initial(self, client: int) -> Tensor:
        squares = torch.zeros_like(self.state.parameters)
        update = self._train(client, self.inputs.make_local(WHOLE, squares=squares))
        return self._next(self.state.parameters - update, squares)

    def _next(self, weights: Tensor, squares: Tensor | None) -> Tensor:
        assert squares is not None
        mask = torch.ones_like(weights, dtype=torch.bool) if self.bits is None else self.bits
        return reconfigure(weights, squares, mask, self.state.layout, self.pruning, times=self._times)

    def residual_mask(self, client: int) -> Tensor | None:
        """A coordinate that has come back since begins anew."""
        mask = super().residual_mask(client)
        return None if mask is None else mask & (self._came_in <= self._uploads.get(client, -1))

    def local(self, client: int, round_: int) -> LocalModel:
        """Before a reconfiguration training also adds up squared gradients."""
        if not self._watching:
            return super().local(client, round_)
        self._own[client] = torch.zeros_like(self.state.parameters)
        return self.inputs.make_local(self.submodel(client), squares=self._own[client])

    def sections(self, client: int) -> dict[str, Tensor]:
        """Its squared gradients, where the next round begins with another mask."""
        squares = self._own.pop(client, None)
        return {} if squares is None else {"squares": _SQUARES.encode(squares, self.state.layout)[0]}

    def receive(self, client: int, sections: Mapping[str, Tensor], weight: int) -> None:
        if "squares" not in sections:
            return
        squares = _SQUARES.decode(sections["squares"], self.state.layout.total, self.state.layout)
        if squares.values.numel() and float(squares.values.min()) < 0:
            raise PayloadError("some of its squared gradients are negative")
        if self._incoming is None:
            self._incoming = torch.zeros_like(self.state.parameters)
        squares.add_to(self._incoming, weight)
        self._weight += weight

    def forget(self, client: int) -> None:
        super().forget(client)
        self._own.pop(client, None)

    def commit(self) -> None:
        super().commit()
        if self._incoming is not None:
            self._mean_squares = self._incoming.div_(self._weight)
            self._incoming = None

    def state_dict(self) -> dict[str, Any]:
        """With the squared gradients."""
        state = {**super().state_dict(), "came_in": self._came_in}
        return state if self._mean_squares is None else {**state, "mean_squares": self._mean_squares}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._came_in.copy_(state["came_in"])
        if self._mean_squares is not None:
            self._mean_squares.copy_(state["mean_squares"])
