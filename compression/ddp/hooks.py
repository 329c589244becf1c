"""Codecs as communication hooks of DistributedDataParallel, whatever its backend.

    state = CodecHook("topk:0.01+bf16", ddp.module.named_parameters())
    ddp.register_comm_hook(state, codec_hook)

For each bucket: (1) add this rank's residual; (2) encode, keep what was not sent as the new residual; (3) tell the sizes,
then send every payload to every rank at its exact size; (4) decode all payloads in rank order and average. Every rank
decodes the same bytes in the same order, so all ranks hold the same average, bit for bit.

The work of a bucket is done on one thread a hook, bucket after bucket: it overlaps with the backward pass, and all ranks
start their collectives in the same order. DDP itself (unused parameters, SyncBatchNorm) calls collectives from the main
thread meanwhile, in an order that differs from rank to rank. So the hook has a process group of its own, and always of
gloo: two NCCL communicators must not be used at the same time from two threads.

A parameter that no rank used since the last exchange is left out: DDP would leave its gradient alone, and throw away what
was sent for it.
"""

import contextlib
import itertools
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from ..codec import Codec
from ..draws import derive_key
from ..layout import Layout, as_real
from ..make import make_codec
from ..phases import phase
from ..sender import Sender
from .bucket import FlatBucket
from .gather import all_gather_payloads


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
        named = list(named_parameters)
        self._places = {id(parameter): (at, name) for at, (name, parameter) in enumerate(named)}
        self.some_unused = False
        """Whether some rank once did not use a parameter: all ranks know, and from then on tell each other which."""
        self._touched: set[int] = set()
        self._watched = _watch([parameter for _, parameter in named], self._touched)
        self._streams: dict[torch.device, torch.cuda.Stream] = {}
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
        return Layout.of((self._places[id(parameter)][1], as_real(parameter)) for parameter in ordered)

    def take_used(self, parameters: Iterable[Tensor]) -> list[bool]:
        """Whether each of a bucket's parameters got a gradient on this rank since it was last asked for here."""
        numbers = [id(parameter) for parameter in parameters]
        used = [number in self._touched or number not in self._watched for number in numbers]
        self._touched.difference_update(numbers)
        return used

    def own_group(self) -> Any:
        """The gloo group for payloads, of the ranks of `group`; all of them make it at their first call."""
        if self._own_group is None:
            self._own_group = dist.new_group(
                dist.get_process_group_ranks(self.group), backend="gloo", use_local_synchronization=True
            )
        return self._own_group

    def stream(self, device: torch.device) -> torch.cuda.Stream:
        """The hook's stream on a GPU, always the same: freed memory waits for reuse on the stream that it was used on."""
        if device not in self._streams:
            self._streams[device] = torch.cuda.Stream(device)
        return self._streams[device]

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
    if isinstance(bucket, tuple):
        raise RuntimeError(
            'codec_hook needs the buckets of DDP\'s own reducer, and torch._dynamo.config.optimize_ddp = "python_reducer" '
            'makes none: set it to "ddp_optimizer"'
        )
    buffer = bucket.buffer()
    if state.codec.plain:
        return _all_reduce(state, buffer)
    if buffer.is_sparse:
        raise ValueError(
            f"the codec {state.codec.spec} cannot encode sparse gradients: make embeddings with sparse=False, or use none"
        )
    parameters = bucket.parameters()
    order, layout = state.order(parameters), state.layout(parameters)
    views = Layout.of((str(at), as_real(parameter)) for at, parameter in enumerate(parameters)).views(buffer)
    used = state.take_used(parameters)
    if isinstance(bucket, FlatBucket):  # a vector of the caller's own, whatever backward passes there were
        used = [True] * len(used)
    pieces = [(views[at], used[at]) for at in order]
    group = state.own_group()
    key = derive_key(state.seed, state.calls, dist.get_rank(state.group), bucket.index())
    state.calls += bucket.is_last()
    cuda = buffer.device.type == "cuda"
    future: torch.futures.Future[Tensor] = torch.futures.Future(devices=[buffer.device] if cuda else None)
    stream = state.stream(buffer.device) if cuda else None
    ready = torch.cuda.current_stream(buffer.device).record_event() if cuda else None

    def work() -> None:
        try:
            with torch.no_grad(), torch.cuda.stream(stream) if stream is not None else contextlib.nullcontext():
                if stream is not None and ready is not None:
                    stream.wait_event(ready)  # here, lest the bucket before this one wait for it too
                _exchange(state, pieces, layout, group, key)
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


def _exchange(state: CodecHook, pieces: list[tuple[Tensor, bool]], layout: Layout, group: Any, key: int) -> None:
    """Encode, exchange and average one bucket in place.

    `pieces`: for each of `layout`'s parameters, its view of the bucket, and whether this rank used it.
    """
    used = [own for _, own in pieces]
    if state.some_unused:
        used = _used_by_any(used, group)
        pieces, layout = list(itertools.compress(pieces, used)), layout.part(used)
        if not pieces:
            return
    gradients = [gradient for gradient, _ in pieces]
    device = gradients[0].device
    payload: Tensor | None = None
    failure: Exception | None = None
    kept = 0
    if state.some_unused or all(used):
        try:
            vector = torch.empty(layout.total, dtype=torch.float32, device=device)
            encoded, decoded = state.sender.encode(layout.gather(gradients, vector), layout, key)
            payload, kept = encoded.cpu(), decoded.kept
        except Exception as error:  # whatever it is, the other ranks must not wait for this one's payload
            failure = error
    with phase("transfer"):
        payloads = all_gather_payloads(payload, group, failure=failure)
    if payload is None or payloads is None:
        state.sender.forget()
        state.some_unused = True
        _exchange(state, pieces, layout, group, key)
        return
    if state.keeps:
        state.sender.keep()
    with phase("decode"):
        mean = torch.zeros(layout.total, dtype=torch.float32, device=device)
        for received in payloads:
            state.codec.decode(received.to(device), layout.total, layout).add_to(mean)
    state.traffic.kept += kept
    state.traffic.coordinates += layout.total
    state.traffic.sent_bytes += payload.numel()
    state.traffic.received_bytes += sum(received.numel() for received in payloads) - payload.numel()
    layout.scatter(mean.div_(len(payloads)), gradients)


@phase("transfer")
def _used_by_any(used: list[bool], group: Any) -> list[bool]:
    """Whether any rank used each parameter: one byte each, in one all-reduce."""
    flags = torch.tensor(used, dtype=torch.uint8, device="cpu")
    dist.all_reduce(flags, op=dist.ReduceOp.MAX, group=group)
    return flags.bool().tolist()


def _watch(parameters: list[Tensor], touched: set[int]) -> set[int]:
    """Have the number of each parameter put into `touched` when it gets a gradient; returns the numbers of all of these.

    DDP does not tell its hooks which gradients of a bucket are there, and a gradient that nobody cleared looks like one.
    """

    def mark(parameter: Tensor) -> None:
        if parameter.grad is not None:  # it is called for gradients that are not defined, too
            touched.add(id(parameter))

    trainable = [parameter for parameter in parameters if parameter.requires_grad]
    for parameter in trainable:
        parameter.register_post_accumulate_grad_hook(mark)
    return {id(parameter) for parameter in trainable}
