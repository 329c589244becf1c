"""PruneFL. Oracle: an example of eight coordinates by hand."""

import math
from typing import Any

import pytest
import torch

from compression import Layout
from compression.spec import SpecError
from fl.pruning.reconfigure import SIZES, reconfigure
from fl.pruning.spec import Pruning

NOTHING: frozenset[str] = frozenset()

# By hand. Five of eight are held; adjust 0.4 drops two: a[0] and b[1] have the smallest |w|.
# Worth of what may come in: a[0] 6/2 = 3, a[3] 8/2 = 4, b[1] 2, b[2] 5, b[3] 2.
HAND = Layout(("a", "b"), ((4, 1), (4, 1)))
WEIGHTS = torch.tensor([0.1, -0.9, 0.4, 0.0, 0.8, -0.2, 0.0, 0.0])
SQUARES = torch.tensor([6.0, 1.0, 2.0, 8.0, 1.0, 2.0, 5.0, 2.0])
MASK = torch.tensor([1, 1, 1, 0, 1, 1, 0, 0], dtype=torch.bool)
TIMES = torch.tensor([2.0, 1.0], dtype=torch.float64)


def next_mask(
    weights: torch.Tensor,
    squares: torch.Tensor,
    mask: torch.Tensor,
    layout: Layout,
    sparsity: float,
    *,
    times: torch.Tensor,
    fixed_time: float,
    protected: frozenset[str],
    **options: Any,
) -> torch.Tensor:
    """What `reconfigure` makes of these, `options` being those of `--prune`."""
    pruning = Pruning("prunefl", sparsity, protect=tuple(sorted(protected)), **options)
    return reconfigure(weights, squares, mask, layout, pruning, times=times, fixed_time=fixed_time)


def by_hand(size: str, sparsity: float, **options: Any) -> list[int]:
    options = {"adjust": 0.4, "times": TIMES, "fixed_time": 1.0, "protected": NOTHING, **options}
    return next_mask(WEIGHTS, SQUARES, MASK, HAND, sparsity, size=size, **options).int().tolist()


def test_fixed_by_hand() -> None:
    """Five of eight again: b[2] and a[3] come in, which were not held before; of the equals b[1] and b[3] the first."""
    assert by_hand("fixed", 3 / 8) == [0, 1, 1, 1, 1, 0, 1, 0]
    assert by_hand("fixed", 1 / 8) == [1, 1, 1, 1, 1, 1, 1, 0]
    assert by_hand("fixed", 0.0) == [1] * 8


def test_adaptive_by_hand() -> None:
    """What stays has Delta / T = 4 / 6; b[2] makes it 9 / 7, a[3] 17 / 9, a[0] 23 / 11; b[1], worth 2, would lower that.

    With sparsity 3/8 there is room for two only; with a fixed time of 3 it would be 23 / 13 < 2, so b[1] and b[3] come in.
    """
    assert by_hand("adaptive", 0.0) == [1, 1, 1, 1, 1, 0, 1, 0]
    assert by_hand("adaptive", 3 / 8) == [0, 1, 1, 1, 1, 0, 1, 0]
    assert by_hand("adaptive", 0.0, fixed_time=3.0) == [1] * 8


def test_what_is_worth_exactly_the_level_comes_in() -> None:
    """By hand: with a fixed time of 1.5, after a[0] the level is 23 / 11.5 = 2, as much as b[1] and b[3] are worth."""
    assert by_hand("adaptive", 0.0, fixed_time=1.5) == [1] * 8
    assert by_hand("adaptive", 1 / 8, fixed_time=1.5) == [1, 1, 1, 1, 1, 1, 1, 0]


def test_protected_layers_are_whole_and_count() -> None:
    """By hand: `a` is whole (17 / 8); one of `b` held is dropped, b[1]. b[2] makes it 23 / 11 > 2, and there it stops."""
    options: dict[str, Any] = {"protected": frozenset("a"), "adjust": 0.5}
    assert by_hand("adaptive", 0.0, **options) == [1, 1, 1, 1, 1, 0, 1, 0]
    assert by_hand("fixed", 0.75, **options) == [1, 1, 1, 1, 1, 0, 0, 0]
    assert by_hand("fixed", 0.0, protected=frozenset("ab")) == [1] * 8


