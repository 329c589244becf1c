"""The codec hook when something goes wrong or gets in its way: NaN, a failing rank, other collectives, the end of a program.

Oracle: every rank raises, or ends, as it should; a hang is a failure.
"""

import subprocess
import sys
import threading

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from compression import CodecHook, FlatBucket, NonFiniteError, codec_hook
from tests.distributed.hook_cases import ONE_BUCKET, SEVERAL, Spied, flat, same_on_all_ranks
from tests.support import ROOT, on_ranks

pytestmark = pytest.mark.timeout(180)  # a rank that waits for ever should not take the whole suite with it


def check_non_finite(rank: int, world: int) -> None:
    for bad in (float("nan"), float("inf")):
        for cap_mb in (SEVERAL, ONE_BUCKET):
            spied = Spied("topk:0.1", cap_mb, torch.float32, views=False)
            for iteration in range(2):
                spied.backward(rank, iteration, torch.float32)
            weight = next(spied.model.parameters())  # in the last bucket: the others succeed
            if rank == 1:
                weight.register_hook(lambda grad, bad=bad: grad.fill_(bad))
            with pytest.raises(NonFiniteError, match="the update" if rank == 1 else "gradient of rank 1"):
                spied.backward(rank, 2, torch.float32)
    spied = Spied("bf16", SEVERAL, torch.float32, views=False)
    spied.backward(rank, 0, torch.float32)
    last = spied.model[-1].bias  # type: ignore[index]
    if rank == 1:
        last.register_hook(lambda grad: grad.fill_(float("nan")))  # in the first bucket
    with pytest.raises(NonFiniteError):
        spied.backward(rank, 1, torch.float32)


def check_failing_rank(rank: int, world: int) -> None:
    spied = Spied("topk:0.1", SEVERAL, torch.float32, views=False)
    if rank == 1:
        spied.hook.load_state_dict({"residual.0.weight": torch.zeros(7)})
    with pytest.raises((RuntimeError, ValueError), match="shape" if rank == 1 else "rank 1 failed to encode"):
        spied.backward(rank, 0, torch.float32)
    with pytest.raises(ValueError, match="not among the hook's named_parameters"):
        codec_hook(CodecHook("bf16", []), FlatBucket(torch.zeros(1), [torch.zeros(1)]))  # type: ignore[arg-type]


def check_failures(rank: int, world: int) -> None:
    check_non_finite(rank, world)
    check_failing_rank(rank, world)


def test_failures_reach_every_rank() -> None:
    """NaN or infinity on one rank, in the first or the last bucket, is NonFiniteError on both; another failure (here a
    residual of the wrong shape) is a RuntimeError that names the rank. Nobody hangs, and the processes end well."""
    on_ranks(2, check_failures)


class Branches(nn.Module):
    """Eight layers of which each forward pass skips one."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(nn.Linear(50, 50) for _ in range(8))

    def forward(self, x: Tensor, skipped: int) -> Tensor:
        for number, layer in enumerate(self.layers):
            if number != skipped:
                x = torch.tanh(layer(x))
        return x


def check_unused(rank: int, world: int) -> None:
    model = Branches()
    ddp = DistributedDataParallel(model, bucket_cap_mb=0.01, find_unused_parameters=True)
    hook = CodecHook("topk:0.2", model.named_parameters())
    ddp.register_comm_hook(hook, codec_hook)
    for iteration in range(40):
        model.zero_grad()
        ddp(torch.ones(2, 50), (iteration + 3 * rank) % 8).pow(2).sum().backward()
        assert same_on_all_ranks(flat({n: p.grad for n, p in model.named_parameters() if p.grad is not None}))
    extra = torch.full((3,), float(rank + 1))

    def mean(grad: Tensor) -> Tensor:
        dist.all_reduce(extra)  # on the main thread, amid the hook's own
        return grad

    for parameter in model.parameters():
        parameter.register_hook(mean)
    for _ in range(3):
        ddp(torch.ones(2, 50), 8).pow(2).sum().backward()
    assert same_on_all_ranks(extra)


def test_other_collectives_of_the_backward_pass_do_not_meet_the_hooks() -> None:
    """DDP's own all-reduce for unused parameters, and one in a tensor hook, run on the main thread while the hook's
    thread is at work: in one process group, gloo aborts ("collective mismatch")."""
    on_ranks(2, check_unused)


def check_thread(rank: int, world: int) -> None:
    torch.set_num_threads(2)
    parameter = nn.Parameter(torch.zeros(8))
    hook = CodecHook("topk:0.5", [("p", parameter)])
    assert threading.active_count() == 1
    for _ in range(3):
        codec_hook(hook, FlatBucket(torch.ones(8), [parameter])).wait()  # type: ignore[arg-type]
    worker = [thread for thread in threading.enumerate() if thread.name.startswith("codec_hook")]
    assert len(worker) == 1
    found: list[int] = []
    hook.submit(lambda: found.append(torch.get_num_threads()), first=True, last=True)
    assert found == [2]
    del hook
    worker[0].join(timeout=60)
    assert not worker[0].is_alive()
    CodecHook("none", [("p", parameter)])
    assert threading.active_count() == 1


def test_the_thread_of_a_hook() -> None:
    """There is one a hook, from the first bucket on, with the number of threads that was set; it ends with the hook."""
    on_ranks(1, check_thread)


def test_a_program_ends_although_the_hook_is_alive() -> None:
    """Without destroying group or hook, and after an error: no hang, no abort, the program's own exit status."""
    text = """
import sys
import torch
import torch.distributed as dist
from compression import CodecHook, FlatBucket, NonFiniteError, codec_hook
dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
parameter = torch.zeros(8)
hook = CodecHook("topk:0.5", [("p", parameter)])
codec_hook(hook, FlatBucket(torch.ones(8), [parameter])).wait()
try:
    codec_hook(hook, FlatBucket(torch.full((8,), float("nan")), [parameter])).wait()
except NonFiniteError:
    sys.exit(3)
"""
    result = subprocess.run([sys.executable, "-c", text], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert (result.returncode, result.stdout) == (3, ""), result.stderr
    assert "terminate" not in result.stderr
