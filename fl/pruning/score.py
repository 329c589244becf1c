"""Scores of coordinates: fp32 [n], the smallest are pruned first.

Each function writes into `out`, fp32 [n], where it is given; otherwise it makes a new tensor.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from compression.draws import uniform


def magnitude(weights: Tensor, out: Tensor | None = None) -> Tensor:
    """|w| (Han et al. 2015, "Learning both weights and connections for efficient neural networks")."""
    return torch.abs(weights.float(), out=_scores_like(weights, out))


def random(key: int, n: int, device: torch.device | str, out: Tensor | None = None) -> Tensor:
    """Uniform numbers in [0, 1): a function of `key`, in [0, 2^63), and the coordinate, the same on every device."""
    return uniform(key, n, device, out=out)


def snip(weights: Tensor, gradient: Tensor, out: Tensor | None = None) -> Tensor:
    """|g w|, what the loss would change by if the weight were scaled down (Lee, Ajanthan & Torr 2019, "SNIP", equation 4).

    `gradient`: of the loss on one batch, or summed over several, at the untrained weights. The paper divides by the sum
    of all scores, which changes no ranking.
    """
    return torch.mul(weights.float(), gradient.float(), out=_scores_like(weights, out)).abs_()


def gradient(accumulated: Tensor) -> Tensor:
    """A sum of |g| or g^2 over local steps (`accumulate`), as it is; ValueError if one is negative.

    A signed sum would call a weight worthless whose gradients cancel.
    """
    if accumulated.numel() and float(accumulated.min()) < 0:
        raise ValueError("accumulated gradients must be sums of |g| or g^2, and one of them is negative")
    return accumulated.float()


def accumulate(total: Tensor, gradient: Tensor, *, squared: bool, scratch: Tensor | None = None) -> Tensor:
    """Add |g|, or g^2 where `squared`, of `gradient` [n] to `total`, fp32 [n]; returns it. `scratch`: fp32 [n] for |g|."""
    if squared:
        return total.addcmul_(gradient, gradient)
    return total.add_(torch.abs(gradient, out=scratch) if scratch is not None else gradient.abs())


WEIGHT_SCORES: dict[str, Callable[[Tensor, int], Tensor]] = {
    "magnitude": lambda weights, key: magnitude(weights),
    "random": lambda weights, key: random(key, weights.numel(), weights.device),
    "filters": lambda weights, key: weights,
}
"""Methods of `--prune` that go by the weights [n] and a key in [0, 2^63) alone, and their scores, fp32 [n]."""


def weight_scores(method: str, weights: Tensor, key: int) -> Tensor:
    """The scores of a method, fp32 [n]; for one that needs more than the weights, by magnitude."""
    return WEIGHT_SCORES.get(method, WEIGHT_SCORES["magnitude"])(weights, key)


def _scores_like(weights: Tensor, out: Tensor | None) -> Tensor:
    return torch.empty(weights.numel(), device=weights.device) if out is None else out
