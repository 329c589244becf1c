"""A small model and its gradients, with and without the codec hook, for the hooks' tests."""

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from compression import CodecHook, Layout, codec_hook, make_codec

ONE_BUCKET = 1 << 20
SEVERAL = 0.01
LR = 0.1


def make_model(dtype: torch.dtype = torch.float32) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        *(nn.Linear(12, 60), nn.Tanh(), nn.Linear(60, 60), nn.Tanh()),
        *(nn.Linear(60, 60, bias=False), nn.Tanh(), nn.Linear(60, 5)),
    ).to(dtype)


def batch(rank: int, iteration: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1000 * rank + iteration)
    return torch.randn(16, 12, generator=generator).to(dtype), torch.randint(0, 5, (16,), generator=generator)


def gradients(model: nn.Module, rank: int, iteration: int, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    model.zero_grad()
    x, y = batch(rank, iteration, dtype)
    functional.cross_entropy(model(x), y).backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def descend(model: nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            assert parameter.grad is not None
            parameter.sub_(parameter.grad, alpha=LR)


def flat(tensors: dict[str, Tensor] | nn.Module) -> Tensor:
    named = dict(tensors.named_parameters()) if isinstance(tensors, nn.Module) else tensors
    return torch.cat([named[name].detach().float().flatten() for name in sorted(named)])


def same_on_all_ranks(x: Tensor) -> bool:
    others = [torch.empty_like(x) for _ in range(dist.get_world_size())]
    dist.all_gather(others, x)
    return all(torch.equal(x, other) for other in others)


class Spied:
    """A DDP model with a codec hook, which records the names in each bucket of each backward pass."""

    def __init__(self, spec: str, cap_mb: float, dtype: torch.dtype, views: bool) -> None:
        self.model = make_model(dtype)
        self.ddp = DistributedDataParallel(self.model, bucket_cap_mb=cap_mb, gradient_as_bucket_view=views)
        self.hook = CodecHook(spec, self.model.named_parameters())
        self.buckets: list[tuple[str, ...]] = []
        self.ddp.register_comm_hook(self, Spied.call)

    def call(self, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
        self.buckets.append(self.hook.layout(bucket.parameters()).names)
        return codec_hook(self.hook, bucket)

    def backward(self, rank: int, iteration: int, dtype: torch.dtype) -> list[tuple[str, ...]]:
        self.model.zero_grad()
        self.buckets = []
        x, y = batch(rank, iteration, dtype)
        functional.cross_entropy(self.ddp(x), y).backward()
        return self.buckets


def reference_sent(spec: str, total: Tensor, layout: Layout, key: int = 0) -> Tensor:
    """What a rank sends of `total`: top-k by a full stable sort, other selectors by the codec (tested by itself)."""
    selector, _, form = spec.partition("+")
    if not selector.startswith("topk") or "layer" in selector or form not in ("", "bf16"):
        return make_codec(spec).encode(total, layout, key=key)[1].dense()
    k = max(1, round(float(spec.split("+")[0][5:]) * total.numel()))
    chosen = total.abs().sort(descending=True, stable=True).indices[:k]
    values = total[chosen]
    return torch.zeros_like(total).index_copy(0, chosen, values.bfloat16().float() if "bf16" in spec else values)
