"""SCAFFOLD: control variates take the difference between a client's gradient and everybody's out of its steps.

Karimireddy et al. 2020, "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning" (ICML), Algorithm 1 with
option II. Client i, from the global weights x, takes K steps y <- y - lr (g_i(y) - c_i + c), then
c_i+ = c_i - c + (x - y) / (K lr), the mean of its gradients. The server averages the clients alike, and
c <- c + |S|/N mean_S(c_i+ - c_i) = (1 - |S|/N) c + 1/N sum_S (x - y_i) / (K_i lr_i), so c is the mean of all c_i.

(x - y) is the update as the server decodes it, on both sides. So a client's variate costs nothing on the uplink, c stays
the mean of the c_i for every codec, and what a client could not send comes back as its next correction: with topk:0.05
and no residual quadratics get to their optimum, where with the exact update on the client's side they stay nearly where
they began (1e-3 and 0.9 of the way left after 400 rounds, see
`fl.run.rules`). c itself is dense and exact: n numbers to every client that takes part.
"""

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from compression import Layout
from compression.wire import Sparse

from .base import Algorithm
from .views import ParameterViews


class Scaffold(Algorithm):
    """`clients`: N. A client keeps c_i [n], as `variate`, once it has taken part; every rank holds c [n]. All are zero at
    first."""

    corrects: ClassVar[bool] = True
    kept_vectors: ClassVar[int] = 1

    def __init__(self, layout: Layout, device: torch.device, clients: int) -> None:
        self._clients = clients
        self._common = torch.zeros(layout.total, device=device)
        self._shift = torch.empty_like(self._common)
        self._views = ParameterViews(layout)
        self._length = 0.0  # steps times learning rate of the client that began last
        self._sum: Tensor | None = None  # of the gradients received, on rank 0
        self._received = 0

    def begin(self, client: int, weights: Tensor, steps: int, lr: float, own: Mapping[str, Tensor]) -> None:
        self._length = steps * lr
        variate = _variate(own, self._common)
        self._views.use(self._common if variate is None else torch.sub(self._common, variate, out=self._shift))

    def correction(self, at: int, parameter: Tensor) -> Tensor | None:
        """c - c_i."""
        return self._views.at(at, parameter)

    def sent(self, client: int, decoded: Sparse, own: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A client whose learning rate is 0 has learnt nothing and keeps c_i."""
        if not self._length > 0:
            return dict(own)
        variate = _variate(own, self._common)
        changed = (torch.zeros_like(self._common) if variate is None else variate).sub(self._common)
        decoded.add_to(changed, 1 / self._length)
        return {"variate": changed}

    def rollback(self) -> None:
        self._clear()

    def commit(self) -> None:
        self._clear()

    def weight(self, samples: int) -> int:
        """Clients count alike, as in the paper; otherwise c would pull the model away from where the clients agree."""
        return 1

    def receive(self, client: int, decoded: Sparse, steps: int, lr: float) -> None:
        if steps * lr > 0:
            self._sum = torch.zeros_like(self._common) if self._sum is None else self._sum
            decoded.add_to(self._sum, 1 / (steps * lr))
            self._received += 1

    def broadcast(self) -> Tensor | None:
        """c of the next round, where anything was received."""
        if self._sum is None or not self._received:
            return None
        return torch.mul(self._common, 1 - self._received / self._clients).add_(self._sum, alpha=1 / self._clients)

    def apply_broadcast(self, values: Tensor) -> None:
        self._common = values

    def server_state(self) -> dict[str, Tensor]:
        """c as `variate`, [n]."""
        return {"variate": self._common}

    def load_server_state(self, state: Mapping[str, Tensor]) -> None:
        self._common = state["variate"].to(self._common.device, copy=True)

    def _clear(self) -> None:
        self._received = 0
        if self._sum is not None:
            self._sum.zero_()


def _variate(own: Mapping[str, Tensor], like: Tensor) -> Tensor | None:
    return own["variate"].to(like) if own else None
