"""FedProx: a spring between a client's weights and the global ones.

Li et al. 2020, "Federated Optimization in Heterogeneous Networks" (MLSys), Algorithm 2: client k minimises, with any
solver and for as long as it can, h_k(w; w^t) = F_k(w) + mu/2 ||w - w^t||^2, so mu (w - w^t) is added to the gradient. The
server does as in federated averaging. (The paper draws clients in proportion to their samples and counts them alike:
`--sampling samples`. By default, as in most programs, clients are drawn alike and the mean is weighted.)
"""

from collections.abc import Mapping
from typing import ClassVar

from torch import Tensor

from compression import Layout

from .base import Algorithm
from .views import Displacement


class FedProx(Algorithm):
    """`mu`: the strength of the spring, 0 or more; with 0 it is federated averaging.

    The local optimizer is free, weight decay and clipping included. Under a mask the spring acts inside it.
    """

    corrects: ClassVar[bool] = True

    def __init__(self, layout: Layout, mu: float) -> None:
        self._mu = mu
        self._moved = Displacement(layout)

    def begin(self, client: int, weights: Tensor, steps: int, lr: float, own: Mapping[str, Tensor]) -> None:
        self._moved.use(weights)

    def correction(self, at: int, parameter: Tensor) -> Tensor | None:
        """mu (w - w^t)."""
        return self._moved.at(at, parameter).mul_(self._mu)
