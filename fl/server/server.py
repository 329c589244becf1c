"""The server: takes one optimizer step on what the updates of a round come to, and encodes the change for everybody."""

from collections.abc import Callable

import torch
from torch import Tensor

from compression import Codec, NonFiniteError, Sender
from compression.errors import all_finite
from fl.comm.message import join_payloads
from fl.models.state import ModelState
from fl.models.submodel import WHOLE, Part

from .aggregate import Aggregate
from .optimizers import ServerOptimizer


class Server:
    """The optimizer, its moments and the downlink residual; made on rank 0 only.

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
    ) -> None:
        self.state = state
        self.downlink = downlink
        self.sender = Sender(downlink, "residual" if error_feedback else "none")
        self._spare: Tensor | None = None
        self._copy = torch.nn.Parameter(state.parameters.clone())
        self.optimizer = make_optimizer([self._copy])

    def step(
        self, mean: Aggregate, *, key: int = 0, part: Part = WHOLE, rewound: bool = False
    ) -> tuple[Tensor, int, float]:
        """One optimizer step on the mean of a round; `key` seeds the downlink's random choices.

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
            self.optimizer.reset(self._copy, torch.ones_like(mask) if rewound else ~mask)
        if rewound:
            self.sender.load_state_dict({})
        with torch.no_grad():
            self._copy.copy_(self.state.parameters)
        self._step(mean.update, mean.voted)
        change = torch.empty_like(mean.update) if self._spare is None else self._spare
        torch.sub(self._copy.detach(), self.state.parameters, out=change)
        if mean.voted is not None:
            change.mul_(mean.voted)
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
                moment.copy_(torch.where(voted, moment, self.optimizer.initial(name) if old is None else old))

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
