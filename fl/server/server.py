"""The server: averages updates, takes one optimizer step, and encodes the change for everybody."""

from collections.abc import Callable

import torch
from torch import Tensor

from compression import Codec, NonFiniteError, Sender
from compression.errors import all_finite
from compression.wire import Sparse
from fl.comm.message import join_payloads
from fl.models.state import ModelState
from fl.models.submodel import WHOLE, Part


class Mean:
    """Sample-weighted mean of updates and buffers, added up in the order of the cohort whatever order they arrive in.

    Its memory serves round after round: allocating a model takes ten times as long as adding one up.
    `apart`: clients hold different parts, and the mean of a coordinate is over those that hold it: absence from a sparse
    payload is a zero, absence from a part is no vote. With `damped`, absence from a part is a zero too, so that what few
    clients hold moves less; what nobody holds has no vote either way.
    """

    def __init__(self, state: ModelState, *, apart: bool = False, damped: bool = False) -> None:
        self._state = state
        self._votes = torch.zeros_like(state.parameters) if apart else None
        self._damped = damped
        self._buffer_votes = torch.zeros_like(state.buffers)
        self.update = torch.zeros_like(state.parameters)
        self.buffers = torch.zeros_like(state.buffers)
        self.samples = 0

    def reset(self) -> None:
        """Begin another round."""
        self.update.zero_()
        self.buffers.zero_()
        self.samples = 0
        if self._votes is not None:
            self._votes.zero_()
            self._buffer_votes.zero_()

    def add(
        self,
        update: Sparse,
        buffers: Sparse | None,
        samples: int,
        part: Part = WHOLE,
        *,
        scale: float = 1.0,
        buffer_scale: float = 1.0,
    ) -> None:
        """Add one client's decoded update and buffers, about its part, with the weight of its samples.

        `scale`, in [0, 1], makes its update count for less; the others do not count for more. `buffer_scale`, in [0, 1],
        does the same for its buffers: the global model's fill the rest.
        """
        if self._votes is not None:
            _vote(self._votes, None if part.inside is None else part.inside.support, samples)
            _vote(self._buffer_votes, part.buffers, samples)
        update.add_to(self.update, samples * scale)
        if buffers is not None:
            buffers.add_to(self.buffers, samples * buffer_scale)
            if buffer_scale < 1:
                rest = self._state.buffers if buffers.indices is None else self._state.buffers[buffers.indices]
                Sparse(buffers.n, buffers.indices, rest).add_to(self.buffers, samples * (1 - buffer_scale))
        self.samples += samples

    def close(self) -> None:
        """Divide by the samples; afterwards `update` [n] and `buffers` [m] hold the means.

        Where nobody voted the update is zero, and the buffers are those of the global model.
        """
        if self._votes is None:
            self.update.div_(self.samples)
            self.buffers.div_(self.samples)
            return
        self.update.div_(self.samples if self._damped else self._votes.clamp(min=1))
        means = self.buffers.div_(self._buffer_votes.clamp(min=1))
        self.buffers = torch.where(self._buffer_votes > 0, means, self._state.buffers)

    @property
    def voted(self) -> Tensor | None:
        """Which coordinates somebody held, bool [n]; None: all."""
        return None if self._votes is None else self._votes > 0


class Server:
    """The optimizer, its moments and the downlink residual; made on rank 0 only.

    The optimizer steps a copy of the global parameters; what changed, plus the residual of earlier rounds, is encoded, and
    rank 0 applies the decoded change like everybody else. So the moments never see the downlink's error.
    """

    def __init__(
        self,
        state: ModelState,
        make_optimizer: Callable[[list[Tensor]], torch.optim.Optimizer],
        downlink: Codec,
        *,
        error_feedback: bool,
    ) -> None:
        self.state = state
        self.downlink = downlink
        self.sender = Sender(downlink, "residual" if error_feedback else "none")
        self._spare: Tensor | None = None
        self._copy = torch.nn.Parameter(state.parameters.clone())
        self.optimizer = make_optimizer([self._copy])

    def step(self, mean: Mean, *, key: int = 0, part: Part = WHOLE, rewound: bool = False) -> tuple[Tensor, int, float]:
        """One optimizer step on the mean; `key` seeds the downlink's random choices.

        Outside `part`, what all clients hold, nothing moves and nothing is sent; moments and residuals there are
        forgotten, and all of them where the weights were `rewound`. A coordinate that nobody voted for keeps its value
        and its moments; what the downlink still owes of it is sent.

        Returns the broadcast payload, uint8, how many bytes of it are the change, and the norm of the mean update.
        Raises NonFiniteError, with nothing changed, if the mean is not finite; if the change is not, the moments have moved.
        """
        norm = torch.linalg.vector_norm(mean.update)
        if not all_finite(mean.update) or not all_finite(mean.buffers):
            raise NonFiniteError("the mean update holds NaN or infinity: lower the learning rate, or clip the gradient")
        mask = None if part.inside is None else part.inside.mask
        if mask is not None:
            self._forget(torch.zeros_like(mask) if rewound else mask)
        if rewound:
            self.sender.load_state_dict({})
        with torch.no_grad():
            self._copy.copy_(self.state.parameters)
        voted = mean.voted
        self._step(mean.update, voted)
        change = torch.empty_like(mean.update) if self._spare is None else self._spare
        torch.sub(self._copy.detach(), self.state.parameters, out=change)
        if voted is not None:
            change.mul_(voted)
        self.sender.codec = part.codec(self.downlink)
        payload, _ = self.sender.encode(change, self.state.layout, key, within=mask)
        free = self.sender.keep()
        self._spare = change if self.sender.feedback == "none" else free
        return join_payloads(payload, part.gather_buffers(mean.buffers)), payload.numel(), float(norm)

    def _step(self, gradient: Tensor, voted: Tensor | None) -> None:
        """Step the copy; where `voted` is False the moments stay as they were."""
        moments = self.optimizer.state[self._copy]
        before = {} if voted is None else {name: moment.clone() for name, moment in moments.items()}
        self._copy.grad = gradient
        self.optimizer.step()
        self._copy.grad = None
        if voted is not None:
            for name, moment in self.optimizer.state[self._copy].items():
                old = before.get(name)
                moment.copy_(torch.where(voted, moment, self._initial(name) if old is None else old))

    def _forget(self, mask: Tensor) -> None:
        """Moments outside the mask as they were at first: the second is tau^2, all others are 0."""
        for name, moment in self.optimizer.state[self._copy].items():
            moment.masked_fill_(~mask, self._initial(name))

    def _initial(self, moment: str) -> float:
        return float(self.optimizer.param_groups[0]["tau"] ** 2) if moment == "v" else 0.0

    def state_dict(self) -> dict[str, Tensor]:
        """The optimizer's moments and the downlink residual, by name."""
        moments = {f"optimizer.{name}": value for name, value in self.optimizer.state[self._copy].items()}
        return {**moments, **{f"downlink.{name}": value for name, value in self.sender.state_dict().items()}}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from `state_dict()`."""
        device = self.state.parameters.device
        self.optimizer.state[self._copy] = {
            name.removeprefix("optimizer."): value.to(device)
            for name, value in state.items()
            if name.startswith("optimizer.")
        }
        self.sender.load_state_dict(
            {
                name.removeprefix("downlink."): value.to(device)
                for name, value in state.items()
                if name.startswith("downlink.")
            }
        )


def _vote(votes: Tensor, held: Tensor | None, samples: int) -> None:
    if held is None:
        votes.add_(samples)
    else:
        votes.index_add_(0, held, votes.new_full((1,), samples).expand(held.numel()))
