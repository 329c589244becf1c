"""`--mode step`: gradients exchanged at every step, on two ranks."""

import copy
import gc
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from fl.common.errors import ConfigError
from fl.common.seeds import derive_seed
from fl.data.batches import iterate_batches
from fl.rounds.ddp import DdpRounds
from fl.training.worker import Worker
from tests.support import make_worker, on_ranks, rows, run_here

_OPTIONS: dict[str, Any] = {
    "mode": "step",
    "rounds": 2,
    "limit_train": 120,
    "local_steps": 3,
    "batch_size": 8,
    "lr": 0.02,
    "partition": "quantity:0.5",
}


def batches(worker: Worker, round_: int, rank: int) -> Any:
    config = worker.config
    return iterate_batches(
        worker.train,
        worker.parts[rank],
        batch_size=config.batch_size,
        steps=config.local_steps,
        seed=derive_seed(config.seed, "batches", round_, rank),
        augment=worker.augment,
        normalise=worker.normalise,
    )


def _count_moments(rank: int, world_size: int) -> None:
    step_mode = DdpRounds(make_worker(**{**_OPTIONS, "lr": 0.001}, uplink="none", optimizer="adam"))
    largest = max(parameter.numel() for parameter in step_mode._worker.engine.model.parameters())
    counts = []
    for number in range(3):
        step_mode.run(number)
        gc.collect()
        counts.append(sum(type(each) is Tensor and each.numel() == largest for each in gc.get_objects()))
    assert counts[0] == counts[1] == counts[2]


def test_moments_are_in_memory_once_between_rounds() -> None:
    """After rounds with moments to be put back as many vectors are alive as after the first, which had none."""
    on_ranks(1, _count_moments)


def _sgd(model: nn.Module, worker: Worker) -> torch.optim.Optimizer:
    config = worker.config
    options = {"lr": config.lr, "momentum": config.momentum, "weight_decay": config.weight_decay}
    return torch.optim.SGD(model.parameters(), fused=True, **options)


def _against_ddp(rank: int, world_size: int, warmup: int) -> None:
    schedule = f"constant:warmup={warmup}" if warmup else "constant"
    worker = make_worker(**_OPTIONS, uplink="none", lr_schedule=schedule)
    model = DistributedDataParallel(copy.deepcopy(worker.engine.model))
    first = torch.nn.utils.parameters_to_vector(model.parameters()).clone()
    optimizer = _sgd(model, worker)
    step_mode = DdpRounds(worker)
    for round_ in range(2):
        for step, (x, y) in enumerate(batches(worker, round_, rank), start=3 * round_):
            optimizer.param_groups[0]["lr"] = _OPTIONS["lr"] * min(1.0, (step + 1) / (warmup + 1))
            optimizer.zero_grad()
            cross_entropy(model(x), y).backward()
            optimizer.step()
        outcome = step_mode.run(round_)
        expected = torch.nn.utils.parameters_to_vector(model.parameters())
        assert torch.equal(worker.state.parameters, expected)
        dense = 4 * expected.numel() * 3
        assert [report.uplink_bytes for report in outcome.reports] == [dense, dense]
        assert outcome.peers.received_bytes == {0: dense, 1: dense}
    assert not torch.equal(first, expected)


@pytest.mark.parametrize("warmup", [0, 4])
def test_without_compression_it_is_ddp(warmup: int) -> None:
    """Uplink none against PyTorch's own DistributedDataParallel in a loop of its own: the same bits, momentum kept."""
    on_ranks(2, _against_ddp, warmup)


