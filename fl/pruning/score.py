"""Scores of coordinates: fp32 [n], the smallest are pruned first."""

from collections.abc import Callable

import torch
from torch import Tensor

from compression.draws import uniform


def magnitude(weights: Tensor) -> Tensor:
    """|w| (Han et al. 2015, "Learning both weights and connections for efficient neural networks")."""
    return weights.float().abs()


def random(key: int, n: int, device: torch.device | str) -> Tensor:
    """Uniform numbers in [0, 1): a function of `key`, in [0, 2^63), and the coordinate, the same on every device."""
    return uniform(key, n, device)


def snip(weights: Tensor, gradient: Tensor) -> Tensor:
    """|g w|, what the loss would change by if the weight were scaled down (Lee, Ajanthan & Torr 2019, "SNIP", equation 4).

    `gradient`: of the loss on one batch, or summed over several, at the untrained weights. The paper divides by the sum
    of all scores, which changes no ranking.
    """
    return torch.mul(weights.float(), gradient.float()).abs_()


def gradient(accumulated: Tensor) -> Tensor:
    """A sum of |g| or g^2 over steps, as it is; ValueError if one is negative.

    A signed sum would call a weight worthless whose gradients cancel.
    """
    if accumulated.numel() and float(accumulated.min()) < 0:
        raise ValueError("accumulated gradients must be sums of |g| or g^2, and one of them is negative")
    return accumulated.float()


_BY_WEIGHTS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "magnitude": lambda weights, key: magnitude(weights),
    "random": lambda weights, key: random(key, weights.numel(), weights.device),
    "filters": lambda weights, key: weights,
}
"""Scores, fp32 [n], of weights [n] and a key in [0, 2^63), for each of `spec.WEIGHT_SCORES`."""


def weight_scores(method: str, weights: Tensor, key: int) -> Tensor:
    """The scores of a method, fp32 [n]; for one that needs more than the weights, by magnitude."""
    return _BY_WEIGHTS.get(method, _BY_WEIGHTS["magnitude"])(weights, key)


class SquaredUpdates:
    """The sum of squared mean updates, fp32 [n]: the only gradients that a server knows. Where it does not `watch`, nothing.

    What was learnt counts from `commit` on.
    """

    def __init__(self, like: Tensor, *, watch: bool) -> None:
        self.total = torch.zeros_like(like) if watch else like.new_empty(0)
        self._watch = watch
        self._new: list[Tensor] = []

    def __bool__(self) -> bool:
        return self._watch

    def learn(self, update: Tensor) -> None:
        """The mean update of a round, which must not change before `commit`."""
        self._new = [update] if self._watch else []

    def commit(self) -> None:
        """The round has succeeded."""
        for update in self._new:
            self.total = torch.addcmul(self.total, update, update)  # a checkpoint may be writing the one before
        self._new = []

    def rollback(self) -> None:
        """The round has failed."""
        self._new = []
