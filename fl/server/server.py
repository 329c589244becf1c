"""The server: takes one optimizer step on the aggregate of a round, and encodes the change for everybody."""

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from compression import Codec, NonFiniteError, Sender
from compression.finite import all_finite
from fl.common.ranks import Ranks
from fl.models.state import ModelState
from fl.models.submodel import WHOLE, Submodel

from .aggregate import Aggregate, Aggregator
from .optimizers import ServerOptimizer
from .shards import Shards


class Server:
    """The aggregator, the optimizer with its moments, and the downlink residual; on rank 0, where it takes its memory when
    it is first used. Where several ranks are its `shards`, each adds up and steps a range of the coordinates, and rank 0
    encodes what all of them have changed.

    The optimizer steps a copy of the global parameters; what changed, plus the residual of earlier rounds, is encoded, and
    rank 0 applies the decoded change like everybody else. So the moments never see the downlink's error.
    """

    def __init__(
        self,
        state: ModelState,
        make_optimizer: Callable[[list[Tensor]], ServerOptimizer],
        downlink: Codec,
        *,
        error_feedback: bool,
        make_aggregator: Callable[[], Aggregator],
        shards: Ranks | None = None,
    ) -> None:
        self.state = state
        self.shards = Shards(shards, state.parameters.numel())
        self.part = state.between(*self.shards.range)  # of this rank
        self._collected: dict[str, Tensor] = {}  # the moments of all shards, for a checkpoint
        self.downlink = downlink
        self.sender = Sender(downlink, "residual" if error_feedback else "none")
        self.update_norm = 0.0  # of the last round's mean
        self._make_optimizer = make_optimizer
        self._make_aggregator = make_aggregator
        self._before: tuple[dict[str, Tensor], Any] | None = None  # moments and sender, while a round is not committed

    @functools.cached_property
    def aggregator(self) -> Aggregator:
        """Where the updates of a round are added up."""
        return self._make_aggregator()

    @functools.cached_property
    def _stepped(self) -> torch.nn.Parameter:
        """What the optimizer steps: a copy of the global parameters, in a step; it has no memory of its own."""
        return torch.nn.Parameter(self.part.parameters)

    @functools.cached_property
    def optimizer(self) -> ServerOptimizer:
        """The optimizer of the copy."""
        return self._make_optimizer([self._stepped])

    def step(
        self, mean: Aggregate, *, key: int = 0, submodel: Submodel = WHOLE, rewound: bool = False
    ) -> Tensor | None:
        """One optimizer step on the mean of a round; `key` seeds the downlink's random choices.

        Outside `submodel` nothing moves and nothing is sent; moments and residuals there are forgotten, unless they have
        their turn later, and all of them where the weights were `rewound`. A coordinate that nobody voted for
        keeps its value and its moments; what the downlink still owes of it is sent.

        Returns the payload of the change, uint8; None on another rank than 0. NonFiniteError if the mean or the change is
        not finite, or PeerError where there are several shards. Collective among these.
        """
        change = self.shards.memory(self.state.parameters)
        self.update_norm = float(torch.linalg.vector_norm(self.shards.join(mean.update, change)))
        with self.shards.together():
            self._step(mean, self.shards.within(change), submodel, rewound=rewound)
        self.shards.join(self.shards.within(change), change)
        if not self.shards.leads:
            return None
        self.sender.codec = submodel.codec(self.downlink)
        within = None if submodel.in_turn else submodel.mask
        return self.sender.encode(change, self.state.layout, key, within=within)[0]

    def _step(self, mean: Aggregate, change: Tensor, submodel: Submodel, *, rewound: bool) -> None:
        """Step on this rank's range of the mean, and write there what has changed."""
        if not all_finite(mean.update) or not all_finite(mean.buffers):
            raise NonFiniteError("the mean update holds NaN or infinity: lower the learning rate, or clip the gradient")
        optimizer, stepped = self.optimizer, self._stepped
        before = optimizer.state[stepped]
        self._before = before, self.sender.snapshot()
        mask = submodel.mask
        if rewound:
            optimizer.reset(stepped, torch.ones_like(mean.update, dtype=torch.bool))
            self.sender.load_state_dict({})
        elif mask is not None and not submodel.in_turn:
            optimizer.reset(stepped, ~mask)
        stepped.data, stepped.grad = change.copy_(self.part.parameters), mean.update
        optimizer.step()
        stepped.data, stepped.grad = self.part.parameters, None
        change.sub_(self.part.parameters)
        if mean.voted is not None:
            optimizer.state[stepped] = {
                name: torch.where(mean.voted, moment, before.get(name, optimizer.initial(name)))
                for name, moment in optimizer.state[stepped].items()
            }
            change.mul_(mean.voted)

    def commit(self) -> None:
        """The round has succeeded."""
        self.sender.keep()
        self._before = None

    def rollback(self) -> None:
        """The round has failed: moments and residual as they were before."""
        if self._before is not None:
            moments, sender = self._before
            self.optimizer.state[self._stepped] = moments
            self.sender.restore(sender)
            self._before = None

    def collect_moments(self) -> None:
        """Before `state_dict`: have the moments of all shards on rank 0. Collective among the shards."""
        if self.shards.are_several:
            moments = sorted(self.optimizer.state[self._stepped].items())
            self._collected = {name: self.shards.join(own, self.shards.memory(own)) for name, own in moments}

    def state_dict(self) -> dict[str, dict[str, Tensor]]:
        """On rank 0: the optimizer's moments, as they were collected, and the downlink residual; never written over."""
        collected, self._collected = self._collected, {}
        return {
            "moments": collected or dict(self.optimizer.state[self._stepped]),
            "downlink": self.sender.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Continue from `state_dict()`."""
        device = self.state.parameters.device
        here = {kind: {name: value.to(device) for name, value in own.items()} for kind, own in state.items()}
        moments = here.get("moments", {})
        self.optimizer.state[self._stepped] = {name: self.shards.own(whole) for name, whole in moments.items()}
        if self.shards.leads:
            self.sender.load_state_dict(here.get("downlink", {}))
