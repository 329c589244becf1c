"""A mask from scores: an exact number of the smallest is dropped, and no layer loses more than it may.

A layer is a tensor of the layout. A name stands for the layer of that name, or, as a dotted prefix, for all under it.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from fractions import Fraction
from itertools import accumulate
from types import MappingProxyType

import torch
from torch import Tensor

from compression.bits import flat_nonzero
from compression.errors import NonFiniteError
from compression.finite import all_finite
from compression.layout import Layout
from compression.select.sample import kth_largest
from compression.spec import SpecError, nearest

from .spec import AUTO, SCOPES, VECTORS, check_floor

_NO_OVERRIDES: Mapping[str, float] = MappingProxyType({})


@dataclass(frozen=True)
class Budget:
    """`layers`, ascending positions in the layout, are ranked together and lose `drop` coordinates in all.

    `most`: how many of its coordinates each of them may lose.
    """

    layers: tuple[int, ...]
    drop: int
    most: tuple[int, ...]


def protected_layers(layout: Layout, protect: Iterable[str] = (AUTO,)) -> frozenset[str]:
    """Names of the layers that stay whole: all that `protect` names; SpecError for a name that no layer has.

    `VECTORS` stands for every tensor with fewer than two dimensions, norms and biases; `AUTO` for these, and the first and
    the last of the others.
    """
    found: set[str] = set()
    for word in protect:
        vectors = [name for name, shape in zip(layout.names, layout.shapes, strict=True) if len(shape) < 2]
        if word == VECTORS:
            found.update(vectors)
        elif word == AUTO:
            wide = [name for name, shape in zip(layout.names, layout.shapes, strict=True) if len(shape) >= 2]
            found.update(vectors + wide[:1] + wide[-1:])
        else:
            found.update(layout.names[i] for i in _named(layout, word))
    return frozenset(found)


def budgets(
    layout: Layout,
    sparsity: float,
    *,
    scope: str = "global",
    protected: frozenset[str] | None = None,
    min_density: float = 0.0,
    overrides: Mapping[str, float] = _NO_OVERRIDES,
) -> list[Budget]:
    """How many coordinates `choose_mask`, with the same arguments, drops where: what can be known without the scores.

    SpecError for whatever `choose_mask` refuses, so that a run can be refused before it starts.
    """
    if scope not in SCOPES:
        raise SpecError(f"scope cannot be '{scope}'{nearest(scope, SCOPES)}")
    protected = protected_layers(layout) if protected is None else protected
    for name in sorted(protected.difference(layout.names)):
        raise SpecError(f"there is no layer '{name}' to protect{nearest(name, layout.names)}")
    for what, asked in (("the sparsity", sparsity), *overrides.items()):
        if not 0 <= asked <= 1:
            raise SpecError(f"{what} must lie between 0 and 1, not {asked:g}")
        check_floor(what, asked, min_density)
    own = _own_sparsities(layout, protected, overrides)
    common = [i for i, name in enumerate(layout.names) if i not in own and name not in protected]
    if sparsity and not common and not own:
        raise SpecError(f"a sparsity of {sparsity:g} has nothing to prune: every layer is protected; try protect=none")
    groups = [([i], asked) for i, asked in own.items()]
    groups += [(common, sparsity)] if scope == "global" else [([i], sparsity) for i in common]
    # As written in decimals: 0.29 of 100 coordinates are 29 to hold, not 28.999... and so 28.
    floor = Fraction(str(min_density))
    made = []
    for layers, asked in groups:
        sizes = [layout.sizes[i] for i in layers]
        most = tuple(size - math.floor(floor * size) for size in sizes)
        made.append(Budget(tuple(layers), round(asked * sum(sizes)), most))
    return made


def choose_mask(
    scores: Tensor,
    layout: Layout,
    sparsity: float,
    *,
    scope: str = "global",
    protected: frozenset[str] | None = None,
    min_density: float = 0.0,
    overrides: Mapping[str, float] = _NO_OVERRIDES,
    held: Tensor | None = None,
) -> Tensor:
    """The mask, bool [n], that drops the smallest of finite `scores`, fp32 [n]; among equals the highest index goes first.

    `scope` "global" drops exactly round(sparsity * prunable) of all prunable coordinates, "layer" of each layer's.
    `protected` layers (names; None: `protected_layers`) are whole. At least floor(min_density * size) coordinates of a
    layer are held: what it may not give, others give. `overrides` gives layers, by name or dotted prefix, the longest one
    counting, a sparsity of their own outside the common budget; a full name reaches a protected layer, a prefix does not.
    `held`, bool [n], is an earlier mask: what it dropped stays dropped and counts, so where it dropped more than is asked
    for now, nothing is added. The result is that of a full sort, on every device.

    SpecError: an unknown name, nothing to prune, a density below `min_density`. NonFiniteError: scores that are not finite.
    ValueError: a length that is not the layout's.
    """
    for what, vector in (("scores", scores), ("held", held)):
        if vector is not None and vector.shape != (layout.total,):
            raise ValueError(f"{what} must have the layout's {layout.total} coordinates, not {tuple(vector.shape)}")
    if not all_finite(scores):
        raise NonFiniteError("scores must be finite to rank weights: one of them is NaN or infinite")
    wanted = budgets(layout, sparsity, scope=scope, protected=protected, min_density=min_density, overrides=overrides)
    mask = torch.ones(layout.total, dtype=torch.bool, device=scores.device) if held is None else held.clone()
    score_of, held_of = scores.detach().float().split(layout.sizes), mask.split(layout.sizes)
    for budget in wanted:
        _spend(budget, [score_of[i] for i in budget.layers], [held_of[i] for i in budget.layers])
    return mask


def _spend(budget: Budget, scores: list[Tensor], held: list[Tensor]) -> None:
    """Clear the bits of `held` that the budget drops, layer by layer."""
    gone = [part.numel() - int(part.count_nonzero()) for part in held]
    left = budget.drop - sum(gone)
    if left <= 0:
        return
    # Infinite: may not be dropped. There are always `left` finite ones, since `most` adds up to `drop` or more.
    pool = torch.cat(scores)
    if any(gone):
        pool.masked_fill_(~torch.cat(held), math.inf)
    sizes = [part.numel() for part in held]
    for part, most, already in zip(pool.split(sizes), budget.most, gone, strict=True):
        if len(held) > 1 and most < part.numel():
            part.masked_fill_(~_smallest(part, max(0, most - already)), math.inf)
    for bits, dropped in zip(held, _smallest(pool, left).split(sizes), strict=True):
        bits.masked_fill_(dropped, False)


def _smallest(values: Tensor, count: int) -> Tensor:
    """Bool [m]: where the `count` smallest of [m] values are, the highest index first among equals."""
    if not count:
        return torch.zeros_like(values, dtype=torch.bool)
    bound = kth_largest(values, values.numel() - count + 1)
    chosen = values < bound
    ties = flat_nonzero(values == bound)
    return chosen.index_fill_(0, ties[ties.numel() - (count - int(chosen.count_nonzero())) :], True)


def _own_sparsities(layout: Layout, protected: frozenset[str], overrides: Mapping[str, float]) -> dict[int, float]:
    """Sparsity by position of the layers that have one of their own, in ascending order."""
    own: dict[int, float] = {}
    for name in sorted(overrides, key=len):  # the longest comes last, and counts
        reached = [i for i in _named(layout, name) if layout.names[i] == name or layout.names[i] not in protected]
        if not reached:
            raise SpecError(f"{name}={overrides[name]:g} reaches only protected layers; give a layer's full name")
        own.update(dict.fromkeys(reached, overrides[name]))
    return dict(sorted(own.items()))


def _named(layout: Layout, name: str) -> list[int]:
    """Positions of the layers that a name or dotted prefix stands for; SpecError if there are none."""
    found = [i for i, layer in enumerate(layout.names) if layer == name or layer.startswith(f"{name}.")]
    if not found:
        known = dict.fromkeys(prefix for layer in layout.names for prefix in _prefixes(layer))
        raise SpecError(f"there is no layer '{name}'{nearest(name, known)}")
    return found


def _prefixes(layer: str) -> Iterable[str]:
    """'a', 'a.b', 'a.b.c' for 'a.b.c'."""
    return accumulate(layer.split("."), lambda prefix, part: f"{prefix}.{part}")
