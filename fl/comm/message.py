"""Messages: a client's named sections with its report, why there is none, and the server's answer."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from compression import Codec, PayloadError, make_codec
from compression.codec import BUFFERS, most_bytes
from compression.phases import phase
from compression.wire import Sparse
from fl.common.ranks import Ranks
from fl.models.state import ModelState
from fl.models.submodel import WHOLE, Submodel

SECTIONS = ("mask", "squares", "update", "buffers")
"""What a client may send: a mask of its own, squared gradients (PruneFL), its update, its BatchNorm statistics."""
PUBLISHED = ("change", "buffers", "variate")
"""What the server may answer: the change of the parameters, BatchNorm statistics, SCAFFOLD's control variate."""


@dataclass(frozen=True)
class ClientReport:
    """The numbers of a client's round, which travel beside its sections. `sizes`: bytes of each section that it sent."""

    client: int
    samples: int
    train_loss: float
    train_s: float
    kept: int
    sizes: Mapping[str, int] = field(default_factory=dict)
    moved: bool = True
    halved: bool = False

    @property
    def uplink_bytes(self) -> int:
        """Bytes of all sections."""
        return sum(self.sizes.values())

    def row(self) -> list[float]:
        """The numbers that travel, all exact in float64: [COLUMNS]."""
        sizes = [self.sizes.get(name, 0) for name in SECTIONS]
        return [self.samples, self.train_loss, self.train_s, self.kept, self.moved, self.halved, *sizes]

    @classmethod
    def of_row(cls, client: int, row: Sequence[float]) -> "ClientReport":
        """The inverse of `row`."""
        samples, loss, seconds, kept, moved, halved, *sizes = row
        sent = {name: int(size) for name, size in zip(SECTIONS, sizes, strict=True) if size}
        return cls(client, int(samples), loss, seconds, int(kept), sent, bool(moved), bool(halved))


COLUMNS = 6 + len(SECTIONS)


@dataclass(frozen=True)
class Bounds:
    """The largest numbers that a client's report can rightly hold: samples, coordinates kept, and bytes of each section; by
    default those of any payload about so many coordinates."""

    samples: int
    kept: int
    sizes: Mapping[str, int]


def read_report(client: int, row: Sequence[float], bounds: Bounds) -> ClientReport:
    """The report that a peer sent as `row`, float64 [COLUMNS]; PayloadError for numbers that cannot be true."""
    samples, loss, seconds, kept, moved, halved, *sizes = row
    counts = {
        "samples": (samples, 1, bounds.samples),
        "kept": (kept, 0, bounds.kept),
        "moved": (moved, 0, 1),
        "halved": (halved, 0, 1),
        **{
            f"bytes of {name}": (size, 0, bounds.sizes.get(name, most_bytes(bounds.kept)))
            for name, size in zip(SECTIONS, sizes, strict=True)
        },
    }
    for what, (number, low, high) in counts.items():
        if not (low <= number <= high and number == int(number)):
            raise PayloadError(f"it reports {what} = {number:.15g}, which must be a whole number from {low} to {high}")
    if not math.isfinite(loss):
        raise PayloadError(f"it reports a training loss of {loss:g}: lower the learning rate, or clip the gradient")
    if not 0 <= seconds < math.inf:
        raise PayloadError(f"it reports {seconds:g} seconds of training")
    return ClientReport.of_row(client, row)


@dataclass(frozen=True)
class Message:
    """A client's report and its sections, uint8 each."""

    report: ClientReport
    sections: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Rejection:
    """A client whose update does not count: the reason, and the bytes that it sent all the same.

    `error`: what was raised, on the rank where it was.
    """

    client: int
    reason: str
    sent_bytes: int = 0
    error: BaseException | None = None


def encode_buffers(buffers: Tensor) -> dict[str, Tensor]:
    """The section of BatchNorm statistics, exact; none where there are none."""
    return {"buffers": BUFFERS.encode(buffers)[0]} if buffers.numel() else {}


@phase("decode")
def decode_model(
    sections: Mapping[str, Tensor], name: str, state: ModelState, codec: Codec, submodel: Submodel = WHOLE
) -> tuple[Sparse, Sparse | None]:
    """Decode the section `name`, an update or a change, and the buffers of a submodel; PayloadError if they are not
    that."""
    n, m = state.parameters.numel(), submodel.buffer_count(state.buffers.numel())
    empty = state.parameters.new_empty(0, dtype=torch.uint8)
    update = codec.decode(sections.get(name, empty), n, state.layout)
    if not m:
        if "buffers" in sections:
            raise PayloadError(f"{sections['buffers'].numel()} bytes of buffers, and the model has none here")
        return update, None
    buffers = BUFFERS.decode(sections.get("buffers", empty), m)
    return update, submodel.lift_buffers(buffers, state.buffers.numel())


def apply_change(state: ModelState, change: Sparse, buffers: Sparse | None) -> None:
    """Add the decoded change to the global parameters and replace the buffers, in place."""
    change.add_to(state.parameters)
    if buffers is None:
        return
    if buffers.indices is None:
        state.buffers.copy_(buffers.values)
    else:
        state.buffers.index_copy_(0, buffers.indices, buffers.values)


def whole_model(state: ModelState) -> dict[str, Tensor]:
    """The sections of a first download: all of the global model, exact."""
    return {"change": make_codec("none").encode(state.parameters)[0], **encode_buffers(state.buffers)}


def take_model(state: ModelState, sections: Mapping[str, Tensor]) -> None:
    """Have the global model that `whole_model` made these sections of; PayloadError if they are not that."""
    parameters, buffers = decode_model(sections, "change", state, make_codec("none"))
    state.parameters.copy_(parameters.dense())
    if buffers is not None:
        state.buffers.copy_(buffers.values)


def share_model(ranks: Ranks, state: ModelState) -> None:
    """Send rank 0's global model to every rank: the first download."""
    sections = whole_model(state) if ranks.is_server else {}
    names = ("change", "buffers") if state.buffers.numel() else ("change",)
    received = {name: ranks.broadcast(sections.get(name)) for name in names}
    if not ranks.is_server:
        take_model(state, received)
