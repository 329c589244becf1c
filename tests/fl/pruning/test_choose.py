"""Masks. Oracle: a full stable sort in NumPy, weights dropped one by one for as long as their layer may give."""

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from compression import Layout
from compression.spec import SpecError
from fl.pruning.choose import budgets, choose_mask
from tests.compression.cases import EXAMPLES

NOTHING: frozenset[str] = frozenset()
SPARSITIES = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.29, 0.5, 0.9, 1.0]))


@st.composite
def layouts(draw: st.DrawFn) -> Layout:
    """One to five matrices, some of them empty, in two groups of names."""
    sizes = draw(st.lists(st.sampled_from([0, 1, 2, 3, 10, 33, 100]), min_size=1, max_size=5))
    names = tuple(f"{'ab'[i % 2]}.{i}.weight" for i in range(len(sizes)))
    return Layout(names, tuple((size, 1) for size in sizes))


@st.composite
def cases(draw: st.DrawFn) -> tuple[Layout, Tensor]:
    """A layout and scores: all different, few different ones, or all equal; zeros of both signs."""
    layout = draw(layouts())
    seed, kind = draw(st.integers(0, 1000)), draw(st.sampled_from(["normal", "few", "equal", "zeros"]))
    scores = torch.randn(layout.total, generator=torch.Generator().manual_seed(seed))
    if kind == "few":
        scores = scores.round()
    elif kind == "equal":
        scores = torch.ones_like(scores)
    elif kind == "zeros":
        scores = scores.sign() * 0.0
    return layout, scores


def dropped_by_sort(
    scores: Tensor, droppable: np.ndarray, layer: np.ndarray, most: list[int], count: int
) -> np.ndarray:
    """Bool [n]: by rising score, the highest index first, each droppable one whose layer still has some to give."""
    dropped = np.zeros(len(scores), dtype=bool)
    left = list(most)
    for i in np.lexsort((-np.arange(len(scores)), scores.numpy())):
        if count and droppable[i] and left[layer[i]]:
            dropped[i] = True
            left[layer[i]] -= 1
            count -= 1
    assert count == 0
    return dropped


def layer_of(layout: Layout) -> np.ndarray:
    return np.repeat(np.arange(len(layout.sizes)), layout.sizes)


@EXAMPLES
@given(cases(), SPARSITIES)
def test_global_mask_is_the_sort(case: tuple[Layout, Tensor], sparsity: float) -> None:
    """Exactly round(S n) smallest scores, whatever the layer, ties from the highest index."""
    layout, scores = case
    mask = choose_mask(scores, layout, sparsity, protected=NOTHING)
    assert mask.dtype == torch.bool
    order = np.lexsort((-np.arange(layout.total), scores.numpy()))
    assert set(np.flatnonzero(~mask.numpy())) == set(order[: round(sparsity * layout.total)])


@EXAMPLES
@given(cases(), SPARSITIES)
def test_layer_masks_are_the_sort_of_each(case: tuple[Layout, Tensor], sparsity: float) -> None:
    """Each layer's mask is the global one of the layer alone."""
    layout, scores = case
    mask = choose_mask(scores, layout, sparsity, scope="layer", protected=NOTHING)
    for part, score in zip(mask.split(layout.sizes), scores.split(layout.sizes), strict=True):
        order = np.lexsort((-np.arange(part.numel()), score.numpy()))
        assert set(np.flatnonzero(~part.numpy())) == set(order[: round(sparsity * part.numel())])


@EXAMPLES
@given(cases(), SPARSITIES, st.floats(0, 1), st.sampled_from(["global", "layer"]))
def test_least_density_is_kept(case: tuple[Layout, Tensor], fraction: float, least: float, scope: str) -> None:
    """The whole budget is spent whenever S + min <= 1, and what a layer may not give, others give in the sort's order."""
    layout, scores = case
    sparsity = fraction * (1 - least)
    mask = choose_mask(scores, layout, sparsity, scope=scope, protected=NOTHING, min_density=least).numpy()
    most = [size - math.floor(Fraction(str(least)) * size) for size in layout.sizes]
    layer = layer_of(layout)
    for i, size in enumerate(layout.sizes):
        assert mask[layer == i].sum() >= size - most[i]
    if scope == "global":
        everything = np.ones(layout.total, dtype=bool)
        expected = dropped_by_sort(scores, everything, layer, most, round(sparsity * layout.total))
        assert np.array_equal(~mask, expected)
    else:
        assert [int((~mask[layer == i]).sum()) for i in range(len(most))] == [round(sparsity * n) for n in layout.sizes]


