"""Staleness functions, against the formulas of FedAsync (Xie, Koyejo and Gupta 2019, section 5.2)."""

import pytest

from compression.spec import SpecError
from fl.rounds.staleness import parse_staleness, weight


def test_constant_is_one():
    """1 for every staleness."""
    assert [weight("constant", s) for s in range(5)] == [1.0] * 5


@pytest.mark.parametrize("a", [0.0, 0.5, 1.0, 2.0])
def test_poly(a):
    """(s + 1)^-A; A = 1/2 at s = 3 is 1/2."""
    assert [weight(f"poly:{a}", s) for s in range(9)] == pytest.approx([1 / (s + 1) ** a for s in range(9)])
    assert weight("poly:0.5", 3) == 0.5


def test_hinge():
    """A = 10, B = 4: 1 up to s = 4, then 1 / (10 (s - 4) + 1), that is 1/11, 1/21. A = 0.5, B = 0: 1, 2/3, 1/2."""
    assert [weight("hinge:10,4", s) for s in range(7)] == [1, 1, 1, 1, 1, 1 / 11, 1 / 21]
    assert [weight("hinge:0.5,0", s) for s in range(3)] == [1, 1 / 1.5, 0.5]


def test_weights_stay_within_zero_and_one():
    """Also for staleness and constants beyond any use."""
    for text in ("poly:1e6", "hinge:1e6,1e6", "hinge:1e6,0"):
        assert 0 <= weight(text, 10**12) <= 1


@pytest.mark.parametrize(
    "text",
    ["", "polly:1", "poly", "poly:1,2", "poly:-1", "poly:x", "hinge:1", "hinge:1,-1", "constant:1", "poly:1,a=2"],
)
def test_wrong_functions_are_refused(text):
    """Each is unknown, incomplete or out of range."""
    with pytest.raises(SpecError):
        parse_staleness(text)


def test_staleness_is_at_least_zero():
    """A negative number of versions is a mistake of the caller."""
    with pytest.raises(ValueError, match="-1"):
        weight("constant", -1)
