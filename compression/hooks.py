"""Codecs as communication hooks of DistributedDataParallel, on gloo and NCCL.

    state = CodecHook("topk:0.01+bf16", ddp.module.named_parameters())
    ddp.register_comm_hook(state, codec_hook)

For each bucket: (1) add this rank's residual; (2) encode, keep what was not sent as the new residual; (3) tell the sizes,
then send every payload to every rank at its exact size; (4) decode all payloads in rank order and average. Every rank
decodes the same bytes in the same order, so all ranks hold the same average, bit for bit.

The work of a bucket is done on one thread a hook, bucket after bucket: it overlaps with the backward pass, and all ranks
start their collectives in the same order.
"""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .codec import make_codec
from .errors import NonFiniteError
from .feedback import Residuals
from .layout import Layout

_FAILED = -1


@dataclass
class Traffic:
    """Bytes that crossed this rank's collective calls: payloads handed over, and the other ranks' received."""

    sent_bytes: int = 0
    received_bytes: int = 0
    kept: int = 0
    coordinates: int = 0


class CodecHook:
    """State of `codec_hook`: the codec, the residuals by parameter name, and the traffic so far.

    `named_parameters` are those of the module inside DDP. `error_feedback` is "residual" or "none". `group` is DDP's
    process group (None: the default one).
    """

    def __init__(
        self,
        spec: str,
        named_parameters: Iterable[tuple[str, Tensor]],
        *,
        error_feedback: str = "residual",
        group: Any = None,
    ) -> None:
        if error_feedback not in ("none", "residual"):
            raise ValueError(f"error_feedback must be none or residual, not '{error_feedback}'")
        self.codec = make_codec(spec)
        self.residuals = Residuals()
        self.error_feedback = error_feedback == "residual" and not self.codec.lossless
        self.group = group
        self.traffic = Traffic()
        self._names = {id(parameter): name for name, parameter in named_parameters}
        self._worker: ThreadPoolExecutor | None = None

    def layout(self, parameters: Iterable[Tensor]) -> Layout:
        """Names and shapes of a bucket's parameters."""
        pairs = []
        for parameter in parameters:
            name = self._names.get(id(parameter))
            if name is None:
                raise ValueError("the bucket holds a parameter that was not among the hook's named_parameters")
            pairs.append((name, parameter))
        return Layout.of(pairs)

    def submit(self, work: Any, *args: Any) -> None:
        """Run `work(*args)` on the hook's thread, after what was submitted before."""
        if self._worker is None:
            self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="codec_hook")
        self._worker.submit(work, *args)

    def state_dict(self) -> dict[str, Tensor]:
        """Residuals of this rank by parameter name."""
        return self.residuals.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from the residuals of `state_dict()`."""
        self.residuals.load_state_dict(state)


def codec_hook(state: CodecHook, bucket: Any) -> torch.futures.Future[Tensor]:
    """The hook to register; its Future holds the average over ranks, in the bucket's own buffer.

    An uplink of `none` is DDP's own all-reduce. Raises (through the Future) NonFiniteError on every rank if any rank's
    gradient holds NaN or infinity.
    """
    buffer = bucket.buffer()
    if state.codec.lossless:
        return _all_reduce(state, buffer)
    layout = state.layout(bucket.parameters())
    cuda = buffer.device.type == "cuda"
    future: torch.futures.Future[Tensor] = torch.futures.Future(devices=[buffer.device] if cuda else None)
    stream = torch.cuda.Stream(buffer.device) if cuda else None
    if stream is not None:
        stream.wait_stream(torch.cuda.current_stream(buffer.device))

    def work() -> None:
        try:
            with torch.cuda.stream(stream), torch.no_grad():
                future.set_result(_exchange(state, buffer, layout))
        except Exception as error:
            future.set_exception(error)  # type: ignore[arg-type]

    state.submit(work)
    return future


def _all_reduce(state: CodecHook, buffer: Tensor) -> torch.futures.Future[Tensor]:
    buffer.mul_(1.0 / dist.get_world_size(state.group))
    size = buffer.numel() * buffer.element_size()
    state.traffic.sent_bytes += size
    state.traffic.received_bytes += size
    state.traffic.kept += buffer.numel()
    state.traffic.coordinates += buffer.numel()
    work = dist.all_reduce(buffer, group=state.group, async_op=True)
    return work.get_future().then(lambda done: done.value()[0])


def _exchange(state: CodecHook, buffer: Tensor, layout: Layout) -> Tensor:
    """Encode, exchange and average one bucket in place."""
    failure: NonFiniteError | None = None
    residual = None
    payload = torch.empty(0, dtype=torch.uint8, device=buffer.device)
    flat = buffer.float()
    try:
        if state.error_feedback:
            old = state.residuals.flat(layout, flat)
            payload, decoded, residual = state.codec.encode_with_residual(flat.clone(), old, layout)
        else:
            payload, decoded = state.codec.encode(flat, layout)
        state.traffic.kept += decoded.kept
        state.traffic.coordinates += decoded.n
    except NonFiniteError as error:
        failure = error
    payloads = all_gather_payloads(payload, state.group, failed=failure is not None)
    if payloads is None:
        raise failure or NonFiniteError("another rank's gradient holds NaN or infinity")
    if residual is not None:
        state.residuals.store(layout, residual)
    mean = torch.zeros(buffer.numel(), device=buffer.device)
    for received in payloads:
        state.codec.decode(received, mean.numel()).add_to(mean)
    state.traffic.sent_bytes += payload.numel()
    state.traffic.received_bytes += sum(received.numel() for received in payloads) - payload.numel()
    return buffer.copy_(mean.div_(len(payloads)))


def all_gather_payloads(payload: Tensor, group: Any = None, *, failed: bool = False) -> list[Tensor] | None:
    """Every rank's payload, uint8 of any length, in rank order; None on every rank if any of them says `failed`."""
    rank, world = dist.get_rank(group), dist.get_world_size(group)
    sizes = torch.zeros(world, dtype=torch.int64, device=payload.device)
    sizes[rank] = _FAILED if failed else payload.numel()
    dist.all_reduce(sizes, group=group)
    lengths = sizes.tolist()
    if min(lengths) < 0:
        return None
    payloads = [
        payload if source == rank else torch.empty(length, dtype=torch.uint8, device=payload.device)
        for source, length in enumerate(lengths)
    ]
    works = [
        dist.broadcast(buffer, _global_rank(source, group), group=group, async_op=True)
        for source, buffer in enumerate(payloads)
    ]
    for work in works:
        work.wait()
    return payloads


def _global_rank(rank: int, group: Any) -> int:
    return rank if group is None else dist.get_global_rank(group, rank)
