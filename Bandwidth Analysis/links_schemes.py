"""Ways to bring a round's update from a client to the server, as `measure_links.py` compares them.

A `PayloadScheme` is one message to rank 0, by the transport of `fl/comm/transport.py`: the sizes in a small
all-reduce, then each payload at its exact size. A `HookScheme` is a DDP communication hook, whose all-reduces give every
rank the average.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from compression import FlatBucket, Layout, Sender, make_codec
from fl.comm.ddp_hooks import count_collectives, load_hook

_HOOKS = "torch.distributed.algorithms.ddp_comm_hooks"
POWERSGD = f"{_HOOKS}.powerSGD_hook:powerSGD_hook,matrix_approximation_rank=4,start_powerSGD_iter=2"
ALLREDUCE = f"{_HOOKS}.default_hooks:allreduce_hook"
WARM_UP = 3  # exchanges before anything counts: PowerSGD's first two are dense


class PayloadScheme(ABC):
    """Encode on the client, decode and add up on the server."""

    all_reduce = False

    @abstractmethod
    def encode(self, update: Tensor) -> Tensor:
        """The payload of `update`, fp32 [n], which is used up: uint8."""

    @abstractmethod
    def add(self, payload: Tensor, out: Tensor) -> None:
        """Decode a payload and add it to `out`, fp32 [n]."""

    def kept(self) -> None:
        """The first message arrived: from now on there is a residual, if the scheme has one."""


class CodecScheme(PayloadScheme):
    """A codec of this project with its error feedback. Every message after `kept` is the update plus that residual."""

    def __init__(self, spec: str, layout: Layout) -> None:
        self.sender, self.layout = Sender(make_codec(spec)), layout

    def encode(self, update: Tensor) -> Tensor:
        """As in `PayloadScheme.encode`."""
        self.sender.forget()
        return self.sender.encode(update, self.layout, 0)[0]

    def add(self, payload: Tensor, out: Tensor) -> None:
        """As in `PayloadScheme.add`."""
        self.sender.codec.decode(payload, self.layout.total, self.layout).add_to(out)

    def kept(self) -> None:
        """As in `PayloadScheme.kept`."""
        self.sender.keep()


class UsualTopK(PayloadScheme):
    """The largest `ratio` of the magnitudes, each as its position (int32) and its value (fp32), by `torch.topk`."""

    def __init__(self, ratio: float) -> None:
        self.ratio = ratio

    def encode(self, update: Tensor) -> Tensor:
        """As in `PayloadScheme.encode`."""
        at = torch.topk(update.abs(), round(self.ratio * update.numel())).indices
        return torch.cat((at.to(torch.int32).view(torch.uint8), update[at].view(torch.uint8)))

    def add(self, payload: Tensor, out: Tensor) -> None:
        """As in `PayloadScheme.add`."""
        positions, values = payload.chunk(2)
        out.index_add_(0, positions.view(torch.int32), values.view(torch.float32))


class HookScheme:
    """A hook on one bucket, the parameters in reverse order, as DDP's are. `group` is None for all ranks."""

    all_reduce = True

    def __init__(self, hook: str, layout: Layout, group: Any = None) -> None:
        self.state, self.hook = load_hook(hook)
        if self.state is not None:
            self.state.process_group = group
        elif group is not None:
            self.state = group  # allreduce_hook's state is its group
        self.layout = layout
        self.sent_bytes = 0

    def run(self, update: Tensor) -> Tensor:
        """The average of all ranks' updates, fp32 [n], in reverse order of the tensors; `sent_bytes` is what it took."""
        views = list(reversed(self.layout.views(update)))
        bucket = FlatBucket(torch.cat([view.flatten() for view in views]), views)
        with count_collectives() as traffic:
            average = self.hook(self.state, bucket).wait()
        self.sent_bytes = traffic.sent_bytes
        return average[0] if isinstance(average, list) else average


Scheme = PayloadScheme | HookScheme
SCHEMES: dict[str, Callable[[Layout, Any], Scheme]] = {
    "fp32, payload": lambda layout, _: CodecScheme("none", layout),
    "fp16, payload": lambda layout, _: CodecScheme("fp16", layout),
    "top-k 1 %, int32 + fp32": lambda *_: UsualTopK(0.01),
    "ours: topk:0.01+bf16": lambda layout, _: CodecScheme("topk:0.01+bf16", layout),
    "ours: topk:0.01+log3+zstd": lambda layout, _: CodecScheme("topk:0.01+log3+zstd", layout),
    "fp32, all-reduce": lambda layout, group: HookScheme(ALLREDUCE, layout, group),
    "PowerSGD rank 4, all-reduce": lambda layout, group: HookScheme(POWERSGD, layout, group),
}
"""Every scheme by its name in the table: a function of the layout and, for a hook, the process group."""


def send_to_server(payload: Tensor | None, rank: int, world_size: int) -> list[Tensor]:
    """Each client's payload to rank 0, which passes None; returns them there, in the clients' order."""
    sizes = torch.zeros(world_size, dtype=torch.int64)
    sizes[rank] = 0 if payload is None else payload.numel()
    dist.all_reduce(sizes)
    if rank:
        assert payload is not None
        operations, arrived = [dist.P2POp(dist.isend, payload, 0)], []
    else:
        arrived = [torch.empty(size, dtype=torch.uint8) for size in sizes.tolist()[1:]]
        operations = [dist.P2POp(dist.irecv, each, source) for source, each in enumerate(arrived, start=1)]
    for work in dist.batch_isend_irecv(operations):
        work.wait()
    return arrived


def alone(scheme: Scheme, update: Tensor, repeats: int = 5) -> tuple[int, float, float]:
    """What a scheme takes without a network: (bytes sent, encode seconds, decode seconds), medians.

    A hook runs in a process group of this rank alone, and what it computes is all counted as encoding.
    """
    out, seconds, size = torch.zeros_like(update), [], 0
    for repeat in range(WARM_UP + repeats):
        x = update.clone()
        began = time.perf_counter()
        if isinstance(scheme, HookScheme):
            scheme.run(x)
            encoded = time.perf_counter()
            size = scheme.sent_bytes
        else:
            payload = scheme.encode(x)
            encoded = time.perf_counter()
            scheme.add(payload, out)
            size = payload.numel()
            if repeat == 0:
                scheme.kept()
        seconds.append((encoded - began, time.perf_counter() - encoded))
    encodes, decodes = zip(*seconds[WARM_UP:], strict=True)
    return size, sorted(encodes)[repeats // 2], sorted(decodes)[repeats // 2] if not scheme.all_reduce else 0.0
