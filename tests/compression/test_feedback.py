"""Residuals by parameter name. Oracle: a plain dictionary of tensors."""

import copy

import pytest
import torch
from torch import Tensor

from compression import Layout
from compression.sender import Residuals

SHAPES: dict[str, tuple[int, ...]] = {"a": (2, 3), "b": (), "c": (4,), "d": (0,), "e": (5, 1)}


def layout(names: str) -> Layout:
    return Layout(tuple(names), tuple(SHAPES[name] for name in names))


def same(residuals: Residuals, expected: dict[str, Tensor]) -> bool:
    state = residuals.state_dict()
    return state.keys() == expected.keys() and all(torch.equal(state[name], expected[name]) for name in expected)


def test_follows_regrouping() -> None:
    """As DDP does it: one bucket first, then several in another order, then others still; a dictionary keeps up."""
    expected: dict[str, Tensor] = {}
    residuals, generator = Residuals(), torch.Generator().manual_seed(0)
    for groups in (["abcde"], ["abcde"], ["ed", "cba"], ["cba", "ed"], ["a", "eb", "dc"], ["abcde"], ["ba"], ["abcde"]):
        for names in groups:
            place = layout(names)
            found = residuals.add_to(torch.zeros(place.total), place)
            for name, view in zip(names, place.views(found), strict=True):
                assert torch.equal(view, expected.get(name, torch.zeros(SHAPES[name])))
            new = torch.randn(place.total, generator=generator)
            residuals.store(place, new.clone())
            expected.update({name: view.clone() for name, view in zip(names, place.views(new), strict=True)})
            assert same(residuals, expected)


def test_a_weight_and_a_mask() -> None:
    """Only what lies within the mask is added, so many times; tensors that nothing is known of add nothing."""
    residuals, place = Residuals(), layout("cba")
    residuals.store(layout("ab"), torch.arange(7.0))
    within = torch.arange(place.total) % 2 == 0
    found = residuals.add_to(torch.ones(place.total), place, within, weight=0.5)
    expected = torch.tensor([0, 0, 0, 0, 6, 0, 1, 2, 3, 4, 5])
    assert torch.equal(found, 1 + 0.5 * expected * within)


def test_asking_does_not_change_the_values() -> None:
    """A failed exchange asks in a new grouping and stores nothing."""
    residuals = Residuals()
    residuals.store(layout("abc"), torch.arange(11.0))
    before = residuals.state_dict()
    residuals.add_to(torch.zeros(5), layout("cb"))
    residuals.add_to(torch.zeros(7), layout("ba"))
    assert same(residuals, before)


def test_state_dict_stays_as_it_is_and_loads() -> None:
    """What is stored later reaches neither the saved state nor who loaded it; loading forgets what was there."""
    residuals = Residuals()
    residuals.store(layout("abc"), torch.arange(11.0))
    state = residuals.state_dict()
    other = Residuals()
    other.store(layout("ae"), torch.ones(11))
    other.load_state_dict(state)
    assert same(other, state)
    residuals.store(layout("abc"), torch.zeros(11))
    assert state["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert state["c"].tolist() == [7, 8, 9, 10]
    assert other.add_to(torch.zeros(11), layout("ea")).tolist() == [0] * 5 + [0, 1, 2, 3, 4, 5]
    assert other.store(layout("abc"), torch.zeros(11)) is None  # what was loaded is the caller's


def test_a_shallow_copy_is_a_snapshot() -> None:
    """What is stored later does not reach it: this is how a failed round is undone."""
    residuals = Residuals()
    residuals.store(layout("abc"), torch.arange(11.0))
    snapshot = copy.copy(residuals)
    before = snapshot.state_dict()
    residuals.store(layout("abc"), torch.zeros(11))
    residuals.store(layout("cb"), torch.ones(5))
    residuals.load_state_dict({})
    assert same(snapshot, before)
    assert snapshot.add_to(torch.zeros(11), layout("abc")).tolist() == list(range(11))


def test_a_residual_of_another_model_is_refused() -> None:
    """A saved tensor of another size fails when it is first used."""
    residuals = Residuals()
    residuals.load_state_dict({"a": torch.zeros(7)})
    with pytest.raises(ValueError, match="no parameter"):
        residuals.add_to(torch.zeros(6), layout("a"))
