"""An algorithm in the rounds of a run: what it must know of local training."""

from torch import Tensor

from fl.algorithms.base import Algorithm
from fl.common.config import TrainOptions
from fl.data.batches import count_steps

from .schedule import learning_rate


class Course:
    """`algorithm` with the local steps and the learning rate that these options give each client."""

    def __init__(self, algorithm: Algorithm, options: TrainOptions, *, alike: bool = False) -> None:
        """`alike`: clients count alike in the mean, whatever their samples."""
        self.algorithm = algorithm
        self._options = options
        self._alike = alike

    def weight(self, samples: int) -> int:
        """How much a client with so many samples counts in the mean."""
        return 1 if self._alike else self.algorithm.weight(samples)

    def steps(self, samples: int) -> int:
        """Local steps in a round of a client with so many samples."""
        options = self._options
        return count_steps(samples, options.batch_size, options.local_epochs, options.local_steps)

    def lr(self, round_: int) -> float:
        """The local learning rate."""
        return learning_rate(self._options, round_)

    def begin(self, client: int, samples: int, weights: Tensor, round_: int) -> None:
        """`client`, with so many samples, starts from the global `weights` [n]."""
        self.algorithm.begin(client, weights, self.steps(samples), self.lr(round_))
