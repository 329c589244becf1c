"""The codec hook in models of which some ranks, or all, leave parts out in some iterations.

Oracle: conservation, from gradients computed by torch.autograd.grad. Of a parameter that any rank used,
world * delivered + sum of residuals == sum of (residuals and momentum before + gradients); one that no rank used keeps
gradient, residual, momentum and factors to the bit, and none of its coordinates is sent.
"""

import contextlib
import random
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from compression import CodecHook, codec_hook
from tests.distributed.hook_cases import ONE_BUCKET, same_on_all_ranks
from tests.support import on_ranks

pytestmark = pytest.mark.timeout(180)  # a rank that waits for ever should not take the whole suite with it

_SPECS = ("topk:0.1", "topk:0.3,scope=layer+bf16", "randk:0.2", "prune:0.9+int8+zstd", "sign", "bf16", "powersgd:2")
_EXPERTS = 4


class Experts(nn.Module):
    """A trunk, and experts of which each forward pass adds some."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.trunk = nn.Linear(6, 20)
        self.experts = nn.ModuleList(nn.Linear(20, 20, bias=at % 2 == 0) for at in range(_EXPERTS))

    def forward(self, x: Tensor, chosen: list[int], *, all_heads: bool = False) -> tuple[Tensor, ...]:
        """The output; with `all_heads`, those of the other experts besides, whose gradients are then not defined."""
        hidden = torch.tanh(self.trunk(x))
        others = [at for at in range(_EXPERTS) if at not in chosen] if all_heads else []
        return (hidden + sum(self.experts[at](hidden) for at in chosen), *(self.experts[at](hidden) for at in others))


class Case:
    """One random way to train: codec, feedback, options of DDP, and who uses which experts when."""

    def __init__(self, seed: int, world: int) -> None:
        draw = random.Random(seed)
        self.spec = _SPECS[seed % len(_SPECS)]
        sparse = self.spec.startswith(("topk", "randk", "prune"))
        self.feedback = draw.choice(("residual", "residual", "dgc:0.9")) if sparse else "residual"
        self.static = draw.random() < 0.3
        self.options: dict[str, Any] = {
            "bucket_cap_mb": draw.choice((ONE_BUCKET, 0.001, 0.002)),
            "gradient_as_bucket_view": draw.random() < 0.5,
            **({"static_graph": True} if self.static else {"find_unused_parameters": True}),
        }
        self.clears = draw.choice(("none", "zeros", "nothing"))
        self.all_heads = not self.static and self.clears == "none" and draw.random() < 0.5
        self.warm_up = draw.random() < 0.5
        often = draw.choice((0.0, 0.3, 0.7))
        passes = 1 if self.static else draw.choice((1, 3))

        def chosen() -> list[int]:
            return [at for at in range(_EXPERTS) if draw.random() < often]

        fixed = [[chosen()] for _ in range(world)]
        plans = [[[chosen() for _ in range(passes)] for _ in range(world)] for _ in range(5)]
        self.plans = [fixed] * 5 if self.static else [[[[0, 1, 2, 3]]] * world, *plans]
        """For each iteration and rank, the experts of each of its passes."""

    def __str__(self) -> str:
        return str(vars(self))


def summed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    total = {name: tensor.double() for name, tensor in tensors.items()}
    for tensor in total.values():
        dist.all_reduce(tensor)
    return total


def check(rank: int, world: int, seed: int) -> None:
    case = Case(seed, world)
    model = Experts()
    named = dict(model.named_parameters())
    ddp = DistributedDataParallel(model, **case.options)
    hook = CodecHook(case.spec, named.items(), error_feedback=case.feedback)
    ddp.register_comm_hook(hook, codec_hook)
    inputs = torch.Generator().manual_seed(rank)
    momentum = hook.sender.momentum or 0.0
    for iteration, plan in enumerate(case.plans):
        if case.warm_up and hook.codec.density:
            hook.sender.codec = hook.codec.with_density(max(0.05, 0.5**iteration))
        if case.clears != "nothing":
            model.zero_grad(set_to_none=case.clears == "none")
        stale = {name: None if p.grad is None else p.grad.clone() for name, p in named.items()}
        given = {name: torch.zeros_like(p) if stale[name] is None else stale[name].clone() for name, p in named.items()}  # type: ignore[union-attr]
        before, sent_before = hook.state_dict(), hook.traffic.coordinates
        for number, chosen in enumerate(plan[rank]):
            x = torch.randn(3, 6, generator=inputs)
            own = torch.autograd.grad(model(x, chosen)[0].square().sum(), list(named.values()), allow_unused=True)
            for gradient, total in zip(own, given.values(), strict=True):
                if gradient is not None:
                    total += gradient
            with ddp.no_sync() if number < len(plan[rank]) - 1 else contextlib.nullcontext():
                ddp(x, chosen, all_heads=case.all_heads)[0].square().sum().backward()
        used = {f"experts.{at}." for passes in plan for chosen in passes for at in chosen} | {"trunk."}
        after = hook.state_dict()
        coordinates = 0
        owed, left = {}, {}
        for name, parameter in named.items():
            kinds = [f"{kind}.{name}" for kind in ("residual", "velocity", "factor")]
            if not name.startswith(tuple(used)):
                assert (parameter.grad is None) == (stale[name] is None), (name, iteration, str(case))
                assert parameter.grad is None or torch.equal(parameter.grad, stale[name]), (name, iteration, str(case))
                for key in kinds:
                    assert (key in before) == (key in after), (key, iteration, str(case))
                    assert key not in before or torch.equal(before[key], after[key]), (key, iteration, str(case))
                continue
            assert parameter.grad is not None
            coordinates += parameter.numel()
            zero = torch.zeros_like(parameter)
            owed[name] = given[name] + before.get(kinds[0], zero) + momentum * before.get(kinds[1], zero)
            left[name] = parameter.grad.double() + after[kinds[0]].double()
        everything, parts = summed(owed), summed(left)
        for name in everything:
            torch.testing.assert_close(parts[name], everything[name], rtol=1e-5, atol=1e-5, msg=lambda m: f"{m} {case}")
        assert hook.traffic.coordinates - sent_before == coordinates, (iteration, str(case))
        delivered = [p.grad.flatten() for p in named.values() if p.grad is not None]
        assert same_on_all_ranks(torch.cat(delivered)), (iteration, str(case))


def check_cases(rank: int, world: int, seeds: range) -> None:
    for seed in seeds:
        check(rank, world, seed)


@pytest.mark.parametrize("world", [1, 2, 3])
def test_nothing_is_lost(world: int) -> None:
    """Random combinations of codec, feedback, warm-up, buckets, views, static graph, accumulation and clearing."""
    on_ranks(world, check_cases, range(world, 43, 3))
