"""A bucket for communication hooks outside DistributedDataParallel."""

from collections.abc import Sequence

from torch import Tensor


class FlatBucket:
    """One flat vector with the methods of `torch.distributed.GradBucket`, so that any DDP hook runs on it.

    `buffer` [n] holds the `parameters` in their order; a hook may replace it. It is always bucket 0 and the last.
    """

    def __init__(self, buffer: Tensor, parameters: Sequence[Tensor]) -> None:
        self._buffer = buffer
        self._parameters = list(parameters)

    def index(self) -> int:
        """0: there is one bucket."""
        return 0

    def is_last(self) -> bool:
        """True: there is one bucket."""
        return True

    def buffer(self) -> Tensor:
        """The flat vector [n]."""
        return self._buffer

    def set_buffer(self, buffer: Tensor) -> None:
        """Replace the flat vector by another of the same length."""
        self._buffer = buffer

    def parameters(self) -> list[Tensor]:
        """The parameters, in the order of the buffer."""
        return list(self._parameters)

    def gradients(self) -> list[Tensor]:
        """Views of the buffer in the parameters' shapes."""
        sizes = [parameter.numel() for parameter in self._parameters]
        return [
            part.view(parameter.shape)
            for part, parameter in zip(self._buffer.split(sizes), self._parameters, strict=True)
        ]
