"""Gradients of other kinds than fp32 tensors through the codec hook.

Oracle: gradients computed without DDP, whole where everything is sent; one sentence where a kind cannot be encoded.
"""

from collections.abc import Callable

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from compression import CodecHook, codec_hook
from tests.distributed.hook_cases import same_on_all_ranks
from tests.support import on_ranks

pytestmark = pytest.mark.timeout(180)


class Complex(nn.Module):
    """Complex weights, a complex scalar, and real ones."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.weight = nn.Parameter(torch.randn(6, 5, dtype=dtype))
        self.scale = nn.Parameter(torch.randn((), dtype=dtype))
        self.bias = nn.Parameter(torch.randn(5))

    def forward(self, x: Tensor) -> Tensor:
        return (x.to(self.weight.dtype) @ self.weight * self.scale).abs() + self.bias


class Words(nn.Module):
    """An embedding whose gradient is sparse."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 4, sparse=True)
        self.linear = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.embedding(x))


def train(rank: int, model: nn.Module, spec: str) -> None:
    """Two backward passes; with everything sent, gradients are those of ordinary averaging."""
    ddp = DistributedDataParallel(model)
    hook = CodecHook(spec, model.named_parameters())
    ddp.register_comm_hook(hook, codec_hook)
    parameters = list(model.parameters())
    for iteration in range(2):
        generator = torch.Generator().manual_seed(10 * rank + iteration)
        x = torch.randn(4, 6, generator=generator, dtype=torch.float32).to(torch.get_default_dtype())
        own = torch.autograd.grad(model(x).square().sum(), parameters)
        model.zero_grad()
        ddp(x).square().sum().backward()
        for parameter, gradient in zip(parameters, own, strict=True):
            assert parameter.grad is not None
            found = torch.view_as_real(parameter.grad) if parameter.grad.is_complex() else parameter.grad
            expected = torch.view_as_real(gradient) if gradient.is_complex() else gradient.clone()
            assert same_on_all_ranks(found)
            dist.all_reduce(expected)
            if spec == "topk:1.0":
                torch.testing.assert_close(found, expected / dist.get_world_size(), rtol=1e-5, atol=1e-5)
    assert "residual.bias" in hook.state_dict()


def check_kinds(rank: int, world: int) -> None:
    for spec in ("topk:1.0", "topk:0.3", "powersgd:1"):
        for dtype in (torch.complex64, torch.complex128):
            train(rank, Complex(dtype), spec)
    torch.set_default_dtype(torch.float64)
    for spec in ("topk:1.0", "topk:0.3+log3+zstd", "randk:0.5+int8", "cost:0.5", "sign", "powersgd:1"):
        train(rank, nn.Linear(6, 5), spec)


def test_complex_and_double_parameters() -> None:
    """Complex parameters go as real and imaginary parts, float64 ones (and a default dtype of float64) as fp32."""
    on_ranks(2, check_kinds)


def refused(spec: str, make: Callable[[], nn.Module], x: Tensor, error: type[Exception], words: str) -> None:
    model = make()
    ddp = DistributedDataParallel(model)
    ddp.register_comm_hook(CodecHook(spec, model.named_parameters()), codec_hook)
    with pytest.raises(error, match=words):
        ddp(x).sum().backward()


def check_refused(rank: int, world: int) -> None:
    refused("topk:0.5", Words, torch.arange(3), ValueError, "topk:0.5 cannot encode sparse gradients")
    from torch._dynamo import config

    config.optimize_ddp = "python_reducer"
    for spec in ("topk:0.5", "none"):
        refused(spec, lambda: nn.Linear(3, 2), torch.ones(1, 3), RuntimeError, 'optimize_ddp = "python_reducer"')


def test_what_cannot_be_encoded_is_refused() -> None:
    """Sparse gradients, and DDP's reducer in Python, which makes no buckets: one sentence on every rank."""
    on_ranks(2, check_refused)


def test_one_stream_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the number of buckets: the allocator keeps what is freed on each stream for that stream alone."""
    monkeypatch.setattr(torch.cuda, "Stream", lambda device: object())
    hook = CodecHook("topk:0.1", [])
    assert hook.stream(torch.device("cuda", 0)) is hook.stream(torch.device("cuda", 0))
    assert hook.stream(torch.device("cuda", 0)) is not hook.stream(torch.device("cuda", 1))
