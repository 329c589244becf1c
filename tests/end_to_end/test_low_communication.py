"""Many local steps between two rounds, as in DiLoCo. Oracles: the run itself, uninterrupted; FedAvg; one optimizer that is
never interrupted.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional as F

from tests.end_to_end.parts import run_with, start_rounds
from tests.end_to_end.replay import check_resumed, check_two_ranks, run_all_here
from tests.end_to_end.test_resume import OPTIONS
from tests.support import on_ranks, rows, run_here

_DILOCO = {"optimizer": "adamw", "lr": 0.001, "local_steps": 3, "local_state": "keep", "server": "nesterov"}
_RUNS: dict[str, dict[str, Any]] = {
    "diloco": {
        **_DILOCO,
        "state_dtype": "bf16",
        "downlink": "none",
        "uplink": "none",
        "lr_schedule": "constant:warmup=10",
    },
    "pruned": {**_DILOCO, "prune": "magnitude:0.5,protect=vectors", "prune_schedule": "linear:1,5,1"},
    "momentum": {
        "local_state": "keep",
        "engine": "accelerate",
        "server": "sign",
        "precision": "bf16",
        "lr_schedule": "constant:warmup=3",
    },
}
_ALL = {name: {**OPTIONS, "rounds": 6, "lr_schedule": "constant", **options} for name, options in _RUNS.items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all runs in one process."""
    return run_all_here(tmp_path_factory.mktemp("whole"), _ALL)


def test_two_ranks_end_in_the_same_bits(whole: Path, tmp_path: Path) -> None:
    """Model, metrics, bytes."""
    check_two_ranks(tmp_path, _ALL, whole)


def test_resumed_on_another_number_of_ranks(whole: Path, tmp_path: Path) -> None:
    """Two ranks, stopped after three rounds, go on in one process: the moments are all there."""
    check_resumed(tmp_path, _ALL, whole, ranks=2, stop=3)


def test_what_is_kept_waits_on_disk_and_is_never_sent(whole: Path, tmp_path: Path) -> None:
    """A budget of nothing ends in the same bits; bytes are those of a fresh optimizer, whose model is another."""
    kept = run_here(tmp_path, "disk", **_ALL["diloco"], state_budget="0")
    assert rows(tmp_path / "disk") == rows(whole / "diloco")
    fresh = run_here(tmp_path, "fresh", **{**_ALL["diloco"], "local_state": "fresh"})
    assert fresh["model_sha256"] != kept["model_sha256"]
    for column in ("uplink_bytes", "downlink_bytes"):
        assert [row[column] for row in rows(tmp_path / "fresh")] == [row[column] for row in rows(whole / "diloco")]


def _one_optimizer(rank: int, world_size: int, optimizer: str, engine: str) -> None:
    options = {"optimizer": optimizer, "lr": 0.002, "weight_decay": 0.1, "local_steps": 3, "engine": engine}
    worker, rounds = start_rounds(**options, local_state="keep", error_feedback="none")
    model, layout = worker.engine.model, worker.state.layout
    worker.state.load_into(model)
    weights = [parameter.detach().clone() for parameter in model.parameters()]
    kinds = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
    momentum = {"momentum": 0.9} if optimizer == "sgd" else {}
    reference = kinds[optimizer](model.parameters(), lr=0.002, weight_decay=0.1, **momentum)
    for number in range(4):
        run_with(rounds, number, [2])
        with torch.no_grad():
            for parameter, weight in zip(model.parameters(), weights, strict=True):
                parameter.copy_(weight)
        for x, y in rounds.trainer.batches(2, number, worker.engine):
            reference.zero_grad()
            F.cross_entropy(model(x), y).backward()
            reference.step()
        weights = [parameter.detach().clone() for parameter in model.parameters()]
    flat = layout.gather(weights, torch.empty(layout.total))
    torch.testing.assert_close(worker.state.parameters, flat, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize(
    ("optimizer", "engine"), [("sgd", "ddp"), ("adam", "ddp"), ("adamw", "ddp"), ("adamw", "accelerate")]
)
def test_one_client_alone_is_an_optimizer_that_goes_on(optimizer: str, engine: str) -> None:
    """Four rounds of three steps whose updates are taken as they are: torch's own class over twelve steps, with its bias
    correction, but for rounding."""
    on_ranks(1, _one_optimizer, optimizer, engine)


def test_one_step_a_round_with_a_plain_outer_step_is_fedavg(tmp_path: Path) -> None:
    """SGD without momentum, and an outer step of rate 1 without momentum: to the bit, whatever clients keep."""
    common = {**OPTIONS, "rounds": 4, "local_steps": 1, "momentum": 0.0, "weight_decay": 0.0, "server_lr": 1.0}
    fedavg = run_here(tmp_path, "fedavg", **{**common, "server": "fedavg"})
    diloco = {"server": "nesterov", "server_momentum": 0.0, "local_state": "keep"}
    assert run_here(tmp_path, "diloco", **{**common, **diloco})["model_sha256"] == fedavg["model_sha256"]
