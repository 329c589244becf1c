"""Many local steps between two rounds, as in DiLoCo. Oracles: the run itself, uninterrupted; FedAvg; one optimizer that is
never interrupted.
"""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from fl.common.errors import ConfigError
from fl.run.loop import make_rounds
from tests.end_to_end.parts import run_with, start_rounds
from tests.end_to_end.replay import check_resumed, check_two_ranks, run_all_here
from tests.end_to_end.test_resume import OPTIONS
from tests.support import make_worker, on_ranks, rows, run_here

_DILOCO = {"optimizer": "adamw", "lr": 0.001, "local_steps": 3, "local_state": "keep", "server": "nesterov"}
_RUNS: dict[str, dict[str, Any]] = {
    "diloco": {
        **_DILOCO,
        "state_dtype": "bf16",
        "downlink": "none",
        "uplink": "none",
        "lr_schedule": "constant:warmup=10",
        "accumulate": 2,
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


def test_accumulated_batches_are_a_larger_batch(tmp_path: Path) -> None:
    """Two of 8 against one of 16: steps, bytes, operations and the model are the same, the last but for rounding; memory is
    that of 8."""
    common = {**OPTIONS, "model": "lenet5", "rounds": 2, "local_steps": None, "local_epochs": 2, "uplink": "none"}
    common = {**common, "server": "fedavg", "downlink": "none"}
    run_here(tmp_path, "whole", **common | {"batch_size": 16})
    run_here(tmp_path, "accumulated", **common | {"batch_size": 8, "accumulate": 2})
    run_here(tmp_path, "small", **common | {"batch_size": 8})
    whole, accumulated = (rows(tmp_path / name, "clients") for name in ("whole", "accumulated"))
    for column in ("client", "samples", "train_flops", "uplink_bytes", "downlink_bytes"):
        assert [row[column] for row in accumulated] == [row[column] for row in whole]
    memory = [rows(tmp_path / name)[0]["client_memory_bytes"] for name in ("whole", "accumulated", "small")]
    assert memory[0] != memory[1] == memory[2]
    models = [load_file(tmp_path / name / "final_model.safetensors") for name in ("whole", "accumulated")]
    torch.testing.assert_close(*models, rtol=1e-4, atol=1e-5)


def _lone_pieces(rank: int, world_size: int) -> None:
    options = {
        "clients": 1,
        "batch_size": 2,
        "accumulate": 2,
        "val_fraction": 0.0,
        "model": "tests.user_code:flat_norm_model",
    }
    with pytest.raises(ConfigError, match="client 0 trains on one sample at a time"):
        make_worker(**options, limit_train=19)
    rounds = make_rounds(make_worker(**options, limit_train=20))
    assert len(rounds.run(0).reports) == 1


def test_a_piece_of_one_sample_is_refused_where_the_model_cannot_train_on_it() -> None:
    """BatchNorm over one value a sample. Of 19 samples the last step has 3, and its second batch 1 of them; of 20 each has
    2."""
    on_ranks(1, _lone_pieces)
