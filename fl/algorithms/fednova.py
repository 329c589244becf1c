"""FedNova: updates are averaged per step, so that a client with more local steps does not count for more.

Wang et al. 2020, "Tackling the Objective Inconsistency Problem in Heterogeneous Federated Optimization" (NeurIPS),
equation 8 and section 4: after local steps with gradients G_i and learning rate lr a client has moved by -lr G_i a_i, it
sends d_i = lr G_i a_i / ||a_i||_1, and the server takes tau_eff sum_i p_i d_i for the mean update, with p_i in proportion to
the samples and tau_eff = sum_i p_i ||a_i||_1, as in the paper's experiments.

K steps of SGD with momentum rho (none: 0) have a_i = [1 - rho^K, 1 - rho^(K-1), ..., 1 - rho] / (1 - rho), so
||a_i||_1 = (K - rho (1 - rho^K) / (1 - rho)) / (1 - rho). Weight decay and clipping are taken for part of the gradient:
decay is the same term in every client's objective, so their weighted sum stays the one that is minimised.
"""

from collections.abc import Mapping, Sequence

from torch import Tensor

from .base import Algorithm


def steps_norm(steps: int, momentum: float) -> float:
    """||a_i||_1 of `steps` of SGD: the number of steps of plain SGD that they are worth, for a constant gradient."""
    rest = 1 - momentum
    return (steps - momentum * (1 - momentum**steps) / rest) / rest


class FedNova(Algorithm):
    """`momentum`: of local SGD, in [0, 1)."""

    def __init__(self, momentum: float) -> None:
        self._momentum = momentum
        self._norms: dict[int, float] = {}

    def begin(self, client: int, weights: Tensor, steps: int, lr: float, own: Mapping[str, Tensor]) -> None:
        self._norms[client] = steps_norm(steps, self._momentum)

    def on_client(self, client: int, update: Tensor) -> Tensor:
        """d_i; a client without steps has not moved."""
        norm = self._norms.pop(client)
        return update.div_(norm) if norm else update

    def on_server(self, update: Tensor, weights: Sequence[int], steps: Sequence[int]) -> Tensor:
        """tau_eff times the mean of d_i."""
        worth = (weight * steps_norm(own, self._momentum) for weight, own in zip(weights, steps, strict=True))
        return update.mul_(sum(worth) / sum(weights))
