"""What a codec does to real updates: bytes, seconds here, and how much of them it leaves behind."""

import dataclasses
import math
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor

from compression import NonFiniteError, Sender, make_codec
from compression.describe import Description
from compression.wire import Sparse
from fl.comm.encoder import CodecSchedule, Encoder
from fl.comm.message import Message
from fl.models.update import Job

from .updates import Published, Recording

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Measured:
    """A codec in one direction.

    `cost`: bytes and seconds of one message, medians; its bytes count what travels beside the codec's payload too.
    Of the first message, u the update and d what arrives: `error` is |u - d| / |u|, `cosine` that of the angle between
    them, `energy` the share of |u|^2 that lies on coordinates of d. After the last of a run's messages that were looked at,
    with U the sum of all updates and D of all that arrived: `behind` is |U - D| / |U|, infinite if it diverged.
    `by_shape`: as the codec's.
    """

    cost: Description
    error: float
    cosine: float
    energy: float
    behind: float
    by_shape: bool = False

    @property
    def rounds(self) -> float:
        """How many rounds it takes for one round without compression: 1 / (1 - behind^2); see docs/advise.md."""
        return 1 / (1 - self.behind**2) if self.behind < 1 else math.inf


@dataclass(frozen=True)
class _Message:
    """An update [n], what arrived of it, and what that took."""

    update: Tensor
    arrived: Sparse
    payload_bytes: int
    encode_s: float
    decode_s: float


def measure_uplink(recording: Recording, specs: Iterable[str], feedback: str) -> list[Measured]:
    """Each codec on the client's updates, as its encoder and the server would have used it. The first one is `none`.

    NonFiniteError for updates that nothing can code."""
    return _each(
        specs,
        lambda spec: _judged(
            spec, _uplink(recording, spec, _feedback(spec, feedback)), recording.uplink_rounds, recording.other_bytes[0]
        ),
    )


def measure_downlink(recording: Recording, specs: Iterable[str], feedback: str) -> list[Measured]:
    """Each codec on the server's changes, as the server and a client would have used it. The first one is `none`."""
    feedback = "none" if feedback == "none" else "residual"
    return _each(
        specs,
        lambda spec: _judged(
            spec, _downlink(recording, spec, feedback), recording.downlink_rounds, recording.other_bytes[1]
        ),
    )


def _each(specs: Iterable[str], measure: Callable[[str], Measured]) -> list[Measured]:
    found: list[Measured] = []
    for spec in specs:
        try:
            found.append(measure(spec))
        except NonFiniteError:  # it cannot code such updates
            if not found:
                raise
    dense = found[0].cost.payload_bytes
    return [dataclasses.replace(one, cost=dataclasses.replace(one.cost, dense_bytes=dense)) for one in found]


def _feedback(spec: str, feedback: str) -> str:
    """`none` has nothing to feed back, and some kinds of feedback do not go with it."""
    return "none" if spec == "none" else feedback


def _uplink(recording: Recording, spec: str, feedback: str) -> Iterator[_Message]:
    rounds, out = recording.rounds, torch.zeros_like(recording.rounds.state.parameters)
    usual = rounds.encoder
    encoder = Encoder(CodecSchedule(spec), feedback, usual.fractions, usual.layout, usual.seed)

    def decode(message: Message, job: Job) -> None:
        rounds.decode(message, job.submodel, encoder.codec(job))[0].add_to(out)

    kept: dict[str, Tensor] = {}
    for sent in recording.uplink:
        job = dataclasses.replace(sent.job, state={"sender": kept})
        update = dataclasses.replace(sent.update, values=sent.update.values.clone())
        encode_s, (message, arrived, kept) = _timed(
            out.device, encoder.encode, job, update, sent.sections, sent.residual_mask
        )
        decode_s, _ = _timed(out.device, decode, message, job)
        yield _Message(sent.update.values, arrived, message.report.sizes["update"], encode_s, decode_s)


def _downlink(recording: Recording, spec: str, feedback: str) -> Iterator[_Message]:
    layout, out = recording.layout, torch.zeros_like(recording.rounds.state.parameters)
    codec = make_codec(spec)
    sender = Sender(codec, feedback)

    def encode(change: Tensor, published: Published) -> tuple[Tensor, Sparse]:
        return sender.encode(change, layout, published.key, within=published.submodel.mask)

    def decode(payload: Tensor) -> None:
        sender.codec.decode(payload, layout.total, layout).add_to(out)

    for published in recording.downlink:
        sender.codec = published.submodel.codec(codec)
        encode_s, (payload, arrived) = _timed(out.device, encode, published.change.clone(), published)
        sender.keep()
        decode_s, _ = _timed(out.device, decode, payload)
        yield _Message(published.change, arrived, payload.numel(), encode_s, decode_s)


def _judged(spec: str, messages: Iterator[_Message], rounds: int, other_bytes: int) -> Measured:
    """`rounds`: after how many messages one looks at what is behind."""
    sizes: list[int] = []
    encode_s: list[float] = []
    decode_s: list[float] = []
    kept = 0
    behind, first = math.inf, (math.nan, math.nan, math.nan)
    total = arrived = torch.zeros(0)
    try:
        for message in messages:
            u, d = message.update, message.arrived.dense()
            if not sizes:
                total, arrived, first = torch.zeros_like(u), torch.zeros_like(u), _first(u, d)
            total += u
            arrived += d
            sizes.append(message.payload_bytes)
            encode_s.append(message.encode_s)
            decode_s.append(message.decode_s)
            kept = message.arrived.kept
            if len(sizes) == rounds:
                behind = _ratio((total - arrived).norm(), total.norm())
    except NonFiniteError:
        if not sizes:
            raise
        behind = math.inf  # what error feedback adds up grows without end
    size = round(statistics.median(sizes)) + other_bytes
    cost = Description(
        spec=spec,
        coordinates=total.numel(),
        values_sent=kept,
        payload_bytes=size,
        dense_bytes=size,
        encode_s=statistics.median(encode_s),
        decode_s=statistics.median(decode_s),
    )
    return Measured(cost, *first, behind, make_codec(spec).by_shape)


def _first(u: Tensor, d: Tensor) -> tuple[float, float, float]:
    """Error, cosine and energy of a message."""
    u, d = u.double(), d.double()  # sums of millions of squares
    return (
        _ratio((u - d).norm(), u.norm()),
        _ratio(u @ d, u.norm() * d.norm()),
        _ratio(u[d != 0].square().sum(), u.square().sum()),
    )


def _ratio(a: Tensor, b: Tensor) -> float:
    """a / b; 0 of nothing is 0."""
    return float(a / b) if b else 0.0


def _timed(device: torch.device, work: Callable[..., _Result], *arguments: Any) -> tuple[float, _Result]:
    _wait(device)
    started = time.perf_counter()
    result = work(*arguments)
    _wait(device)
    return time.perf_counter() - started, result


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
