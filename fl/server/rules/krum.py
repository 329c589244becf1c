"""Krum and Multi-Krum: Blanchard et al. 2017, "Machine Learning with Adversaries: Byzantine Tolerant Gradient Descent"
(NIPS), sections 4 and 6."""

from collections.abc import Sequence

import torch
from torch import Tensor

from compression.wire import Sparse
from fl.common.errors import RoundError

from ..aggregate import Aggregate
from . import fewest_of_krum
from .kept import Kept, columns


class Krum(Kept):
    """The update of the client that is closest to others, with its buffers; of equals the first of the cohort.

    With n clients, F of which may send anything, a client's score is the sum of the squared distances to the n - F - 2
    that are nearest to it; the lowest is taken.
    """

    def _count(self, clients: int) -> int:
        """How many of `clients` updates are taken."""
        return 1

    def result(self) -> Aggregate:
        clients, fewest = len(self._updates), fewest_of_krum(self._number)
        if clients < fewest:
            raise RoundError(f"krum needs {fewest} updates for F = {self._number:g}, and {clients} arrived")
        scores = _scores(self._updates, int(self._number))
        chosen = sorted(torch.argsort(scores, stable=True)[: self._count(clients)].tolist())
        statistics = [self._statistics[at] for at in chosen] if self._statistics else []
        return Aggregate(_mean([self._updates[at] for at in chosen], self._update), _mean(statistics, self._buffers))


class MultiKrum(Krum):
    """The plain mean of the n - F clients with the lowest scores of Krum."""

    def _count(self, clients: int) -> int:
        return clients - int(self._number)


def _scores(updates: Sequence[Sparse], f: int) -> Tensor:
    """Krum's scores, float64 [clients]; squared distances come from inner products, in float64."""
    clients = len(updates)
    products = torch.zeros(clients, clients, dtype=torch.float64, device=updates[0].values.device)
    for _, rows in columns(updates):
        wide = rows.double()
        products += wide @ wide.T
    squares = products.diagonal()
    distances = (squares[:, None] + squares[None, :] - 2 * products).clamp(min=0)
    distances.fill_diagonal_(torch.inf)
    return distances.sort(dim=1).values[:, : clients - f - 2].sum(1)


def _mean(vectors: Sequence[Sparse], out: Tensor) -> Tensor:
    out.zero_()
    for vector in vectors:
        vector.add_to(out)
    return out.div_(max(1, len(vectors)))
