"""`--prune prunefl:S`: a shared mask that gives weights up and takes others in (Jiang et al. 2022, PruneFL)."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from compression import PayloadError, make_codec
from compression.masks.payload import encode_mask
from fl.models.submodel import WHOLE
from fl.training.local_model import LocalModel

from .choose import protected_layers
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

    `times`: the declared cost of a coordinate of each layer, float64 [layers]. `make_watched`: (part, squares) -> a local
    model that adds g^2 of every coordinate to squares [n]. `train`: (client, round, model) -> the client's update [n].
    """

    def __init__(
        self,
        *args: Any,
        times: Tensor,
        make_watched: Callable[..., LocalModel],
        train: Callable[[int, int, LocalModel], Tensor],
        **options: Any,
    ) -> None:
        super().__init__(*args, **options)
        self._times = times
        self._make_watched = make_watched
        self._train = train
        self._mean_squares = torch.zeros_like(self.state.parameters) if self.ranks.is_server else None
        self._incoming: Tensor | None = None  # this round's, on rank 0
        self._weight = 0
        self._own: dict[int, Tensor] = {}  # of this rank's clients, until they are sent
        self._watching = False
        self._came_in = torch.zeros(self.state.layout.total, dtype=torch.int64, device=self.state.parameters.device)

    def begin(self, round_: int, cohort: Sequence[int]) -> None:
        """As in `Masks.begin`."""
        self._round, self._cohort, self._told_by = round_, list(cohort), None
        self._changed = self._changes(round_)
        if round_ == 0:
            first = cohort[0]
            payload = self.ranks.share(lambda: encode_mask(self._initial(first)), self.ranks.owner(first))
            self.install(payload)
            self._told_by = first, payload.numel()
        elif self._changed:
            before = self._part.inside
            self.install(self.ranks.share(lambda: encode_mask(self._next(self.state.parameters, self._mean_squares))))
            assert before is not None
            assert self._part.inside is not None
            self._came_in = torch.where(self._part.inside.mask & ~before.mask, round_, self._came_in)
        self._watching = self._changes(round_ + 1)
        self._incoming, self._weight, self._own = None, 0, {}

    def snapshot(self, round_: int) -> Any:
        """As in `Masks.snapshot`."""
        return super().snapshot(round_), self._came_in

    def restore(self, before: Any) -> None:
        """As in `Masks.restore`."""
        shared, self._came_in = before
        super().restore(shared)

    def _changes(self, round_: int) -> bool:
        if self.last_round is not None and round_ >= self.last_round:
            return False
        return round_ % self.pruning.every == 0

    def _initial(self, client: int) -> Tensor:
        squares = torch.zeros_like(self.state.parameters)
        update = self._train(client, 0, self._make_watched(WHOLE, squares=squares))
        return self._next(self.state.parameters - update, squares)

    def _next(self, weights: Tensor, squares: Tensor | None) -> Tensor:
        assert squares is not None
        pruning, layout = self.pruning, self.state.layout
        return reconfigure(
            weights,
            squares,
            torch.ones_like(weights, dtype=torch.bool) if self.bits is None else self.bits,
            layout,
            pruning.sparsity,
            adjust=pruning.adjust,
            times=self._times,
            fixed_time=0.0,
            size=pruning.size,
            protected=protected_layers(layout, pruning.protect),
            min_density=pruning.min_density,
        )

    def remembered(self, client: int) -> Tensor | None:
        """As in `Masks.remembered`: a coordinate that has come back since begins anew."""
        mask = super().remembered(client)
        return None if mask is None else mask & (self._came_in <= self._uploads.get(client, -1))

    def local(self, client: int, round_: int) -> LocalModel:
        """As in `Masks.local`; before a reconfiguration with its squared gradients."""
        if not self._watching:
            return super().local(client, round_)
        self._own[client] = torch.zeros_like(self.state.parameters)
        return self._make_watched(self.part(client), squares=self._own[client])

    def side(self, client: int) -> Tensor | None:
        """As in `Masks.side`: its squared gradients, where the next round begins with another mask."""
        squares = self._own.pop(client, None)
        return None if squares is None else _SQUARES.encode(squares, self.state.layout)[0]

    def take_side(self, client: int, payload: Tensor, weight: int) -> None:
        """As in `Masks.take_side`."""
        squares = _SQUARES.decode(payload, self.state.layout.total, self.state.layout)
        if squares.values.numel() and float(squares.values.min()) < 0:
            raise PayloadError(f"client {client} sent squared gradients of which some are negative")
        if self._incoming is None:
            self._incoming = torch.zeros_like(self.state.parameters)
        squares.add_to(self._incoming, weight)
        self._weight += weight

    def close(self, mean_update: Tensor | None) -> None:
        """As in `Masks.close`."""
        super().close(mean_update)
        if self._incoming is not None:
            self._mean_squares = self._incoming.div_(self._weight)
            self._incoming = None

    def state_dict(self) -> dict[str, Tensor]:
        """As in `SharedMask.state_dict`, with the squared gradients."""
        state = {**super().state_dict(), "mask.came_in": self._came_in}
        return state if self._mean_squares is None else {**state, "mask.mean_squares": self._mean_squares}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from `state_dict()`."""
        super().load_state_dict(state)
        self._came_in.copy_(state["mask.came_in"])
        if self._mean_squares is not None:
            self._mean_squares.copy_(state["mask.mean_squares"])
