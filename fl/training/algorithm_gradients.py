"""Gradients in local training with what an algorithm adds to them."""

from collections.abc import Iterable

from torch import Tensor, nn

from fl.algorithms.base import Algorithm


class CorrectedGradients:
    """While `on`, adds `algorithm.correction` to the gradient of every parameter of `model` that `names` lists, in order.

    To be made before anything that masks gradients: hooks run in the order in which they were registered.
    """

    def __init__(self, model: nn.Module, names: Iterable[str], algorithm: Algorithm) -> None:
        self.on = False
        self._algorithm = algorithm
        named = dict(model.named_parameters())
        for at, name in enumerate(names):
            parameter = named[name]
            parameter.register_hook(lambda grad, at=at, parameter=parameter: self._corrected(grad, at, parameter))

    def _corrected(self, grad: Tensor, at: int, parameter: Tensor) -> Tensor:
        correction = self._algorithm.correction(at, parameter.detach()) if self.on else None
        return grad if correction is None else grad + correction
