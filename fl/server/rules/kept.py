"""The common part of rules that must see all updates of a round at once."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from compression.wire import Sparse
from fl.models.state import ModelState
from fl.models.submodel import WHOLE, Submodel

from ..aggregate import Aggregator

_NUMBERS = 2**21
"""How many numbers of all clients together are looked at at once."""


class Kept(Aggregator):
    """Keeps the updates and buffers of a round. Clients count alike, whatever their samples: a weight is no evidence.

    A client's `scale` shrinks its update, its `buffer_scale` moves its buffers towards the global model's.
    """

    in_stream = False

    def __init__(self, state: ModelState, number: float = 0.0, *, apart: bool = False, damped: bool = False) -> None:
        if apart:
            raise ValueError("clients that hold different parts have no updates that could be compared")
        super().__init__(state, number)
        self._updates: list[Sparse] = []
        self._statistics: list[Sparse] = []
        self._update, self._buffers = torch.empty_like(state.parameters), torch.empty_like(state.buffers)

    def reset(self) -> None:
        self._updates, self._statistics = [], []

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
        self._updates.append(update if scale == 1 else replace(update, values=update.values * scale))
        if buffers is not None:
            if buffer_scale < 1:
                rest = self._state.buffers if buffers.indices is None else self._state.buffers[buffers.indices]
                buffers = replace(buffers, values=torch.lerp(rest, buffers.values, buffer_scale))
            self._statistics.append(buffers)


def columns(vectors: Sequence[Sparse]) -> Iterator[tuple[Tensor, Tensor]]:
    """The vectors below each other, some coordinates at a time: ascending int64 [w] and fp32 [clients, w].

    Coordinates that no vector gives are left out. However long the vectors are, the rows hold about two million numbers.
    """
    n, device = vectors[0].n, vectors[0].values.device
    width = max(1, _NUMBERS // len(vectors))
    bounds = torch.arange(0, n + width, width, device=device).clamp(max=n)
    cuts = [None if each.indices is None else torch.searchsorted(each.indices, bounds).tolist() for each in vectors]
    everything = any(cut is None for cut in cuts)
    for chunk, low in enumerate(range(0, n, width)):
        high = min(n, low + width)
        given = [
            slice(None) if each.indices is None or cut is None else each.indices[cut[chunk] : cut[chunk + 1]] - low
            for each, cut in zip(vectors, cuts, strict=True)
        ]
        present = torch.full((high - low,), everything, device=device)
        for at in given:
            present[at] = True
        place = present.cumsum(0) - 1  # of a coordinate among those that are given
        where = present.nonzero().view(-1)
        rows = torch.zeros(len(vectors), where.numel(), device=device)
        for row, each, at, cut in zip(rows, vectors, given, cuts, strict=True):
            if cut is None:
                row.copy_(each.values[low:high])
            else:
                row[place[at]] = each.values[cut[chunk] : cut[chunk + 1]]
        yield where + low, rows
