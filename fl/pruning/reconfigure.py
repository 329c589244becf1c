"""PruneFL: a mask that gives up small weights and takes in others where the gradient says that they are worth their time.

Jiang et al. 2022, "Model Pruning Enables Efficient Federated Learning on Edge Devices" (arXiv 1909.12326), the
reconfiguration step of its adaptive pruning. It approximates what a mask A lowers the loss by with Delta(A), the sum of
squared gradients inside it, and maximises Delta(A) / T(A), where T(A) is a fixed time and the time of each coordinate.
"""

import math

import torch
from torch import Tensor

from compression.bits import flat_nonzero
from compression.errors import NonFiniteError
from compression.finite import all_finite
from compression.layout import Layout
from compression.masks.inside import MaskedLayout
from compression.select.sample import kth_largest
from compression.spec import SpecError, nearest

from .choose import Budget, budgets, protected_layers
from .spec import Pruning

SIZES = ("fixed", "adaptive")
# Sums in another order differ in their last bits: coordinates that are worth exactly the level must not depend on them.
_ROUNDING = 1e-12


def reconfigure(
    weights: Tensor,
    squares: Tensor,
    mask: Tensor,
    layout: Layout,
    pruning: Pruning,
    *,
    times: Tensor,
    fixed_time: float = 0.0,
) -> Tensor:
    """The next mask, bool [n]; it need not lie inside `mask`.

    `weights`, fp32 [n]; `squares`, fp32 [n]: accumulated squared gradients at all coordinates, held or not; `mask`, bool
    [n]: the present one. `times`, float64 [layers]: what a coordinate of each layer costs (`layer_times`), above 0;
    `fixed_time`, in the same unit, 0 or more: what a round costs without any. `pruning`: its `sparsity`, `adjust`, `size`,
    `protect` (layers that are whole) and `min_density`.

    1. Drop: the round(adjust * held) smallest |w| of the held prunable coordinates, the highest index first among equals,
       become candidates, as is every coordinate that is not held. What else is held stays.
    2. Grow: the candidates with the largest squares / time come in, the lowest index first among equals. `size` "fixed":
       as many as make the sparsity of the prunable coordinates `sparsity`, round(sparsity * prunable) dropped. "adaptive":
       as long as squares / time is at least Delta / T of what is inside by then, which gives the largest Delta(A) / T(A)
       of all sets of candidates, but no more than "fixed" would take.

    Where more is held than `sparsity` allows, the smallest go until it is met, whatever `adjust` is. Each layer has at least
    floor(min_density * size): its largest |w| stay, and where too few are held its largest squares come in first.

    Differences from the paper: weights are ranked for dropping in all layers together (its authors' program drops the same
    fraction of each layer); times are declared, not measured; protected layers count in T as all others do; the minimum
    density is ours. Where it or the limit of the size binds, Delta / T need not be the largest. The order of the
    candidates is not walked through: the same set is everything worth at least a level, which is found without a sort
    (Dinkelbach 1967, "On nonlinear fractional programming"). Deterministic on every device; sums on a GPU may differ from
    those on a CPU in their last bits.

    SpecError for what `choose.budgets` refuses and for `adjust` or `size`; ValueError for wrong lengths, numbers that are
    not finite, negative squares, times that are not positive.
    """
    adjust, size = pruning.adjust, pruning.size
    protected = protected_layers(layout, pruning.protect)
    (budget,) = budgets(layout, pruning.sparsity, protected=protected, min_density=pruning.min_density)
    if not 0 <= adjust <= 1:
        raise SpecError(f"adjust must lie between 0 and 1, not {adjust:g}")
    if size not in SIZES:
        raise SpecError(f"size cannot be '{size}'{nearest(size, SIZES)}")
    _check(weights, squares, mask, layout, times, fixed_time)
    prunable = torch.zeros_like(mask)
    for part in _parts(prunable, layout, budget):
        part.fill_(True)
    most = int(prunable.count_nonzero()) - budget.drop
    kept = _kept(weights.detach(), squares, mask & prunable, layout, budget, adjust, most)
    room = most - int(kept.count_nonzero())
    candidates = MaskedLayout(prunable & ~kept, layout)
    gains = candidates.gather(squares)
    worth = gains.double()
    for part, time in zip(candidates.layout.views(worth), times.tolist(), strict=True):
        part.div_(time)
    inside = ~candidates.mask
    if size == "adaptive":
        delta = float(squares[inside].sum(dtype=torch.float64))
        time = fixed_time + float(_counts(inside, layout) @ times.cpu())
        level = _best_level(worth, gains, candidates.layout, times, delta, time)
        room = min(room, int((worth >= level).count_nonzero()))
    return inside.index_fill_(0, candidates.support[_largest(worth, room)], True)