@EXAMPLES
@given(
    cases(),
    st.lists(SPARSITIES, min_size=2, max_size=5),
    st.sampled_from(["global", "layer"]),
    st.sampled_from([0.0, 0.25, 1.0]),
)
def test_masks_are_nested(case: tuple[Layout, Tensor], steps: list[float], scope: str, fraction: float) -> None:
    """With `held`, what is dropped stays so though scores change, and each rising step hits its count exactly."""
    layout, scores = case
    least = fraction * (1 - max(steps))
    held = torch.ones(layout.total, dtype=torch.bool)
    for step in sorted(steps):
        before = held.clone()
        new = choose_mask(scores, layout, step, scope=scope, protected=NOTHING, min_density=least, held=held)
        assert torch.equal(held, before)
        assert not (new & ~held).any()
        dropped = [int((~part).sum()) for part in new.split(layout.sizes)]
        if scope == "global":
            assert sum(dropped) == round(step * layout.total)
            most = [size - math.floor(Fraction(str(least)) * size) for size in layout.sizes]
            gone = [int((~part).sum()) for part in held.split(layout.sizes)]
            left = [a - b for a, b in zip(most, gone, strict=True)]
            more = dropped_by_sort(scores, held.numpy(), layer_of(layout), left, sum(dropped) - sum(gone))
            assert np.array_equal(~new.numpy(), ~held.numpy() | more)
        else:
            assert dropped == [round(step * size) for size in layout.sizes]
        held, scores = new, scores.flip(0)


def test_a_lower_sparsity_gives_nothing_back() -> None:
    """What was dropped stays dropped, and nothing is added."""
    layout, scores = Layout(("w",), ((10, 1),)), torch.arange(10.0)
    held = choose_mask(scores, layout, 0.6, protected=NOTHING)
    assert torch.equal(choose_mask(-scores, layout, 0.3, protected=NOTHING, held=held), held)


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"sparsity": 0.9, "min_density": 0.2}, "the sparsity must be at most 0.8 where min=0.2, not 0.9"),
        ({"sparsity": 0.5, "min_density": 0.2, "overrides": {"a": 0.9}}, "a must be at most 0.8 where min=0.2"),
        ({"sparsity": 1.5}, "the sparsity must lie between 0 and 1, not 1.5"),
        ({"sparsity": 0.5, "overrides": {"a": -1}}, "a must lie between 0 and 1, not -1"),
        ({"sparsity": 0.5, "scope": "layers"}, "did you mean 'layer'?"),
        ({"sparsity": 0.5, "overrides": {"a.wieght": 0.5}}, "there is no layer 'a.wieght'; did you mean 'a.weight'?"),
        ({"sparsity": 0.5, "protected": frozenset(("a",))}, "there is no layer 'a' to protect"),
        (
            {"sparsity": 0.5, "overrides": {"a": 0.5}, "protected": frozenset(("a.weight",))},
            "a=0.5 reaches only protected",
        ),
    ],
)
def test_refuses_what_cannot_be_met(options: dict, part: str) -> None:
    """One sentence, from the plan as from the choice, before any score is looked at."""
    layout = Layout(("a.weight", "b.weight"), ((5, 2), (5, 2)))
    options = {"protected": NOTHING, **options}
    for refuse in (lambda: budgets(layout, **options), lambda: choose_mask(torch.zeros(20), layout, **options)):
        with pytest.raises(SpecError) as error:
            refuse()
        assert part in str(error.value)


def test_refuses_scores_that_do_not_rank() -> None:
    """NaN, infinity, another length."""
    layout = Layout(("w",), ((4, 1),))
    for bad in (math.nan, math.inf):
        with pytest.raises(ValueError, match="one of them is NaN or infinite"):
            choose_mask(torch.tensor([1.0, bad, 2.0, 3.0]), layout, 0.5, protected=NOTHING)
    with pytest.raises(ValueError, match="scores must have the layout's 4 coordinates"):
        choose_mask(torch.ones(5), layout, 0.5, protected=NOTHING)
    with pytest.raises(ValueError, match="held must have the layout's 4 coordinates"):
        choose_mask(torch.ones(4), layout, 0.5, protected=NOTHING, held=torch.ones(3, dtype=torch.bool))


def test_nothing_is_a_layout_too() -> None:
    """No tensors, nothing to drop."""
    assert choose_mask(torch.empty(0), Layout((), ()), 0.0).shape == (0,)


def test_least_density_counts_what_was_dropped_before() -> None:
    """By hand: the low layer gives its five at the first step, and nothing more at the second."""
    layout, scores = Layout(("low", "high"), ((10, 1), (10, 1))), torch.arange(20.0)
    first = choose_mask(scores, layout, 0.25, protected=NOTHING, min_density=0.5)
    assert first.tolist() == [False] * 5 + [True] * 15
    second = choose_mask(scores, layout, 0.5, protected=NOTHING, min_density=0.5, held=first)
    assert second.tolist() == ([False] * 5 + [True] * 5) * 2
