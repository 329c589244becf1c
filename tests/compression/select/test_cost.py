"""cost. Oracle: all coordinates in the order of a stable sort by exact fractions (short vectors) or by fp64 quotients
(long ones), taken one after the other until the next one is beyond the budget."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from compression import Layout
from compression.select.cost import kind_of
from tests.compression.cases import EXAMPLES, layers, vectors
from tests.compression.select.cases import BIG, WIDE, selector, wide

DEFAULTS = {"conv": "1", "linear": "5", "norm": "1", "bias": "1"}
MIXED = Layout(
    ("conv.weight", "bn.weight", "bn.bias", "empty", "fc.weight", "scale", "fc.bias", "last.weight"),
    ((100, 10, 9, 9), (500,), (500,), (0, 3), (300, 200), (), (18_999,), (300, 130)),
)


def costs_of(layout: Layout, changed: dict[str, str]) -> list[Fraction]:
    """The cost of one coordinate of every tensor."""
    costs = {kind: Fraction(text) for kind, text in {**DEFAULTS, **changed}.items()}
    return [costs[kind_of(name, shape)] for name, shape in zip(layout.names, layout.shapes, strict=True)]


def spec(ratio: float, changed: dict[str, str]) -> str:
    return ",".join([f"cost:{ratio!r}", *(f"{kind}={text}" for kind, text in changed.items())])


def greedy(order: list[int], costs: list[Fraction], ratio: float) -> list[int]:
    """The longest beginning of `order` within the budget, at least one."""
    left, taken = Fraction(str(ratio)) * sum(costs), 0
    while taken < len(order) and costs[order[taken]] <= left:
        left -= costs[order[taken]]
        taken += 1
    return sorted(order[: max(1, taken)])


CHANGES = st.dictionaries(st.sampled_from(list(DEFAULTS)), st.sampled_from(["0.001", "0.3", "1", "2", "7.125", "1000"]))


@EXAMPLES
@given(vectors(), st.floats(1e-9, 1), CHANGES)
def test_cost_is_the_greedy_knapsack_of_a_full_sort(x: Tensor, ratio: float, changed: dict[str, str]) -> None:
    """Whatever the values: ties to the lowest position, denormals, zeros, the largest fp32."""
    layout = layers(x.numel())
    costs = [cost for cost, size in zip(costs_of(layout, changed), layout.sizes, strict=True) for _ in range(size)]
    scores = [Fraction(abs(value)) / cost for value, cost in zip(x.tolist(), costs, strict=True)]
    order = sorted(range(x.numel()), key=lambda i: -scores[i])
    found = selector(spec(ratio, changed)).select(x, layout, 0)
    assert found.dtype == torch.int64
    assert found.tolist() == greedy(order, costs, ratio)


@pytest.mark.slow
@pytest.mark.parametrize("changed", [{}, {"conv": "3", "linear": "0.25", "norm": "10"}], ids=["defaults", "changed"])
@pytest.mark.parametrize("name", WIDE)
def test_cost_of_a_sample_that_misleads(name: str, changed: dict[str, str]) -> None:
    """The sample decides how long it takes, never what is found."""
    x = wide(name)
    costs = np.repeat([int(1000 * cost) for cost in costs_of(MIXED, changed)], MIXED.sizes)
    order = np.argsort(-np.abs(x.numpy()).astype(np.float64) / costs, kind="stable")
    sums = costs[order].cumsum()
    for ratio in ("1e-09", "0.0001", "0.01", "0.2", "0.5", "0.99", "1"):
        count = max(1, int(np.searchsorted(sums, int(Fraction(ratio) * int(sums[-1])), side="right")))
        found = selector(spec(float(ratio), changed)).select(x, MIXED, 0)
        assert np.array_equal(found.numpy(), np.sort(order[:count])), ratio


def test_dearer_layers_get_fewer() -> None:
    """On equally distributed values a layer's share falls as its cost rises, and the budget is kept."""
    x = torch.randn(BIG, generator=torch.Generator().manual_seed(1))
    linear = torch.zeros(BIG, dtype=torch.bool)
    linear[82_000:142_000] = linear[161_000:] = True
    shares = []
    for cost in ("0.5", "1", "1.5", "2", "3"):
        found = selector(f"cost:0.05,linear={cost}").select(x, MIXED, 0)
        of_linear = int(linear[found].sum())
        shares.append(of_linear / found.numel())
        spent, whole = float(cost) * of_linear + found.numel() - of_linear, float(cost) * 99_000 + 101_000
        assert 0.05 * whole - float(cost) < spent <= 0.05 * whole
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 0.9 > 0.1 > shares[-1] > 0


def test_one_cost_for_all_is_topk() -> None:
    """Where costs are equal they do not matter."""
    x = wide("normal")
    for cost in ("0.1", "1", "3"):
        equal = ",".join(f"{kind}={cost}" for kind in DEFAULTS)
        expected = selector("topk:0.01").select(x, None, 0)
        assert torch.equal(selector(f"cost:0.01,{equal}").select(x, MIXED, 0), expected)


@pytest.mark.parametrize(
    ("name", "shape", "kind"),
    [
        ("layer1.0.conv1.weight", (64, 64, 3, 3), "conv"),
        ("features.conv1d.weight", (64, 20, 5), "conv"),
        ("fc.weight", (10, 512), "linear"),
        ("lstm.weight_ih_l0", (200, 4), "linear"),
        ("bn1.weight", (64,), "norm"),
        ("bn1.bias", (64,), "bias"),
        ("lstm.bias_hh_l0_reverse", (200,), "bias"),
        ("attention.in_proj_bias", (384,), "bias"),
        ("bias_head.scale", (64,), "norm"),
        ("temperature", (), "norm"),
    ],
)
def test_kinds_of_layers(name: str, shape: tuple[int, ...], kind: str) -> None:
    """By shape, and by name where the shape does not tell."""
    assert kind_of(name, shape) == kind


def test_cost_needs_a_layout_that_fits() -> None:
    """A mistake of the caller."""
    with pytest.raises(ValueError, match="layout"):
        selector("cost:0.1").select(torch.ones(3), None, 0)
    with pytest.raises(ValueError, match="2 coordinates, the vector 3"):
        selector("cost:0.1").select(torch.ones(3), Layout(("a",), ((2,),)), 0)
