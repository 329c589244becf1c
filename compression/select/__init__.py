"""Which coordinates to send. A selector maps a vector to ascending positions.

topk:R         the R * n largest magnitudes, exactly; ties go to the lowest position (Aji & Heafield 2017).
prune:S        gradient-magnitude pruning: about the fraction S of smallest magnitudes is dropped, by a sampled quantile.
threshold:T    every magnitude of at least T is sent (Strom 2015).
randk:R        R * n positions that follow from a shared key and so need not be sent (Konecny et al. 2016).
cost:R         the largest magnitude per cost within R of the whole model's cost, exactly; costs by kind of layer, as in
               cost:R,conv=1,linear=5,norm=1,bias=1.

`scope=layer` applies topk and prune to each tensor by itself instead of to the whole vector, `chunk=N` topk to each N
coordinates in a row (SparseLoCo: Sarfi et al. 2025).
"""

from collections.abc import Callable

from ..grammar import SELECTOR_NAMES, read_selector
from ..spec import Stage
from .base import Selector
from .cost import Cost
from .magnitude import Prune, Threshold, TopK
from .randk import RandK

__all__ = ["SELECTOR_NAMES", "Cost", "Prune", "RandK", "Selector", "Threshold", "TopK", "make_selector"]

_SELECTORS: dict[str, Callable[..., Selector]] = {
    "topk": TopK,
    "prune": Prune,
    "threshold": Threshold,
    "randk": RandK,
    "cost": Cost,
}


def make_selector(stage: Stage) -> Selector:
    """The selector that a stage of a specification names; SpecError if there is none or its parameters are wrong."""
    arguments = read_selector(stage)
    return _SELECTORS[stage.name](**arguments)
