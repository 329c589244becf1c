"""Coordinates by layer. Oracle: one coordinate after another, in plain Python."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from compression import Layout
from compression.masks.inside import MaskedLayout
from compression.wire import Sparse
from fl.output.layers import count_by_layer, mean_held

_SIZES = st.lists(st.integers(0, 9), min_size=1, max_size=8)


def layout_of(sizes: list[int]) -> Layout:
    """Vectors of these sizes, end to end."""
    return Layout(tuple(f"layer{i}" for i in range(len(sizes))), tuple((size,) for size in sizes))


def by_hand(sizes: list[int], positions: list[int]) -> list[int]:
    """How many of `positions` lie in each layer."""
    owner = [layer for layer, size in enumerate(sizes) for _ in range(size)]
    return [sum(owner[position] == layer for position in positions) for layer in range(len(sizes))]


@given(_SIZES, st.data())
@settings(max_examples=60, deadline=None)
def test_positions_are_counted_where_they_lie(sizes: list[int], data: st.DataObject) -> None:
    """Any positions, layers without coordinates among them, whichever field says where they are."""
    layout = layout_of(sizes)
    chosen = sorted(data.draw(st.sets(st.integers(0, layout.total - 1)))) if layout.total else []
    at = torch.tensor(chosen, dtype=torch.int64)
    some = Sparse(layout.total, at, torch.ones(len(chosen)))
    whole = Sparse(layout.total, None, torch.ones(layout.total), sent=len(chosen), sent_at=at)
    for sparse in (some, whole):
        counts = count_by_layer(sparse, layout)
        assert counts.dtype == torch.int64
        assert counts.tolist() == by_hand(sizes, chosen)


def test_without_positions_everything_was_sent() -> None:
    """A dense payload; and a vector of another model is refused."""
    layout = layout_of([2, 0, 3])
    assert count_by_layer(Sparse(5, None, torch.zeros(5)), layout).tolist() == [2, 0, 3]
    with pytest.raises(ValueError, match="a vector of 4 coordinates; the layers have 5"):
        count_by_layer(Sparse(4, None, torch.zeros(4)), layout)


def test_held_is_the_mean_over_clients() -> None:
    """Two clients hold 1 and 2 of the first layer and 0 and 3 of the second; a third holds everything."""
    layout = layout_of([2, 3])
    masks = [[1, 0, 0, 0, 0], [1, 1, 1, 1, 1]]
    insides = [MaskedLayout(torch.tensor(mask).bool(), layout) for mask in masks]
    held = [inside.layout.sizes for inside in insides]
    assert mean_held([*held, layout.sizes]).tolist() == pytest.approx([5 / 3, 2])
    assert mean_held([layout.sizes]).tolist() == [2, 3]
