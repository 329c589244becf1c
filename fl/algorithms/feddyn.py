"""FedDyn: a spring as in FedProx, and a linear term that makes the clients' optima agree.

Acar et al. 2021, "Federated Learning Based on Dynamic Regularization" (ICLR), Algorithm 1. Client k, from the global
weights w, minimises L_k(v) - <g_k, v> + alpha/2 ||v - w||^2, so alpha (v - w) - g_k is added to the gradient; then
g_k <- g_k - alpha (v - w), the gradient of L_k at v if v is the minimum. The server, of m clients of which those in P took
part: h <- h - alpha/m sum_P (v_k - w), and the new weights are mean_P(v_k) - h / alpha. Clients count alike.

w - v_k is the update as the server decodes it, on both sides: so h is the mean of all g_k for every codec, as it must
be for the global weights to rest where the clients' gradients cancel. With the exact update on the clients' side they rest
elsewhere: with topk:0.5 and no residual 0.2 of the way to the optimum is left for ever, not 4e-10 (see
`fl.run.rules`).
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from torch import Tensor

from compression import Layout
from compression.wire import Sparse

from .base import Algorithm
from .views import Displacement, ParameterViews


class FedDyn(Algorithm):
    """`alpha`: strength of the spring, above 0; `clients`: m.

    A client keeps g_k [n], as `gradient`, once it has taken part; rank 0 holds h [n]. All are zero at first. The local
    optimizer is free: any of them finds the minimum only roughly, and the formulas take it as it is.
    """

    corrects: ClassVar[bool] = True
    kept_vectors: ClassVar[int] = 1

    def __init__(self, layout: Layout, device: torch.device, alpha: float, clients: int) -> None:
        self._alpha = alpha
        self._clients = clients
        self._device = device
        self._moved = Displacement(layout)
        self._linear = ParameterViews(layout)
        self._is_linear = False
        self._total: Tensor | None = None  # h, made when the first mean is
        self._next: Tensor | None = None  # h if the round succeeds

    def begin(self, client: int, weights: Tensor, steps: int, lr: float, own: Mapping[str, Tensor]) -> None:
        self._moved.use(weights)
        self._is_linear = bool(own)
        if self._is_linear:
            self._linear.use(own["gradient"].to(self._device, torch.float32))

    def correction(self, at: int, parameter: Tensor) -> Tensor | None:
        """alpha (v - w) - g_k."""
        pull = self._moved.at(at, parameter).mul_(self._alpha)
        return pull.sub_(self._linear.at(at, parameter)) if self._is_linear else pull

    def sent(self, client: int, decoded: Sparse, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
        gradient = torch.zeros(decoded.n, device=self._device)
        if own:
            gradient.copy_(own["gradient"])
        decoded.add_to(gradient, self._alpha)
        return {"gradient": gradient}

    def rollback(self) -> None:
        self._next = None

    def commit(self) -> None:
        if self._next is not None:
            self._total, self._next = self._next, None

    def weight(self, samples: int) -> int:
        """Clients count alike, as in the paper."""
        return 1

    def on_server(self, update: Tensor, weights: Sequence[int], steps: Sequence[int]) -> Tensor:
        """The mean update plus h / alpha."""
        total = torch.zeros_like(update) if self._total is None else self._total
        self._next = torch.add(total, update, alpha=self._alpha * len(weights) / self._clients)
        return update.add_(self._next, alpha=1 / self._alpha)

    def server_state(self) -> dict[str, Tensor]:
        """h as `total`, [n]."""
        return {} if self._total is None else {"total": self._total}

    def load_server_state(self, state: Mapping[str, Tensor]) -> None:
        self._total = state["total"].to(self._device, copy=True) if "total" in state else None
