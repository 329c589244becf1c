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
            found = residuals.flat(place, torch.zeros(1))
            assert found.shape == (place.total,)
            for name, view in zip(names, place.views(found), strict=True):
                assert torch.equal(view, expected.get(name, torch.zeros(SHAPES[name])))
            new = torch.randn(place.total, generator=generator)
            residuals.store(place, new.clone())
            expected.update({name: view.clone() for name, view in zip(names, place.views(new), strict=True)})
            assert same(residuals, expected)


def test_the_vector_is_the_storage() -> None:
    """Writing to it changes the residuals: no copy for the same grouping."""
    residuals = Residuals()
    vector = residuals.flat(layout("ab"), torch.zeros(1))
    assert vector.tolist() == [0.0] * 7
    vector[6] = 5.0
    assert residuals.flat(layout("ab"), torch.zeros(1)) is vector
    assert residuals.state_dict()["b"].item() == 5.0


def test_asking_does_not_change_the_values() -> None:
    """A failed exchange asks in a new grouping and stores nothing."""
    residuals = Residuals()
    residuals.store(layout("abc"), torch.arange(11.0))
    before = residuals.state_dict()
    residuals.flat(layout("cb"), torch.zeros(1))
    residuals.flat(layout("ba"), torch.zeros(1))
    assert same(residuals, before)


def test_state_dict_is_a_copy_and_loads() -> None:
    """Changes after saving do not reach the saved state, nor the other way round; loading forgets what was there."""
    residuals = Residuals()
    residuals.store(layout("abc"), torch.arange(11.0))
    state = residuals.state_dict()
    assert state["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    residuals.flat(layout("abc"), torch.zeros(1)).zero_()
    assert state["c"].tolist() == [7, 8, 9, 10]

    other = Residuals()
    other.store(layout("ae"), torch.ones(11))
    other.load_state_dict(state)
    assert same(other, state)
    assert other.flat(layout("ea"), torch.zeros(1)).tolist() == [0] * 5 + [0, 1, 2, 3, 4, 5]
    state["b"].fill_(100.0)
    assert other.state_dict()["b"].item() == 6.0


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
    assert snapshot.flat(layout("abc"), torch.zeros(1)).tolist() == list(range(11))


def test_a_residual_of_another_model_is_refused() -> None:
    """A saved tensor of another size fails when it is first used."""
    residuals = Residuals()
    residuals.load_state_dict({"a": torch.zeros(7)})
    with pytest.raises(ValueError, match="no parameter"):
        residuals.flat(layout("a"), torch.zeros(1))
