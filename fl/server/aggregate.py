"""Aggregation: from the updates of a round to the one that the server's optimizer takes."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from compression.wire import Sparse
from fl.models.state import ModelState
from fl.models.submodel import WHOLE, Submodel


@dataclass
class Aggregate:
    """The aggregate of a round's updates: `update`, fp32 [n], and `buffers`, fp32 [m].

    `voted`: which coordinates some client held, bool [n]; None: all. The memory is its aggregator's: valid until `reset`.
    """

    update: Tensor
    buffers: Tensor
    voted: Tensor | None = None


class Aggregator(ABC):
    """A round on rank 0: `reset`, `add` for each client in the order of the cohort, `result`.

    `number`: the one that `--aggregate` gives after the rule's name. `apart`, `damped`: see `Mean`.
    """

    in_stream: ClassVar[bool] = True
    """Whether each update is added up as it comes. Without, all updates of a round are kept, as they were decoded, until
    the next: for each client 4 bytes a coordinate if dense, 12 bytes for each that was sent if sparse."""

    def __init__(self, state: ModelState, number: float = 0.0, *, apart: bool = False, damped: bool = False) -> None:
        self._state = state
        self._number = number

    @abstractmethod
    def reset(self) -> None:
        """Begin another round."""

    @abstractmethod
    def add(
        self,
        update: Sparse,
        buffers: Sparse | None,
        weight: int,
        submodel: Submodel = WHOLE,
        *,
        scale: float = 1.0,
        buffer_scale: float = 1.0,
    ) -> None:
        """Add one client's decoded update and buffers, about its `submodel`; `weight` is how much the client counts.

        `scale`, in [0, 1], makes its update count for less; the others do not count for more. `buffer_scale`, in [0, 1],
        does the same for its buffers: the global model's fill the rest.
        """

    def add_distance(self, moved: Tensor, weight: float) -> None:
        """Add weight * `moved`, fp32 [n], to the sum of updates: how far the global model is from the one that the client
        whose update is added next started from. So the client's *model* counts, not its update (FedAsync).

        For means alone: `--mode async` goes with no other rule.
        """
        raise NotImplementedError

    @abstractmethod
    def result(self) -> Aggregate:
        """The aggregate of what was added; once a round."""


class Mean(Aggregator):
    """Weighted mean of updates and buffers (McMahan et al. 2017), added up in the order of the cohort.

    Its memory serves round after round: allocating a model takes ten times as long as adding one up.
    `apart`: clients hold different submodels, and the mean of a coordinate is over those that hold it: absence from a sparse
    payload is a zero, absence from a submodel is no vote. With `damped`, absence from a submodel is a zero too, so that
    what few clients hold moves less; what nobody holds has no vote either way: its update is zero, its buffers are the
    global model's.
    """

    def __init__(self, state: ModelState, number: float = 0.0, *, apart: bool = False, damped: bool = False) -> None:
        super().__init__(state, number)
        self._votes = torch.zeros_like(state.parameters) if apart else None
        self._damped = damped
        self._buffer_votes = torch.zeros_like(state.buffers)
        self._update = torch.zeros_like(state.parameters)
        self._buffers = torch.zeros_like(state.buffers)
        self._weight = 0

    def reset(self) -> None:
        self._update.zero_()
        self._buffers.zero_()
        self._weight = 0
        if self._votes is not None:
            self._votes.zero_()
            self._buffer_votes.zero_()

    def add(
        self,
        update: Sparse,
        buffers: Sparse | None,
        weight: int,
        submodel: Submodel = WHOLE,
        *,
        scale: float = 1.0,
        buffer_scale: float = 1.0,
    ) -> None:
        if self._votes is not None:
            submodel.vote(self._votes, weight)
            submodel.vote_on_buffers(self._buffer_votes, weight)
        update.add_to(self._update, weight * scale)
        if buffers is not None:
            buffers.add_to(self._buffers, weight * buffer_scale)
            if buffer_scale < 1:
                rest = self._state.buffers if buffers.indices is None else self._state.buffers[buffers.indices]
                Sparse(buffers.n, buffers.indices, rest).add_to(self._buffers, weight * (1 - buffer_scale))
        self._weight += weight

    def add_distance(self, moved: Tensor, weight: float) -> None:
        self._update.add_(moved, alpha=weight)

    def result(self) -> Aggregate:
        if self._votes is None:
            return Aggregate(self._update.div_(self._weight), self._buffers.div_(self._weight))
        self._update.div_(self._weight if self._damped else self._votes.clamp(min=1))
        means = self._buffers.div_(self._buffer_votes.clamp(min=1))
        buffers = torch.where(self._buffer_votes > 0, means, self._state.buffers)
        return Aggregate(self._update, buffers, self._votes > 0)
