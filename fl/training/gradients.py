"""Gradients in local training: what an algorithm adds to them, and what a mask leaves of them."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from fl.algorithms.base import Algorithm


class MaskedGradients:
    """Keeps a model's pruned weights at zero while it trains: their gradients are zero, and so is their momentum.

    `squares`: where it is set, fp32 [n], g^2 of every coordinate, pruned ones included, is added to it in each step.
    """

    def __init__(self, model: nn.Module, names: Iterable[str]) -> None:
        named = dict(model.named_parameters())
        self._parameters = [named[name] for name in names]
        self._masks: list[Tensor] = []
        self._squares: list[Tensor] | None = None
        for at, parameter in enumerate(self._parameters):
            parameter.register_hook(lambda grad, at=at: self._masked(grad, at))

    def _masked(self, grad: Tensor, at: int) -> Tensor:
        if self._squares is not None:
            self._squares[at].addcmul_(grad, grad)
        return grad * self._masks[at] if self._masks else grad

    def use(self, masks: list[Tensor], squares: list[Tensor] | None = None) -> None:
        """From now on these masks, bool in the shapes of the parameters, or none of them; and these sums of squares."""
        self._squares = squares
        self._masks = [
            torch.empty_like(parameter, dtype=torch.bool).copy_(mask)
            for parameter, mask in zip(self._parameters, masks, strict=bool(masks))
        ]


class CorrectedGradients:
    """As a context: adds `algorithm.correction` to the gradient of every parameter of `model` that `names` lists, in order.

    To be made before anything that masks gradients: hooks run in the order in which they were registered.
    """

    def __init__(self, model: nn.Module, names: Iterable[str], algorithm: Algorithm) -> None:
        self._on = False
        self._algorithm = algorithm
        named = dict(model.named_parameters())
        for at, name in enumerate(names if algorithm.corrects else ()):
            parameter = named[name]
            parameter.register_hook(lambda grad, at=at, parameter=parameter: self._corrected(grad, at, parameter))

    def __enter__(self) -> None:
        self._on = True

    def __exit__(self, *error: object) -> None:
        self._on = False

    def _corrected(self, grad: Tensor, at: int, parameter: Tensor) -> Tensor:
        correction = self._algorithm.correction(at, parameter.detach()) if self._on else None
        return grad if correction is None else grad + correction
