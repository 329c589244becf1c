"""The codec hook on real gloo processes.

Oracles: ordinary DDP (for `none`); a reference that computes every rank's gradients without DDP, keeps residuals in
dictionaries and averages in rank order, compared bit for bit.
"""

import itertools
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from compression import CodecHook, Layout, codec_hook, make_codec
from compression.draws import derive_key
from compression.wire import dense_bytes
from tests.distributed.hook_cases import (
    ONE_BUCKET,
    SEVERAL,
    Spied,
    batch,
    descend,
    flat,
    gradients,
    make_model,
    reference_sent,
    same_on_all_ranks,
)
from tests.support import on_ranks

pytestmark = pytest.mark.timeout(180)  # a rank that waits for ever should not take the whole suite with it


def check_none(rank: int, world: int) -> None:
    for dtype, views in itertools.product((torch.float32, torch.bfloat16), (False, True)):
        spied = Spied("none", SEVERAL, dtype, views)
        plain_model = make_model(dtype)
        plain = DistributedDataParallel(plain_model, bucket_cap_mb=SEVERAL, gradient_as_bucket_view=views)
        for iteration in range(5):
            assert (len(spied.backward(rank, iteration, dtype)) > 1) == (iteration > 0)
            x, y = batch(rank, iteration, dtype)
            plain_model.zero_grad()
            functional.cross_entropy(plain(x), y).backward()
            for (name, mine), (_, theirs) in zip(
                spied.model.named_parameters(), plain_model.named_parameters(), strict=True
            ):
                assert torch.equal(mine.grad, theirs.grad), name  # type: ignore[arg-type]
            descend(spied.model)
            descend(plain_model)
        traffic, n = spied.hook.traffic, flat(spied.model).numel()
        assert traffic.sent_bytes == traffic.received_bytes == 5 * n * dtype.itemsize
        assert traffic.kept == traffic.coordinates == 5 * n
        assert spied.hook.state_dict() == {}


def test_none_is_ordinary_ddp() -> None:
    """Bitwise over 5 iterations with 3 ranks and several buckets, fp32 and bf16, gradients as bucket views or not."""
    on_ranks(3, check_none)


def check_reference(rank: int, world: int, spec: str, cap_mb: float, dtype: torch.dtype, feedback: str) -> None:
    spied = Spied(spec, cap_mb, dtype, views=rank == 0)
    spied.hook = hook = CodecHook(spec, spied.model.named_parameters(), error_feedback=feedback)
    shadow, codec = make_model(dtype), make_codec(spec)
    named = dict(shadow.named_parameters())
    residuals = [{name: torch.zeros(p.shape) for name, p in named.items()} for _ in range(world)]
    lengths, kept, groups = [0] * world, 0, []
    for iteration in range(5):
        buckets = spied.backward(rank, iteration, dtype)
        groups.append(len(buckets))
        assert sorted(sum(buckets, ())) == sorted(named)
        local = [gradients(shadow, other, iteration, dtype) for other in range(world)]
        for index, names in enumerate(buckets):
            layout = Layout.of((name, named[name]) for name in names)
            mean, before, after = torch.zeros(layout.total), torch.zeros(layout.total), torch.zeros(layout.total)
            for other in range(world):
                total = torch.cat([(local[other][n].float() + residuals[other][n]).flatten() for n in names])
                key = derive_key(0, iteration, other, index)
                sent = reference_sent(spec, total, layout, key)
                mean += sent
                before += total
                if feedback == "residual":
                    after += total - sent
                    for name, view in zip(names, layout.views(total - sent), strict=True):
                        residuals[other][name] = view
                payload, decoded = codec.encode(total, layout, key=key)
                lengths[other] += payload.numel()
                kept += decoded.kept * (other == rank)
            mean /= world
            if feedback == "residual":
                torch.testing.assert_close(mean * world + after, before)
            for name, view in zip(names, layout.views(mean), strict=True):
                named[name].grad = view.to(dtype)
        for name, parameter in spied.model.named_parameters():
            assert torch.equal(parameter.grad, named[name].grad), (iteration, name)  # type: ignore[arg-type]
        assert same_on_all_ranks(flat({n: p.grad for n, p in spied.model.named_parameters() if p.grad is not None}))
        state = hook.state_dict()
        if feedback == "residual":
            assert state.keys() == {"calls", *(f"residual.{name}" for name in named)}
            assert all(torch.equal(state[f"residual.{name}"], residuals[rank][name]) for name in named)
        assert int(state.pop("calls")) == iteration + 1
        descend(spied.model)
        descend(shadow)
        assert torch.equal(flat(spied.model), flat(shadow))
    assert groups[0] == 1
    assert all((count == 1) == (cap_mb == ONE_BUCKET) for count in groups[1:]), groups
    traffic, n = hook.traffic, flat(shadow).numel()
    assert traffic.sent_bytes == lengths[rank] <= sum(groups) * dense_bytes(0) + 5 * (dense_bytes(n) - dense_bytes(0))
    assert traffic.received_bytes == sum(lengths) - lengths[rank]
    assert (traffic.kept, traffic.coordinates) == (kept, 5 * n)