def _against_a_reference(rank: int, world_size: int, ratio: float) -> None:
    worker = make_worker(**_OPTIONS, uplink=f"topk:{ratio}")
    model = copy.deepcopy(worker.engine.model)
    parameters, optimizer = list(model.parameters()), _sgd(model, worker)
    residual: Tensor | float = 0.0
    step_mode = DdpRounds(worker)
    for round_ in range(2):
        for x, y in batches(worker, round_, rank):
            gradients = torch.autograd.grad(cross_entropy(model(x), y), parameters)
            total = torch.cat([gradient.flatten() for gradient in gradients]) + residual
            kept = torch.topk(total.abs(), round(ratio * total.numel())).indices
            sent = torch.zeros_like(total).index_copy_(0, kept, total[kept])
            residual = total - sent
            dist.all_reduce(sent)
            for parameter, part in zip(parameters, sent.split([p.numel() for p in parameters]), strict=True):
                parameter.grad = part.view_as(parameter) / world_size
            optimizer.step()
        step_mode.run(round_)
        expected = torch.nn.utils.parameters_to_vector(parameters)
        torch.testing.assert_close(worker.state.parameters, expected, rtol=1e-5, atol=1e-6)
    assert isinstance(residual, Tensor)
    own = torch.cat(
        [step_mode.hook.sender.state_dict()[f"residual.{name}"].flatten() for name in worker.state.layout.names]
    )
    torch.testing.assert_close(own, residual, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("ratio", [0.1, 1.0])
def test_top_k_with_error_feedback(ratio: float) -> None:
    """Against top-k of the whole gradient plus residual written here with torch.topk, within rounding."""
    on_ranks(2, _against_a_reference, ratio)


def _whole_runs(rank: int, world_size: int, folder: Path) -> None:
    options = {**_OPTIONS, "model": "tests.user_code:norm_model"}
    for name, uplink in (("none", "none"), ("topk", "topk:0.1+bf16"), ("prune", "prune:0.9"), ("fp16", "fp16")):
        run_here(folder, name, **options, uplink=uplink)
    digest = torch.zeros(1, dtype=torch.int64)
    if rank == 0:
        digest[0] = int(json.loads((folder / "topk" / "summary.json").read_text())["model_sha256"][:15], 16)
    worker = make_worker(**options, uplink="topk:0.1+bf16")
    step_mode = DdpRounds(worker)
    for round_ in range(2):
        step_mode.run(round_)
    dist.broadcast(digest, 0)
    assert int(worker.state.sha256()[:15], 16) == int(digest), "every rank must end with the model that is saved"


def test_whole_runs(tmp_path: Path) -> None:
    """Each codec runs; both ranks end in the same weights; bytes are those of the collective calls and say so."""
    on_ranks(2, _whole_runs, tmp_path)
    totals = {}
    for name in ("none", "topk", "prune", "fp16"):
        summary = json.loads((tmp_path / name / "summary.json").read_text())
        assert summary["bytes_counted"] == "at the collective calls"
        assert summary["rounds"] == 2
        totals[name] = summary["total_uplink_bytes"]
        clients = rows(tmp_path / name, "clients")
        assert [row["client"] for row in clients] == ["0", "1", "0", "1"]
        assert all(row["client"] == row["rank"] for row in clients)
    assert totals["topk"] < totals["prune"] < totals["fp16"] < totals["none"]
    # Uplink is a rank's payload, downlink the others': with two ranks, what one sends the other receives.
    later = rows(tmp_path / "prune", "clients")[2:]
    assert later[0]["uplink_bytes"] == later[1]["downlink_bytes"]
    assert later[1]["uplink_bytes"] == later[0]["downlink_bytes"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"server": "fedadam"}, "--server fedadam"),
        ({"downlink": "topk:0.1"}, "--downlink topk:0.1"),
        ({"clients": 3}, "--clients 3"),
        ({"clients": 1}, "--clients 1"),
        ({"clients": 2, "clients_per_round": 1}, "--clients-per-round 1"),
        ({"exchange": "hook"}, "--exchange hook"),
        ({"engine": "accelerate"}, "--engine accelerate"),
    ],
)
def test_what_has_no_meaning_is_refused(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    """On both ranks, before anything is made."""
    on_ranks(2, _refused, tmp_path, options, words)
    assert not list(tmp_path.iterdir())


def _refused(rank: int, world_size: int, folder: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        run_here(folder, "run", mode="step", **options)