def _kept(
    weights: Tensor, squares: Tensor, held: Tensor, layout: Layout, budget: Budget, adjust: float, most: int
) -> Tensor:
    """What is inside before anything grows, bool [n]: at most `most`, and of each layer what it must have."""
    kept = _must_have(weights, squares, held, layout, budget)
    droppable = flat_nonzero(held & ~kept)
    excess = int(kept.count_nonzero()) + droppable.numel() - most
    drop = min(droppable.numel(), max(round(adjust * int(held.count_nonzero())), excess))
    return kept.index_fill_(0, droppable[_largest(weights[droppable].abs(), droppable.numel() - drop)], True)


def _must_have(weights: Tensor, squares: Tensor, held: Tensor, layout: Layout, budget: Budget) -> Tensor:
    """The coordinates, bool [n], that a minimum density keeps in each layer: the largest |w|, and then squares."""
    must = torch.zeros_like(held)
    vectors = (_parts(vector, layout, budget) for vector in (must, weights, squares, held))
    for most, own, weight, square, inside in zip(budget.most, *vectors, strict=True):
        least = own.numel() - most
        if least:
            here, there = flat_nonzero(inside), flat_nonzero(~inside)
            own.index_fill_(0, here[_largest(weight[here].abs(), min(least, here.numel()))], True)
            own.index_fill_(0, there[_largest(square[there], max(0, least - here.numel()))], True)
    return must


def _best_level(worth: Tensor, gains: Tensor, layout: Layout, times: Tensor, delta: float, time: float) -> float:
    """The largest (delta + gain) / (time + cost) of any choice of the candidates; 0 for none without any time.

    `worth`, float64 [c]: `gains` / time. The best choice is of all that are worth this level; each turn takes all that are
    worth the present one, which raises it. A little less is returned, so that what is worth exactly the level is above.
    """
    level = delta / time if time else 0.0
    while True:
        chosen = worth >= level * (1 - _ROUNDING)
        more_time = float(_counts(chosen, layout) @ times.cpu())
        more_delta = float(gains[chosen].sum(dtype=torch.float64))
        if not more_time or (delta + more_delta) / (time + more_time) <= level:
            return level * (1 - _ROUNDING)
        level = (delta + more_delta) / (time + more_time)


def _largest(values: Tensor, count: int) -> Tensor:
    """Positions, int64 [count], of the `count` largest of [m] values, the lowest position first among equals."""
    if not count:
        return torch.empty(0, dtype=torch.int64, device=values.device)
    bound = kth_largest(values, count)
    above = flat_nonzero(values > bound)
    return torch.cat((above, flat_nonzero(values == bound)[: count - above.numel()]))


def _counts(chosen: Tensor, layout: Layout) -> Tensor:
    """How many of bool [n] are true in each layer, float64 [layers] on the CPU."""
    counts = [part.count_nonzero() for part in layout.views(chosen)]
    return torch.stack(counts).cpu().double() if counts else torch.empty(0, dtype=torch.float64, device="cpu")


def _parts(vector: Tensor, layout: Layout, budget: Budget) -> list[Tensor]:
    """Views of `vector` [n] that are the layers of the budget."""
    parts = vector.split(layout.sizes) if layout.sizes else ()
    return [parts[i] for i in budget.layers]


def _check(weights: Tensor, squares: Tensor, mask: Tensor, layout: Layout, times: Tensor, fixed_time: float) -> None:
    for what, vector in (("weights", weights), ("squares", squares), ("mask", mask)):
        if vector.shape != (layout.total,):
            raise ValueError(f"{what} must have the layout's {layout.total} coordinates, not {tuple(vector.shape)}")
    if times.shape != (len(layout.names),):
        raise ValueError(f"times must have one number for each of {len(layout.names)} layers, not {tuple(times.shape)}")
    if not all_finite(weights) or not all_finite(squares):
        raise NonFiniteError("weights and squares must be finite to rank them: one of them is NaN or infinite")
    if squares.numel() and float(squares.min()) < 0:
        raise ValueError("squares must be sums of squared gradients, and one of them is negative")
    if not bool((times.isfinite() & (times > 0)).all()):
        raise ValueError("times must be above 0 and finite, and one of them is not")
    if not 0 <= fixed_time < math.inf:
        raise ValueError(f"fixed_time must be 0 or more and finite, not {fixed_time:g}")
