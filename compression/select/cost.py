"""The largest magnitudes for their cost, within one budget for the whole model."""

import math
from collections.abc import Mapping
from fractions import Fraction
from itertools import groupby

import torch
from torch import Tensor

from ..bits import flat_nonzero
from ..grammar import DEFAULT_COSTS
from ..layout import Layout, need_layout
from ..placement import HOST, move, move_together, workplace
from ..values.base import fixed
from .base import Selector, no_positions
from .sample import falling, margin, sample_positions, sampled_magnitudes

KINDS = tuple(DEFAULT_COSTS)

_LARGEST = torch.finfo(torch.float32).max


def kind_of(name: str, shape: tuple[int, ...]) -> str:
    """The kind of layer of a parameter: one of `KINDS`.

    Three or more dimensions: conv. Two: linear (fully connected, recurrent, embedding). Else bias where the last part of
    the name says so (`fc.bias`, `lstm.bias_ih_l0`), and norm for everything that is left.
    """
    if len(shape) >= 2:
        return "linear" if len(shape) == 2 else "conv"
    return "bias" if "bias" in name.rpartition(".")[2] else "norm"


class Cost(Selector):
    """cost:R[,conv=C,linear=C,norm=C,bias=C], the greedy solution of the knapsack problem (Dantzig 1957).

    Coordinates are taken by falling |x| / cost (fp64 tells any two of these quotients apart), the lowest position first
    among equals, for as long as their costs add up to no more than R times the cost of all coordinates; the first one is
    always taken. The result is that of a full sort, exactly. `costs` replaces any of `DEFAULT_COSTS`; they count in
    thousandths, so that sums are exact. With equal costs it is topk:R, its count rounded down.
    """

    def __init__(self, density: float, costs: Mapping[str, float] | None = None) -> None:
        super().__init__(density)
        self.ratio = density
        self.costs = {**DEFAULT_COSTS, **(costs or {})}

    def with_density(self, density: float) -> "Cost":
        return Cost(density, self.costs)

    def select(self, x: Tensor, layout: Layout | None, key: int) -> Tensor:
        """See `Selector`; ValueError if `layout` is missing or of another length.

        A sample gives two bounds of |x| / cost: what lies above the upper one is surely within the budget, what lies
        below the lower one surely is not, and only what lies between is sorted. A bound that turns out to be wrong is
        moved, so the sample never changes the result.
        """
        layout = need_layout(layout, "cost")
        if layout.total != x.numel():
            raise ValueError(f"the layout has {layout.total} coordinates, the vector {x.numel()}")
        if not x.numel():
            return no_positions(x)
        runs = self._runs(layout)
        whole = sum((stop - start) * cost for start, stop, cost in runs)
        budget = math.floor(Fraction(str(self.ratio)) * whole)
        if budget == whole:
            return torch.arange(x.numel(), device=x.device)
        scores, costs = self._sample(x, runs)
        sums = costs.cumsum(0)
        expected = int((sums <= budget / whole * int(sums[-1])).sum())
        spread = margin(expected)
        upper = float(scores[int(expected - spread)]) if expected > spread else math.inf
        rank = math.ceil(expected + spread)
        while rank < scores.numel() and scores[rank] > 0:
            kept = self._fill(x, runs, budget, float(scores[rank]), upper)
            if kept is not None:
                return kept
            rank *= 2
        kept = self._fill(x, runs, budget, 0.0, upper)
        return kept if kept is not None else self._fill_with_zeros(x, runs, budget)

    def _runs(self, layout: Layout) -> list[tuple[int, int, int]]:
        """First coordinate, last one + 1 and cost in thousandths of neighbouring tensors of the same cost."""
        costs = (round(1000 * self.costs[kind_of(*tensor)]) for tensor in zip(layout.names, layout.shapes, strict=True))
        tensors = [
            entry for entry in zip(layout.offsets, layout.offsets[1:], costs, strict=False) if entry[0] < entry[1]
        ]
        groups = [list(group) for _, group in groupby(tensors, key=lambda entry: entry[2])]
        return [(group[0][0], group[-1][1], group[0][2]) for group in groups]

    def _sample(self, x: Tensor, runs: list[tuple[int, int, int]]) -> tuple[Tensor, Tensor]:
        """Scores, fp64, falling, and costs, int64, of a sample of coordinates, on the host."""
        costs = _at(sample_positions(x.numel()), runs)
        scores = sampled_magnitudes(x).double() / costs
        order = falling(scores)
        return scores[order], costs[order]

    def _fill(
        self, x: Tensor, runs: list[tuple[int, int, int]], budget: int, lower: float, upper: float
    ) -> Tensor | None:
        """What the budget buys, if that lies among the scores of at least `lower` > 0 (0: any that is not zero).

        None if all of those are within the budget, so that lower ones might be too.
        """
        bounds, sizes = [_beside(lower * cost, 0) for _, _, cost in runs], [stop - start for start, stop, _ in runs]
        found = self.at_least(x, bounds, sizes)
        magnitudes = x.index_select(0, found)
        home = workplace(found.numel(), x.device)
        found, magnitudes = move_together((found, magnitudes), home)
        magnitudes.abs_()
        later = torch.tensor([start for start, _, _ in runs[1:]], dtype=torch.int64, device=HOST)
        of_runs = magnitudes.tensor_split(move(torch.searchsorted(found, move(later, home)), HOST))
        surely, scores, costs, spent = [], [], [], 0
        for (_, _, cost), of_run in zip(runs, of_runs, strict=True):
            sure = of_run >= _beside(upper * cost, math.inf)
            middle = of_run[flat_nonzero(~sure)].double()
            middle.div_(fixed(cost, middle))
            spent += cost * (of_run.numel() - middle.numel())
            surely.append(sure)
            scores.append(middle)
            costs.append(torch.full_like(middle, cost, dtype=torch.int64))
        kept = torch.cat(surely)
        score, cost_of = torch.cat(scores), torch.cat(costs)
        if spent + int(cost_of[score >= lower].sum()) <= budget:
            return None
        if spent + int(cost_of[score >= upper].sum()) > budget:
            return self._fill(x, runs, budget, lower, math.inf)
        bought = _affordable(score, cost_of, budget - spent, at_least_one=not spent)
        kept.index_fill_(0, flat_nonzero(~kept)[bought], True)
        return move(found[flat_nonzero(kept)], x.device)

    def _fill_with_zeros(self, x: Tensor, runs: list[tuple[int, int, int]], budget: int) -> Tensor:
        """Every coordinate that is not zero, and the lowest zeros for as long as the budget lasts."""
        keep = x != 0
        left = budget - int(_at(flat_nonzero(keep), runs).sum())
        for start, stop, cost in runs:
            zeros = flat_nonzero(~keep[start:stop])
            count = min(zeros.numel(), left // cost)
            keep[start:stop].index_fill_(0, zeros[:count], True)
            left -= count * cost
            if count < zeros.numel():
                break
        kept = flat_nonzero(keep)
        return kept if kept.numel() else torch.zeros(1, dtype=torch.int64, device=x.device)


def _at(positions: Tensor, runs: list[tuple[int, int, int]]) -> Tensor:
    """The costs, int64, of coordinates."""
    ends = torch.tensor([stop for _, stop, _ in runs], device=positions.device)
    return torch.tensor([cost for _, _, cost in runs], device=positions.device)[
        torch.bucketize(positions, ends, right=True)
    ]


def _beside(bound: float, towards: float) -> float:
    """The fp32 number next to `bound`: rounding lets a coordinate too many into the middle, never one too few."""
    number, direction = torch.tensor([min(bound, _LARGEST), towards], dtype=torch.float32, device="cpu")
    return float(torch.nextafter(number, direction))


def _affordable(scores: Tensor, costs: Tensor, budget: int, *, at_least_one: bool) -> Tensor:
    """Indices of what is bought by falling score, the first first among equals, until something is beyond the budget.

    All together must be beyond it.
    """
    order = falling(scores)
    first_left_out = int((costs[order].cumsum(0) <= budget).sum())
    bound = scores[order[first_left_out]]
    above, ties = flat_nonzero(scores > bound), flat_nonzero(scores == bound)
    sums = costs[ties].cumsum(0).add_(costs[above].sum())
    count = int((sums <= budget).sum())
    if at_least_one and not count and not above.numel():
        count = 1
    return torch.cat((above, ties[:count]))
