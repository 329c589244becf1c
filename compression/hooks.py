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

from .codec import Codec
from .draws import derive_key
from .gather import all_gather_payloads
from .layout import Layout
from .make import make_codec
from .sender import Sender


@dataclass
class Traffic:
    """Bytes that crossed this rank's collective calls: payloads handed over, and the other ranks' received."""

    sent_bytes: int = 0
    received_bytes: int = 0
    kept: int = 0
    coordinates: int = 0


class CodecHook:
    """State of `codec_hook`: the codec with its error feedback, and the traffic so far.

    `named_parameters` are those of the module inside DDP. `error_feedback` is "residual", "none" or "dgc:MOMENTUM".
    `group` is DDP's process group (None: the default one); at the first bucket all its ranks make one of their own for
    the payloads. `seed` is that of random choices. With `keeps` False the caller says by `sender.keep()` that a message
    arrived.
    """

    def __init__(
        self,
        spec: str,
        named_parameters: Iterable[tuple[str, Tensor]],
        *,
        error_feedback: str = "residual",
        group: Any = None,
        seed: int = 0,
        keeps: bool = True,
    ) -> None:
        self.sender = Sender(make_codec(spec), error_feedback)
        self.group = group
        self.seed = seed
        self.keeps = keeps
        self.calls = 0
        self.traffic = Traffic()
        self._places = {id(parameter): (at, name) for at, (name, parameter) in enumerate(named_parameters)}
        self._worker: ThreadPoolExecutor | None = None
        self._pending: list[Future[None]] = []
        self._own_group: Any = None

    @property
    def codec(self) -> Codec:
        """The codec of the next message; ratio warm-up replaces it."""
        return self.sender.codec

    def order(self, parameters: Iterable[Tensor]) -> list[int]:
        """Positions of a bucket's parameters, in the order of `named_parameters`.

        Vectors are encoded in that order: the one in a bucket changes after DDP's first iteration, and after a restart.
        """
        parameters = list(parameters)
        if any(id(parameter) not in self._places for parameter in parameters):
            raise ValueError("the bucket holds a parameter that was not among the hook's named_parameters")
        return sorted(range(len(parameters)), key=lambda at: self._places[id(parameters[at])])

    def layout(self, parameters: Iterable[Tensor]) -> Layout:
        """Names and shapes of a bucket's parameters, in the order of `named_parameters`."""
        parameters = list(parameters)
        ordered = [parameters[at] for at in self.order(parameters)]
        return Layout.of((self._places[id(parameter)][1], parameter) for parameter in ordered)

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
        """What this rank's sender remembers, by parameter name, and the number of backward passes so far."""
        return {} if self.codec.plain else {**self.sender.state_dict(), "calls": torch.tensor(self.calls)}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue from `state_dict()`."""
        self.calls = int(state.get("calls", 0))
        self.sender.load_state_dict({name: tensor for name, tensor in state.items() if name != "calls"})


def codec_hook(state: CodecHook, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    """The hook to register; its Future holds the average over ranks, in the bucket's own buffer.

    An uplink of `none` is DDP's own all-reduce. Otherwise the last bucket's call waits for all buckets, since DDP has
    nothing else to do by then, and raises their errors: NonFiniteError on every rank if any rank's gradient holds NaN or
    infinity. (An error in a Future would reach the user as "Unable to cast ... to Tensor".)
    """
    buffer = bucket.buffer()
    if state.codec.plain:
        return _all_reduce(state, buffer)
    parameters = bucket.parameters()
    order, layout = state.order(parameters), state.layout(parameters)
    views = Layout.of((str(at), parameter) for at, parameter in enumerate(parameters)).views(buffer)
    group = state.own_group()
    key = derive_key(state.seed, state.calls, dist.get_rank(state.group), bucket.index())
    state.calls += bucket.is_last()
    cuda = buffer.device.type == "cuda"
    future: torch.futures.Future[Tensor] = torch.futures.Future(devices=[buffer.device] if cuda else None)
    stream = torch.cuda.Stream(buffer.device) if cuda else None
    if stream is not None:
        stream.wait_stream(torch.cuda.current_stream(buffer.device))

    def work() -> None:
        try:
            with torch.no_grad(), torch.cuda.stream(stream) if stream is not None else contextlib.nullcontext():
                _exchange(state, [views[at] for at in order], layout, group, key)
                future.set_result(buffer)
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


def _exchange(state: CodecHook, gradients: list[Tensor], layout: Layout, group: Any, key: int) -> None:
    """Encode, exchange and average one bucket in place; `gradients` are views of it in `layout`'s order."""
    failure: Exception | None = None
    vector = layout.gather(gradients, torch.empty(layout.total, device=gradients[0].device))
    payload = torch.empty(0, dtype=torch.uint8, device=vector.device)
    try:
        payload, decoded = state.sender.encode(vector, layout, key)
        state.traffic.kept += decoded.kept
        state.traffic.coordinates += decoded.n
    except Exception as error:  # whatever it is, the other ranks must not wait for this one's payload
        failure = error
    payloads = all_gather_payloads(payload, group, failure=failure)
    if state.keeps:
        state.sender.keep()
    mean = torch.zeros(layout.total, device=payload.device)
    for received in payloads:
        state.codec.decode(received, mean.numel(), layout).add_to(mean)
    state.traffic.sent_bytes += payload.numel()
    state.traffic.received_bytes += sum(received.numel() for received in payloads) - payload.numel()
    layout.scatter(mean.div_(len(payloads)), gradients)
