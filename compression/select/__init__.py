"""Which coordinates to send. A selector maps a vector to ascending positions.

topk:R         the R * n largest magnitudes, exactly; ties go to the lowest position (Aji & Heafield 2017).
prune:S        gradient-magnitude pruning: about the fraction S of smallest magnitudes is dropped, by a sampled quantile.
threshold:T    every magnitude of at least T is sent (Strom 2015).
randk:R        R * n positions that follow from a shared key and so need not be sent (Konecny et al. 2016).
cost:R         the largest magnitude per cost within R of the whole model's cost, exactly; costs by kind of layer, as in
               cost:R,conv=1,linear=5,norm=1,bias=1.

`scope=layer` applies topk and prune to each tensor by itself instead of to the whole vector.
"""

from ..spec import SpecError, Stage, nearest
from .base import Selector
from .cost import Cost
from .kinds import KINDS
from .prune import Prune
from .randk import RandK
from .threshold import Threshold
from .topk import TopK

__all__ = ["SELECTOR_NAMES", "Cost", "Prune", "RandK", "Selector", "Threshold", "TopK", "make_selector"]

SELECTOR_NAMES = ("topk", "prune", "threshold", "randk", "cost")


def make_selector(stage: Stage) -> Selector:
    """The selector that a stage of a specification names; SpecError if there is none or its parameters are wrong."""
    if stage.name == "threshold":
        return Threshold(stage.expect(1).number(0, 1e-38, 1e38, "the threshold"))
    if stage.name == "randk":
        return RandK(_density(stage.expect(1)))
    if stage.name == "cost":
        stage.expect(1, KINDS)
        return Cost(_density(stage), {kind: _cost(stage, kind) for kind in stage.options})
    if stage.name not in SELECTOR_NAMES:
        raise SpecError(f"'{stage}': there is no selector '{stage.name}'{nearest(stage.name, SELECTOR_NAMES)}")
    stage.expect(1, ("scope",))
    scope = stage.options.get("scope", "global")
    if scope not in ("global", "layer"):
        raise SpecError(f"'{stage}': scope must be global or layer, not '{scope}'")
    if stage.name == "topk":
        return TopK(_density(stage), per_layer=scope == "layer")
    return Prune(stage.number(0, 0, 1, "the sparsity"), per_layer=scope == "layer")


def _density(stage: Stage) -> float:
    return stage.number(0, 1e-9, 1, "the kept fraction")


def _cost(stage: Stage, kind: str) -> float:
    value = stage.option(kind, 1e-3, 1e3)
    if round(value * 1000) / 1000 != value:
        raise SpecError(f"'{stage}': {kind} must have at most three decimals, not {stage.options[kind]}")
    return value