def test_least_density() -> None:
    """By hand: `b` must have two. It has one of its own, and takes its largest square, though a[3] is worth more by time."""
    mask = torch.tensor([1, 1, 1, 0, 1, 0, 0, 0], dtype=torch.bool)
    options: dict[str, Any] = {
        "adjust": 0.0,
        "times": 1 / TIMES,
        "fixed_time": 0.0,
        "size": "fixed",
        "protected": NOTHING,
    }
    assert next_mask(WEIGHTS, SQUARES, mask, HAND, 3 / 8, **options).int().tolist() == [1, 1, 1, 1, 1, 0, 0, 0]
    least = next_mask(WEIGHTS, SQUARES, mask, HAND, 3 / 8, min_density=0.5, **options)
    assert least.int().tolist() == [1, 1, 1, 0, 1, 0, 1, 0]


def test_rising_sparsity_drops_the_smallest() -> None:
    """By hand: two of eight are to be held and `adjust` frees none, so the two largest of the five stay."""
    assert by_hand("fixed", 6 / 8, adjust=0.0) == [0, 1, 0, 0, 1, 0, 0, 0]
    assert by_hand("adaptive", 6 / 8, adjust=0.0) == [0, 1, 0, 0, 1, 0, 0, 0]


@pytest.mark.parametrize(
    ("options", "kind", "part"),
    [
        ({"adjust": 1.5}, SpecError, "adjust must lie between 0 and 1, not 1.5"),
        ({"size": "adaptiv"}, SpecError, "size cannot be 'adaptiv'; did you mean 'adaptive'?"),
        ({"sparsity": 0.9, "min_density": 0.2}, SpecError, "the sparsity must be at most 0.8 where min=0.2"),
        ({"protected": frozenset("c")}, SpecError, "there is no layer 'c'; known: a, b"),
        ({"times": torch.tensor([1.0, 0.0])}, ValueError, "times must be above 0 and finite"),
        ({"times": torch.ones(3)}, ValueError, "times must have one number for each of 2 layers"),
        ({"fixed_time": -1.0}, ValueError, "fixed_time must be 0 or more and finite, not -1"),
        ({"squares": -SQUARES}, ValueError, "one of them is negative"),
        ({"squares": SQUARES * math.inf}, ValueError, "one of them is NaN or infinite"),
        ({"weights": WEIGHTS[:3]}, ValueError, "weights must have the layout's 8 coordinates"),
        ({"mask": MASK[:3]}, ValueError, "mask must have the layout's 8 coordinates"),
    ],
)
def test_refuses(options: dict[str, Any], kind: type[Exception], part: str) -> None:
    """One sentence that names what is wrong."""
    usual: dict[str, Any] = {
        "weights": WEIGHTS,
        "squares": SQUARES,
        "mask": MASK,
        "layout": HAND,
        "sparsity": 0.5,
        "adjust": 0.3,
    }
    usual |= {"times": TIMES, "fixed_time": 0.0, "size": "fixed", "protected": NOTHING}
    with pytest.raises(kind) as error:
        next_mask(**{**usual, **options})
    assert part in str(error.value)


def test_nothing_is_a_layout_too() -> None:
    """No tensors."""
    none = torch.empty(0)
    for size in SIZES:
        new = next_mask(
            none,
            none,
            none.bool(),
            Layout((), ()),
            0.0,
            adjust=0.5,
            times=none.double(),
            fixed_time=0.0,
            size=size,
            protected=NOTHING,
        )
        assert new.shape == (0,)


def test_arguments_stay_as_they_are() -> None:
    """Weights, squares and mask."""
    before = [WEIGHTS.clone(), SQUARES.clone(), MASK.clone()]
    by_hand("adaptive", 0.25, min_density=0.25)
    assert all(map(torch.equal, before, (WEIGHTS, SQUARES, MASK)))
