"""Local training by round and client: the algorithm, the learning rate, the number of steps, how much a client counts."""

from collections.abc import Mapping

from torch import Tensor

from fl.algorithms.base import Algorithm
from fl.common.config import TrainOptions
from fl.data.batches import count_steps

from .schedule import learning_rate


class LocalPlan:
    """`algorithm` with the local steps and the learning rate that these options give each client."""

    def __init__(self, algorithm: Algorithm, options: TrainOptions, *, alike: bool = False) -> None:
        """`alike`: clients count alike in the mean, whatever their samples."""
        self.algorithm = algorithm
        self._options = options
        self._alike = alike

    def weight(self, samples: int) -> int:
        """The weight in the mean of a client with `samples`."""
        return 1 if self._alike else self.algorithm.weight(samples)

    def steps(self, samples: int) -> int:
        """Local steps in a round of a client with `samples`."""
        options = self._options
        return count_steps(samples, options.client_batch, options.local_epochs, options.local_steps)

    def lr(self, round_: int) -> float:
        """The local learning rate."""
        return learning_rate(self._options, round_)

    def begin(self, client: int, samples: int, weights: Tensor, round_: int, own: Mapping[str, Tensor]) -> None:
        """`client`, with its number of `samples` and its `own` state, starts from the global `weights` [n]."""
        self.algorithm.begin(client, weights, self.steps(samples), self.lr(round_), own)
