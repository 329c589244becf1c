"""The server: averages updates, takes one optimizer step, and encodes the change for everybody."""

from collections.abc import Callable

import torch
from torch import Tensor

from compression import Codec, NonFiniteError, PayloadError, Sender
from compression.codec import BUFFERS
from compression.finite import all_finite
from compression.pruning.inside import Inside
from compression.pruning.masked import MaskedCodec
from compression.wire import Sparse, dense_bytes

from .model_state import ModelState


class Mean:
    """Sample-weighted mean of updates and buffers, added up in the order of the cohort whatever order they arrive in.

    Its memory serves round after round: allocating a model takes ten times as long as adding one up.
    """

    def __init__(self, state: ModelState) -> None:
        self.update = torch.zeros_like(state.parameters)
        self.buffers = torch.zeros_like(state.buffers)
        self.samples = 0

    def reset(self) -> None:
        """Begin another round."""
        self.update.zero_()
        self.buffers.zero_()
        self.samples = 0

    def add(self, update: Sparse, buffers: Sparse | None, samples: int) -> None:
        """Add one client's decoded update and buffers with the weight of its samples."""
        update.add_to(self.update, samples)
        if buffers is not None:
            buffers.add_to(self.buffers, samples)
        self.samples += samples

    def close(self) -> None:
        """Divide by the samples; afterwards `update` [n] and `buffers` [m] hold the means."""
        self.update.div_(self.samples)
        self.buffers.div_(self.samples)


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

    def step(self, mean: Mean, *, key: int = 0, inside: Inside | None = None) -> tuple[Tensor, int, float]:
        """One optimizer step on the mean; `key` seeds the downlink's random choices.

        Outside the mask of `inside` nothing moves and nothing is sent; moments and residuals there are forgotten.

        Returns the broadcast payload, uint8, how many bytes of it are the change, and the norm of the mean update.
        Raises NonFiniteError, with nothing changed, if the mean is not finite; if the change is not, the moments have moved.
        """
        norm = torch.linalg.vector_norm(mean.update)
        if not all_finite(mean.update) or not all_finite(mean.buffers):
            raise NonFiniteError("the mean update holds NaN or infinity: lower the learning rate, or clip the gradient")
        mask = None if inside is None else inside.mask
        if mask is not None:
            self._forget(mask)
        with torch.no_grad():
            self._copy.copy_(self.state.parameters)
        self._copy.grad = mean.update
        self.optimizer.step()
        self._copy.grad = None
        change = torch.empty_like(mean.update) if self._spare is None else self._spare
        torch.sub(self._copy.detach(), self.state.parameters, out=change)
        self.sender.codec = self.downlink if inside is None else MaskedCodec(self.downlink, inside)
        payload, _ = self.sender.encode(change, self.state.layout, key, within=mask)
        free = self.sender.keep()
        self._spare = change if self.sender.feedback == "none" else free
        return join_payloads(payload, mean.buffers), payload.numel(), float(norm)

    def _forget(self, mask: Tensor) -> None:
        """Moments outside the mask as they were at first: the second is tau^2, all others are 0."""
        for name, moment in self.optimizer.state[self._copy].items():
            first = self.optimizer.param_groups[0]["tau"] ** 2 if name == "v" else 0.0
            moment.masked_fill_(~mask, first)

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


def join_payloads(update: Tensor, buffers: Tensor) -> Tensor:
    """An update's payload followed by that of the buffers in fp32, if there are any."""
    if not buffers.numel():
        return update
    return torch.cat((update, BUFFERS.encode(buffers)[0]))


def part_payloads(payload: Tensor, state: ModelState, codec: Codec) -> tuple[Sparse, Sparse | None]:
    """The inverse of `join_payloads`, decoded: update and buffers; PayloadError if it is no such payload.

    The buffers are exact, so their length is known, and the update may have any format.
    """
    n, m = state.parameters.numel(), state.buffers.numel()
    tail = dense_bytes(m) if m else 0
    if payload.numel() < tail:
        raise PayloadError(f"{payload.numel()} bytes are too few for {m} buffers")
    split = payload.numel() - tail
    update = codec.decode(payload[:split], n, state.layout)
    return update, BUFFERS.decode(payload[split:], m) if m else None


def apply_change(state: ModelState, change: Sparse, buffers: Sparse | None) -> None:
    """Add the decoded change to the global parameters and replace the buffers, in place."""
    change.add_to(state.parameters)
    if buffers is not None:
        state.buffers.copy_(buffers.values)
