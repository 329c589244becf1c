"""Hooks outside plain DDP training: on a FlatBucket, under Accelerate, and as docs/hooks.md shows them.

Oracles: PyTorch's own hooks under real DDP; the formula; a second way to the same bits.
"""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook, fp16_compress_hook
from torch.distributed.algorithms.ddp_comm_hooks.powerSGD_hook import PowerSGDState, powerSGD_hook
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from compression import CodecHook, FlatBucket, Layout, codec_hook
from tests.distributed.hook_cases import (
    LR,
    ONE_BUCKET,
    batch,
    descend,
    flat,
    gradients,
    make_model,
    reference_sent,
    same_on_all_ranks,
)
from tests.support import ROOT, on_ranks

pytestmark = pytest.mark.timeout(180)  # a rank that waits for ever should not take the whole suite with it


def foreign(name: str) -> tuple[object, Callable[..., torch.futures.Future[Tensor]]]:
    if name == "powersgd":
        return PowerSGDState(process_group=None, matrix_approximation_rank=2, start_powerSGD_iter=2), powerSGD_hook
    return None, {"fp16": fp16_compress_hook, "allreduce": allreduce_hook}[name]


def check_flat_bucket(rank: int, world: int) -> None:
    for name in ("fp16", "allreduce", "powersgd"):
        theirs = make_model()
        ddp = DistributedDataParallel(theirs, bucket_cap_mb=ONE_BUCKET)
        ddp.register_comm_hook(*foreign(name))
        mine, (state, hook) = make_model(), foreign(name)
        parameters = list(reversed(list(mine.parameters())))
        layout = Layout.of((str(i), p) for i, p in enumerate(parameters))
        for iteration in range(6):
            theirs.zero_grad()
            x, y = batch(rank, iteration)
            functional.cross_entropy(ddp(x), y).backward()
            gradients(mine, rank, iteration)
            buffer = torch.cat([p.grad.flatten() for p in parameters if p.grad is not None])
            result = hook(state, FlatBucket(buffer, parameters)).wait()
            result = result[0] if isinstance(result, list) else result
            layout.scatter(result, [p.grad for p in parameters if p.grad is not None])
            descend(theirs)
            descend(mine)
            assert torch.equal(flat(mine), flat(theirs)), (name, iteration)
    # Our own hook on it, without DDP.
    layout = Layout.of((str(i), p) for i, p in enumerate(mine.parameters()))
    ours = CodecHook("topk:0.1", zip(layout.names, mine.parameters(), strict=True))
    vectors = [torch.randn(layout.total, generator=torch.Generator().manual_seed(i)) for i in range(world)]
    bucket = FlatBucket(vectors[rank].clone(), list(mine.parameters()))
    average = codec_hook(ours, bucket).wait()  # type: ignore[arg-type]
    sent = [reference_sent("topk:0.1", vector, layout) for vector in vectors]
    assert torch.equal(average, torch.stack(sent).sum(0) / world)
    assert average.data_ptr() == bucket.buffer().data_ptr()
    left = [ours.state_dict()[f"residual.{name}"].flatten() for name in layout.names]
    assert torch.equal(torch.cat(left), vectors[rank] - sent[rank])


def test_pytorchs_hooks_on_a_flat_bucket() -> None:
    """fp16, all-reduce and PowerSGD under real DDP with one bucket: the same bits over 6 iterations."""
    on_ranks(2, check_flat_bucket)


def code_blocks() -> dict[str, str]:
    """The Python blocks of docs/hooks.md by the heading above them."""
    blocks = {}
    for section in (ROOT / "docs" / "hooks.md").read_text(encoding="utf-8").split("\n## ")[1:]:
        heading, _, rest = section.partition("\n")
        if "```python\n" in rest:
            blocks[heading] = rest.split("```python\n")[1].split("```")[0]
    return blocks


def batches(rank: int, count: int = 5) -> Iterator[tuple[Tensor, Tensor]]:
    return (batch(rank, iteration) for iteration in range(count))


def check_docs(rank: int, world: int, folder: str) -> None:
    os.chdir(folder)
    blocks = code_blocks()
    names: dict[str, Any] = {
        "model": make_model(),
        "loss_function": functional.cross_entropy,
        "batches": batches(rank),
        "rank": rank,
    }
    exec(blocks["DistributedDataParallel"], names)
    assert names["hook"].traffic.sent_bytes > 0
    trained = flat(names["model"])
    assert same_on_all_ranks(trained)
    saved = flat(names["hook"].state_dict())
    exec(blocks["Save and load"], names)
    assert torch.equal(flat(names["hook"].state_dict()), saved)
    assert saved.any()

    model = make_model()
    turns = [pair for pairs in zip(*(batches(other) for other in range(world)), strict=True) for pair in pairs]
    data = torch.utils.data.TensorDataset(*(torch.cat(parts) for parts in zip(*turns, strict=True)))
    names = {
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=LR),
        "loss_function": functional.cross_entropy,
        "batches": torch.utils.data.DataLoader(data, batch_size=16),
    }
    exec(blocks["Accelerate"], names)
    assert isinstance(names["model"], DistributedDataParallel)
    # The sharded loader gave each rank the batches of the first run, so both end in the same bits.
    assert torch.equal(flat(model), trained)


def test_the_code_of_the_documentation(tmp_path: Path) -> None:
    """The blocks of docs/hooks.md as they stand, on someone's model with 2 ranks: DDP's and Accelerate's (real
    `prepare`, sharded loader) train to the same bits, and residuals are saved and loaded."""
    assert list(code_blocks()) == ["DistributedDataParallel", "Accelerate", "Save and load"]
    on_ranks(2, check_docs, str(tmp_path))