def check_references(rank: int, world: int) -> None:
    for cap_mb, dtype in itertools.product((SEVERAL, ONE_BUCKET), (torch.float32, torch.bfloat16)):
        check_reference(rank, world, "topk:0.02", cap_mb, dtype, "residual")
    for spec in ("topk:0.05+bf16", "topk:0.1,scope=layer+fp16", "prune:0.95", "threshold:0.01", "bf16"):
        check_reference(rank, world, spec, SEVERAL, torch.float32, "residual")
    for spec in (
        "randk:0.1",
        "cost:0.05,linear=2",
        "topk:0.05+int4+zstd",
        "qsgd:31",
        "topk:0.1+log3",
        "prune:0.9+sign",
    ):
        check_reference(rank, world, spec, SEVERAL, torch.float32, "residual")
    check_reference(rank, world, "topk:0.05", SEVERAL, torch.float32, "none")


@pytest.mark.parametrize("world", [2, 3])
def test_equals_the_reference(world: int) -> None:
    """5 iterations, bitwise: averages, parameters, residuals by name across the regrouping of buckets after the first
    iteration, the same averages on all ranks, and byte counts that are the payloads' lengths."""
    on_ranks(world, check_references)


def check_continues(rank: int, world: int, folder: str) -> None:
    for spec, cap_mb in (
        ("topk:0.02", ONE_BUCKET),
        ("topk:0.05,scope=layer+bf16", SEVERAL),
        ("powersgd:2", SEVERAL),
    ):
        whole, first = (Spied(spec, cap_mb, torch.float32, views=False) for _ in range(2))
        for iteration in range(6):
            whole.backward(rank, iteration, torch.float32)
            descend(whole.model)
        for iteration in range(3):
            first.backward(rank, iteration, torch.float32)
            descend(first.model)
        save_file(first.hook.state_dict(), f"{folder}/{rank}.safetensors")
        second = Spied(spec, cap_mb, torch.float32, views=False)
        second.model.load_state_dict(first.model.state_dict())
        second.hook.load_state_dict(load_file(f"{folder}/{rank}.safetensors"))
        for iteration in range(3, 6):
            second.backward(rank, iteration, torch.float32)
            descend(second.model)
        assert torch.equal(flat(second.model), flat(whole.model))
        assert torch.equal(flat(second.hook.state_dict()), flat(whole.hook.state_dict()))
        assert bool(flat(whole.hook.state_dict()).any())


def test_saved_residuals_continue_identically(tmp_path: Path) -> None:
    """Oracle: 6 iterations without a break; 3, saved, loaded into a new DDP and hook, and 3 more."""
    on_ranks(2, check_continues, str(tmp_path))


def check_subgroup(rank: int, world: int) -> None:
    pair = dist.new_group([1, 2])
    if rank:
        model = make_model()
        ddp = DistributedDataParallel(model, process_group=pair, bucket_cap_mb=SEVERAL)
        hook = CodecHook("topk:0.1", model.named_parameters(), group=pair)
        ddp.register_comm_hook(hook, codec_hook)
        shadow = make_model()
        expected = torch.zeros(flat(shadow).numel())
        for iteration in range(3):
            x, y = batch(rank, iteration)
            functional.cross_entropy(ddp(x), y).backward()
            if iteration == 0:
                for other in (1, 2):
                    local = gradients(shadow, other, 0)
                    order = [name for name, _ in model.named_parameters()]
                    total = torch.cat([local[name].flatten() for name in order])
                    expected += reference_sent("topk:0.1", total, Layout((), ()))
                found = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
                torch.testing.assert_close(found, expected / 2)
        assert hook.traffic.received_bytes > 0


def test_a_process_group_of_some_ranks() -> None:
    """Ranks 1 and 2 of 3 train; rank 0 takes no part, not even in making the hook's own group."""
    on_ranks(3, check_subgroup)
