"""What a client sends, an update's payload and its buffers' and a report of its training, and what the server answers."""

from dataclasses import dataclass

import torch
from torch import Tensor

from compression import Codec, PayloadError, make_codec
from compression.codec import BUFFERS
from compression.wire import Sparse, dense_bytes
from fl.common.ranks import Ranks
from fl.models.state import ModelState
from fl.models.submodel import WHOLE, Part


def join_payloads(update: Tensor, buffers: Tensor) -> Tensor:
    """An update's payload followed by that of the buffers in fp32, if there are any."""
    if not buffers.numel():
        return update
    return torch.cat((update, BUFFERS.encode(buffers)[0]))


def part_payloads(payload: Tensor, state: ModelState, codec: Codec, part: Part = WHOLE) -> tuple[Sparse, Sparse | None]:
    """The inverse of `join_payloads`, decoded: update and buffers of a `part`; PayloadError if it is no such payload.

    The buffers are exact, so their length is known, and the update may have any format.
    """
    n, m = state.parameters.numel(), part.buffer_count(state.buffers.numel())
    tail = dense_bytes(m) if m else 0
    if payload.numel() < tail:
        raise PayloadError(f"{payload.numel()} bytes are too few for {m} buffers")
    split = payload.numel() - tail
    update = codec.decode(payload[:split], n, state.layout)
    if not m:
        return update, None
    return update, part.lift_buffers(BUFFERS.decode(payload[split:], m), state.buffers.numel())


def apply_change(state: ModelState, change: Sparse, buffers: Sparse | None) -> None:
    """Add the decoded change to the global parameters and replace the buffers, in place."""
    change.add_to(state.parameters)
    if buffers is None:
        return
    if buffers.indices is None:
        state.buffers.copy_(buffers.values)
    else:
        state.buffers.index_copy_(0, buffers.indices, buffers.values)


COLUMNS = 7


@dataclass(frozen=True)
class ClientReport:
    """What rank 0 learns of a client's round besides its update."""

    client: int
    samples: int
    train_loss: float
    train_s: float
    uplink_bytes: int
    kept: int
    side_bytes: int = 0  # of uplink_bytes: what came beside the update
    moved: bool = True

    def row(self) -> list[float]:
        """The numbers that travel, all exact in float64."""
        numbers = [self.uplink_bytes, self.samples, self.train_loss, self.train_s, self.kept, self.side_bytes]
        return [*numbers, self.moved]

    @classmethod
    def of_row(cls, client: int, row: list[float]) -> "ClientReport":
        """The inverse of `row`."""
        size, samples, loss, seconds, kept, side, *moved = row
        return cls(client, int(samples), loss, seconds, int(size), int(kept), int(side), all(moved))


def share_model(ranks: Ranks, state: ModelState) -> None:
    """Rank 0's global model to every rank: the first download."""
    exact = make_codec("none")
    payload = None
    if ranks.is_server:
        payload = join_payloads(exact.encode(state.parameters)[0], state.buffers)
    change, buffers = part_payloads(ranks.broadcast(payload), state, exact)
    if not ranks.is_server:
        state.parameters.copy_(change.dense())
        if buffers is not None:
            state.buffers.copy_(buffers.values)
