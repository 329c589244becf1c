"""Codecs as communication hooks of DistributedDataParallel, on gloo and NCCL.

    state = CodecHook("topk:0.01+bf16", ddp.module.named_parameters())
    ddp.register_comm_hook(state, codec_hook)

For each bucket: (1) add this rank's residual; (2) encode, keep what was not sent as the new residual; (3) tell the sizes,
then send every payload to every rank at its exact size; (4) decode all payloads in rank order and average. Every rank
decodes the same bytes in the same order, so all ranks hold the same average, bit for bit.

The work of a bucket is done on one thread a hook, bucket after bucket: it overlaps with the backward pass, and all ranks
start their collectives in the same order. They have a process group of their own, since DDP itself (unused parameters,
SyncBatchNorm) calls collectives from the main thread meanwhile, in an order that differs from rank to rank.
"""

import contextlib
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .codec import make_codec
from .feedback import Residuals
from .gather import all_gather_payloads
from .layout import Layout


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
    process group (None: the default one); at the first bucket all its ranks make one of their own for the payloads.
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
        self._pending: list[Future[None]] = []
        self._own_group: Any = None

    def layout(self, parameters: Iterable[Tensor]) -> Layout:
        """Names and shapes of a bucket's parameters."""
        pairs = []
        for parameter in parameters:
            name = self._names.get(id(parameter))
            if name is None:
                raise ValueError("the bucket holds a parameter that was not among the hook's named_parameters")
            pairs.append((name, parameter))
        return Layout.of(pairs)

    def own_group(self) -> Any:
        """The process group for payloads, of the ranks of `group`; all of them make it at their first call."""
        if self._own_group is None:
            self._own_group = dist.new_group(
                dist.get_process_group_ranks(self.group),
                backend=None if self.group is None else dist.get_backend(self.group),
                use_local_synchronization=True,
            )
        return self._own_group

    def submit(self, work: Callable[[], None], *, first: bool, last: bool) -> None:
        """Run `work()` on the hook's thread, after what was submitted before.

        With `last` wait for all since `first`, and raise what any of them raised.
        """
        if self._worker is None:
            self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="codec_hook")
        if first:
            self._pending = []
        self._pending.append(self._worker.submit(work))
        if last:
            pending, self._pending = self._pending, []
            wait(pending)  # all, before any error: nothing of this hook may be on the wire when the program goes on
            for item in pending:
                item.result()

    def state_dict(self) -> dict[str, Tensor]:
        """Residuals of this rank by parameter name."""
        return self.residuals.state_dict()

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from the residuals of `state_dict()`."""
        self.residuals.load_state_dict(state)


def codec_hook(state: CodecHook, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    """The hook to register; its Future holds the average over ranks, in the bucket's own buffer.

    An uplink of `none` is DDP's own all-reduce. Otherwise the last bucket's call waits for all buckets, since DDP has
    nothing else to do by then, and raises their errors: NonFiniteError on every rank if any rank's gradient holds NaN or
    infinity. (An error in a Future would reach the user as "Unable to cast ... to Tensor".)
    """
    buffer = bucket.buffer()
    if state.codec.lossless:
        return _all_reduce(state, buffer)
    layout = state.layout(bucket.parameters())
    group = state.own_group()
    cuda = buffer.device.type == "cuda"
    future: torch.futures.Future[Tensor] = torch.futures.Future(devices=[buffer.device] if cuda else None)
    stream = torch.cuda.Stream(buffer.device) if cuda else None
    if stream is not None:
        stream.wait_stream(torch.cuda.current_stream(buffer.device))

    def work() -> None:
        try:
            with torch.no_grad(), torch.cuda.stream(stream) if stream is not None else contextlib.nullcontext():
                future.set_result(_exchange(state, buffer, layout, group))
        except Exception as error:
            future.set_exception(error)  # type: ignore[arg-type]
            raise

    state.submit(work, first=bucket.index() == 0, last=bucket.is_last())
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


def _exchange(state: CodecHook, buffer: Tensor, layout: Layout, group: Any) -> Tensor:
    """Encode, exchange and average one bucket in place."""
    failure: Exception | None = None
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
    except Exception as error:  # whatever it is, the other ranks must not wait for this one's payload
        failure = error
    payloads = all_gather_payloads(payload, group, failure=failure)
    if residual is not None:
        state.residuals.store(layout, residual)
    mean = torch.zeros(buffer.numel(), device=buffer.device)
    for received in payloads:
        state.codec.decode(received, mean.numel()).add_to(mean)
    state.traffic.sent_bytes += payload.numel()
    state.traffic.received_bytes += sum(received.numel() for received in payloads) - payload.numel()
    return buffer.copy_(mean.div_(len(payloads)))
