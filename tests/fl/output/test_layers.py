"""Rows of layers.csv. Oracle: two layers, two clients, by hand."""

import torch
from torch import nn

from compression.masks.inside import MaskedLayout
from compression.wire import Sparse
from fl.models.state import ModelState
from fl.models.submodel import WHOLE, Submodel
from fl.output.layers import LAYERS, LayerCounts


def _state() -> ModelState:
    """A weight of four, 0 0 5 6, and a bias of two, 7 0."""
    model = nn.Linear(2, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.0, 0.0], [5.0, 6.0]]))
        model.bias.copy_(torch.tensor([7.0, 0.0]))
    return ModelState(model, torch.device("cpu"))


def _update(state: ModelState, positions: list[int], *, weights: bool = False) -> Sparse:
    at = torch.tensor(positions)
    if weights:
        return Sparse(6, None, torch.zeros(6), sent=len(positions), sent_at=at)
    return Sparse(6, at, torch.ones(len(positions)))


def _counts(state: ModelState, parts: list[Submodel], updates: list[Sparse]) -> LayerCounts:
    counts = LayerCounts(state.layout)
    for part, update in zip(parts, updates, strict=True):
        counts.add(update, part)
    return counts


def test_masks_that_differ() -> None:
    """Client 0 holds the last three coordinates and sends one, client 1 holds all and sends four."""
    state = _state()
    part = Submodel(inside=MaskedLayout(torch.tensor([0, 0, 0, 1, 1, 1]).bool(), state.layout))
    rows = _counts(state, [part, WHOLE], [_update(state, [4]), _update(state, [0, 1, 3, 5])]).rows(3, state)
    assert [tuple(row) for row in rows] == [LAYERS, LAYERS]
    assert list(rows[0].values()) == [3, "weight", 4, 2.5, 0.375, 2, 0.375, 3 / 8]
    assert list(rows[1].values()) == [3, "bias", 2, 2, 0.0, 1, 0.0, 2 / 4]
    assert isinstance(rows[1]["held"], int)


def test_weights_that_were_pruned_after_training() -> None:
    """There is no mask; what was pruned is what was not sent."""
    state = _state()
    updates = [_update(state, [2, 3, 4, 5], weights=True), _update(state, [3, 4, 5], weights=True)]
    rows = _counts(state, [WHOLE, WHOLE], updates).rows(0, state)
    assert [row["sparsity"] for row in rows] == [0.0, 0.0]
    assert [row["pruned_fraction"] for row in rows] == [5 / 8, 0.0]
    assert [row["sent_fraction"] for row in rows] == [3 / 8, 1.0]
