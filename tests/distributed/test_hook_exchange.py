"""`--exchange hook`: a round's update through a DDP communication hook, on two ranks."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn.parallel import DistributedDataParallel

from fl.comm.ddp_hooks import load_hook
from fl.common.errors import ConfigError
from fl.run.loop import make_rounds
from tests.support import make_worker, on_ranks, rows, run_here

_HOOKS = "torch.distributed.algorithms.ddp_comm_hooks."
_OPTIONS: dict[str, Any] = {
    "exchange": "hook",
    "limit_train": 120,
    "local_steps": 2,
    "batch_size": 8,
    "lr": 0.02,
    "partition": "quantity:0.5",
}
_FOREIGN = {
    "allreduce": "default_hooks:allreduce_hook",
    "fp16": "default_hooks:fp16_compress_hook",
    "powersgd": "powerSGD_hook:powerSGD_hook,matrix_approximation_rank=2",
}


def _against_ddp(rank: int, world_size: int, hook: str) -> None:
    worker = make_worker(**_OPTIONS, hook=hook)
    rounds = make_rounds(worker)
    samples = [len(part) for part in worker.parts]
    model = DistributedDataParallel(copy.deepcopy(worker.engine.model), bucket_cap_mb=1000)
    model.register_comm_hook(*load_hook(hook))
    train, sent, averages = rounds.trainer.train, [], []

    def recording(job: Any, state: Any) -> Any:
        update = train(job, state)
        sent.append(update.values * (samples[job.client] * world_size / sum(samples)))
        return update

    rounds.trainer.train = recording
    step = rounds.server.step

    def stepping(mean: Any, **options: Any) -> Any:
        averages.append(mean.update.clone())
        return step(mean, **options)

    rounds.server.step = stepping
    for round_ in range(6):
        rounds.run(round_)
        expected = _average_by_ddp(model, sent[-1])
        if rank == 0:
            assert torch.equal(averages[-1], expected), f"round {round_}"
        mine = worker.state.parameters.clone()
        dist.broadcast(mine, 0)
        assert torch.equal(mine, worker.state.parameters), "every rank must hold the same model"


def _average_by_ddp(model: DistributedDataParallel, gradient: Tensor) -> Tensor:
    """What real DDP makes of these gradients: those of sum(p * g) with respect to p are g, to the bit."""
    model.zero_grad()
    parameters = list(model.module.parameters())
    parts = gradient.split([p.numel() for p in parameters])
    forward = model.module.forward
    model.module.forward = lambda: sum((p * g.view_as(p)).sum() for p, g in zip(parameters, parts, strict=True))
    model().backward()
    model.module.forward = forward
    return torch.cat([p.grad.flatten() for p in parameters])


@pytest.mark.parametrize("name", list(_FOREIGN))
def test_pytorchs_hooks_do_as_under_ddp(name: str) -> None:
    """Six rounds: the server gets, bit for bit, what the same hook makes of the same gradients under real DDP."""
    on_ranks(2, _against_ddp, _HOOKS + _FOREIGN[name])


_RUNS: dict[str, dict[str, Any]] = {
    "none": {"uplink": "none"},
    "codec": {"uplink": "topk:0.1+bf16", "downlink": "topk:0.2", "server": "fedyogi"},
    **{name: {"hook": _HOOKS + path} for name, path in _FOREIGN.items()},
    "own": {"hook": "tests.user_code:make_hook"},
    "half": {"hook": "tests.user_code:make_hook,factor=0.5", "server_lr": 2.0},
    "norm": {"uplink": "topk:0.1", "model": "tests.user_code:norm_model", "server": "fedavgm"},
}


def _whole_runs(rank: int, world_size: int, folder: Path) -> None:
    for name, options in _RUNS.items():
        run_here(folder, name, **_OPTIONS, **options, rounds=4)


def test_whole_runs(tmp_path: Path) -> None:
    """Own codecs and PyTorch's hooks: bytes are counted at the collective calls, marked so, and exact."""
    on_ranks(2, _whole_runs, tmp_path)
    summaries = {name: json.loads((tmp_path / name / "summary.json").read_text()) for name in _RUNS}
    for summary in summaries.values():
        assert summary["bytes_counted"] == "at the collective calls"
        assert summary["rounds"] == 4
    dense = 2 * 4 * 4 * summaries["none"]["parameters"]  # ranks, rounds, bytes a value
    sent = {name: summary["total_uplink_bytes"] for name, summary in summaries.items()}
    assert sent["none"] == sent["allreduce"] == sent["own"] == dense
    assert sent["fp16"] == dense / 2
    assert sent["codec"] < dense / 9
    # PowerSGD is dense for its first two rounds, then small.
    assert dense / 2 < sent["powersgd"] < 0.7 * dense
    digests = {summaries[name]["model_sha256"] for name in ("none", "allreduce", "own", "half")}
    assert len(digests) == 1, "half the average with twice the server's learning rate is the same step"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"clients": 3}, "--clients 3"),
        ({"clients": 4, "clients_per_round": 2}, "--clients-per-round 2"),
        ({"hook": "nowhere:hook"}, "nowhere"),
        ({"hook": _HOOKS + "default_hooks:no_hook"}, "no_hook"),
        ({"hook": _HOOKS + "default_hooks:fp16_compress_hook,rank=2"}, "rank=2"),
        ({"hook": _HOOKS + "powerSGD_hook:powerSGD_hook,ranks=2"}, "ranks"),
        ({"hook": "tests.user_code:make_hook,speed=2"}, "speed"),
        ({"hook": "tests.user_code:make_hook,speed"}, "key=value"),
        ({"hook": _HOOKS + "powerSGD_hook:powerSGD_hook,start_powerSGD_iter=1"}, "start_powerSGD_iter"),
        ({"hook": _HOOKS + _FOREIGN["fp16"], "uplink": "topk:0.1"}, "--uplink topk:0.1"),
        ({"hook": _HOOKS + _FOREIGN["fp16"], "exchange": "server"}, "--exchange server"),
    ],
)
def test_what_cannot_work_is_refused(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    """On both ranks, before anything is made."""
    on_ranks(2, _refused, tmp_path, {**_OPTIONS, **options}, words)
    assert not list(tmp_path.iterdir())


def _refused(rank: int, world_size: int, folder: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        run_here(folder, "run", **options)


def test_a_hook_that_sends_nothing(tmp_path: Path) -> None:
    """PyTorch's noop_hook on one rank: two rounds, no bytes, and so no ratio."""
    options = {"exchange": "hook", "clients": 1, "rounds": 2, "limit_train": 60}
    summary = run_here(tmp_path, "run", **options, hook=f"{_HOOKS}debugging_hooks:noop_hook")
    assert (summary["rounds"], summary["total_uplink_bytes"], summary["uplink_ratio"]) == (2, 0, None)
    assert [row["uplink_ratio"] for row in rows(tmp_path / "run")] == ["", ""]
