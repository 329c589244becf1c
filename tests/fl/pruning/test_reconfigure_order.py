"""PruneFL. Oracles: a walk through the sorted candidates in exact fractions, and all subsets of them."""

import math
from fractions import Fraction
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compression import Layout
from fl.pruning.reconfigure import SIZES
from tests.compression.cases import EXAMPLES
from tests.fl.pruning.test_reconfigure import next_mask


@st.composite
def cases(draw: st.DrawFn, most: int = 13) -> dict[str, Any]:
    """Arguments of `reconfigure`: small whole numbers, so that there are ties and sums are exact."""
    sizes = draw(st.lists(st.integers(0, most), min_size=1, max_size=3))
    layout = Layout(tuple(f"l{i}.weight" for i in range(len(sizes))), tuple((size, 1) for size in sizes))

    def whole(low: int, high: int) -> list[int]:
        return draw(st.lists(st.integers(low, high), min_size=layout.total, max_size=layout.total))

    return {
        "weights": torch.tensor(whole(-5, 5), dtype=torch.float32),
        "squares": torch.tensor(whole(0, 9), dtype=torch.float32),
        "mask": torch.tensor(whole(0, 1), dtype=torch.bool),
        "layout": layout,
        "times": torch.tensor([draw(st.integers(1, 4)) for _ in sizes], dtype=torch.float64),
        "fixed_time": float(draw(st.integers(0, 9))),
        "protected": frozenset(),
    }


def kept_by_sort(case: dict[str, Any], adjust: float, most: int) -> np.ndarray:
    """Bool [n]: held, without the smallest |w| of those held, the highest index first among equals."""
    kept = case["mask"].numpy().copy()
    order = sorted(np.flatnonzero(kept), key=lambda i: (abs(float(case["weights"][i])), -i))
    kept[order[: max(round(adjust * len(order)), len(order) - most)]] = False
    return kept


def times_of(case: dict[str, Any]) -> np.ndarray:
    """Float64 [n]: of every coordinate."""
    return np.repeat(case["times"].numpy(), case["layout"].sizes)


@EXAMPLES
@given(cases(), st.floats(0, 1), st.floats(0, 1), st.sampled_from(SIZES))
def test_is_the_walk(case: dict[str, Any], sparsity: float, adjust: float, size: str) -> None:
    """The candidates in order, one by one; "fixed" ends with exactly the sparsity asked for."""
    new = next_mask(**case, sparsity=sparsity, adjust=adjust, size=size)
    total = case["layout"].total
    most = total - round(sparsity * total)
    inside = kept_by_sort(case, adjust, most)
    time_of = [Fraction(int(t)) for t in times_of(case)]
    square_of = [Fraction(int(s)) for s in case["squares"]]
    delta = sum(square_of[i] for i in np.flatnonzero(inside))
    time = Fraction(int(case["fixed_time"])) + sum(time_of[i] for i in np.flatnonzero(inside))
    for i in sorted(np.flatnonzero(~inside), key=lambda i: (-square_of[i] / time_of[i], i)):
        worth_it = size == "fixed" or not time or square_of[i] / time_of[i] >= delta / time
        if inside.sum() == most or not worth_it:
            break
        inside[i] = True
        delta, time = delta + square_of[i], time + time_of[i]
    assert new.dtype == torch.bool
    assert np.array_equal(new.numpy(), inside)
    assert size == "adaptive" or int(new.count_nonzero()) == most


@EXAMPLES
@given(cases(most=3), st.floats(0, 1), st.integers(0, 1000))
def test_adaptive_is_the_best_of_all_subsets(case: dict[str, Any], adjust: float, seed: int) -> None:
    """Delta / T of the result is that of the best subset of the candidates, with squares of any size."""
    squares = torch.rand(case["layout"].total, generator=torch.Generator().manual_seed(seed)) ** 3
    new = next_mask(**{**case, "squares": squares}, sparsity=0.0, adjust=adjust, size="adaptive").numpy()
    kept = kept_by_sort(case, adjust, len(squares))
    candidates = np.flatnonzero(~kept)

    def ratio(inside: np.ndarray) -> float:
        time = case["fixed_time"] + times_of(case)[inside].sum()
        return squares.double().numpy()[inside].sum() / time if time else 0.0

    best = 0.0
    for count in range(len(candidates) + 1):
        for chosen in combinations(candidates, count):
            inside = kept.copy()
            inside[list(chosen)] = True
            best = max(best, ratio(inside))
    assert new[kept].all()
    assert ratio(new) == pytest.approx(best, rel=1e-9)


@EXAMPLES
@given(cases(), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.sampled_from(SIZES))
def test_least_density_is_kept(case: dict[str, Any], fraction: float, adjust: float, least: float, size: str) -> None:
    """Every layer has what it must; the sparsity is still met exactly, or for "adaptive" at least."""
    sparsity = fraction * (1 - least)
    new = next_mask(**case, sparsity=sparsity, adjust=adjust, size=size, min_density=least)
    sizes = case["layout"].sizes
    for part, own in zip(new.split(sizes), sizes, strict=True):
        assert int(part.count_nonzero()) >= math.floor(Fraction(str(least)) * own)
    held, most = int(new.count_nonzero()), sum(sizes) - round(sparsity * sum(sizes))
    assert held == most if size == "fixed" else held <= most
