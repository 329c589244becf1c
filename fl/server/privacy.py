"""Differential privacy of whole clients: the noise of `--dp`, and the epsilon it comes to.

DP-FedAvg with a fixed denominator (McMahan, Ramage, Talwar and Zhang 2018, "Learning Differentially Private Recurrent
Language Models", Algorithm 1): every client takes part in a round with probability q, whatever the others do; the sum of
the updates, each clipped to an l2 norm of at most C, gets Gaussian noise of standard deviation Z C, and is divided by q
times the number of clients, not by how many took part.

With `adaptive` C is only the first norm: it follows the quantile Q of the updates' norms (Andrew, Thakkar, McMahan and
Ramaswamy 2021, "Differentially Private Learning with Adaptive Clipping", Algorithm 1).
"""

import functools
import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fl.common.config import Config
from fl.common.seeds import numpy_generator

from .privacy_spec import PrivacySpec, parse_dp

_RATE = 0.2  # of the adaptive norm: eta_C of Andrew et al., section 3.1
_INTERVAL = 1e-3  # of privacy losses; finer ones lower epsilon by less than 2 %, in ten times as long


def epsilon(noise: float, probability: float, rounds: int, delta: float) -> float:
    """The epsilon of so many rounds at `delta`, where a client takes part in each with this probability.

    Two runs are neighbours if one has a client more (add or remove one). The bound is that of the privacy loss distribution
    (Koskela et al. 2020; Doroshenko et al. 2022), rounded up, by Google's dp-accounting. Of an adaptive norm it is the same
    (Andrew et al. 2021, Theorem 1).
    """
    if not rounds:
        return 0.0
    return float(_one_round(noise, probability).self_compose(rounds).get_epsilon_for_delta(delta))


@functools.lru_cache(maxsize=1)
def _one_round(noise: float, probability: float) -> Any:
    """The privacy loss distribution of one round."""
    from dp_accounting.pld import privacy_loss_distribution  # with all of SciPy: only where it is asked for

    return privacy_loss_distribution.from_gaussian_mechanism(
        noise, sampling_prob=probability, value_discretization_interval=_INTERVAL
    )


class Privacy:
    """The clip norm, the noise and the number of noisy rounds of a run: a participant of its rounds.

    `norm`: what the next round clips to. `expected`: how many clients take part in a round, on average.
    """

    def __init__(self, spec: PrivacySpec, *, clients: int, expected: int, seed: int) -> None:
        self.spec = spec
        self.expected = expected
        self.norm = self._next = spec.clip
        self._rounds = 0
        self._probability = expected / clients
        self._seed = seed
        self._noise = spec.noise
        if spec.quantile is not None:
            # One round's noise in two parts, Theorem 1 of Andrew et al., who take expected / 20 for the count.
            self._count_noise = max(expected / 20, spec.noise)
            self._noise = (spec.noise**-2 - (2 * self._count_noise) ** -2) ** -0.5

    def add_noise(self, total: Tensor) -> Tensor:
        """`total`, the sum of a round's clipped updates, fp32 [n], with the noise of this round, in place."""
        numbers = numpy_generator(self._seed, "noise", self._rounds).standard_normal(total.numel(), dtype="float32")
        return total.add_(torch.from_numpy(numbers).to(total.device), alpha=self._noise * self.norm)

    def observe(self, unclipped: float) -> None:
        """Take how many updates of this round were within the norm, less half of all; each moves that by one half."""
        quantile = self.spec.quantile
        if quantile is None:
            return
        noise = self._count_noise * float(numpy_generator(self._seed, "noise of the count", self._rounds).normal())
        self._next = self.norm * math.exp(-_RATE * ((unclipped + noise) / self.expected + 0.5 - quantile))

    @property
    def columns(self) -> dict[str, float]:
        """The columns of metrics.csv after the rounds so far."""
        spec = self.spec
        return {
            "epsilon": epsilon(spec.noise, self._probability, self._rounds, spec.delta),
            "delta": spec.delta,
            "clip_norm": self.norm,
        }

    def commit(self) -> None:
        """The round has succeeded."""
        self._rounds += 1
        self.norm = self._next

    def rollback(self) -> None:
        """The round has failed."""
        self._next = self.norm

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on, ready for JSON."""
        return {"rounds": self._rounds, "norm": self.norm}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._rounds, self.norm = state["rounds"], state["norm"]
        self._next = self.norm


def make_privacy(config: Config) -> Privacy | None:
    """That of a run, whose number of clients is known; None without `--dp`."""
    spec = parse_dp(config.dp)
    if spec is None:
        return None
    assert config.clients is not None
    assert config.clients_per_round is not None
    return Privacy(spec, clients=config.clients, expected=config.clients_per_round, seed=config.seed)
