"""Runs that prune: what is outside the mask stays out, and everything replays. Oracle: the run itself, uninterrupted."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from compression import Layout
from fl.common.config import ModelOptions
from fl.common.errors import ConfigError, RoundError
from fl.models import build_model
from fl.models.update import Job
from fl.pruning.choose import protected_layers
from fl.pruning.schedule import parse_prune_schedule, sparsity_at
from fl.run.loop import make_rounds
from tests.end_to_end.parts import remembered, same
from tests.end_to_end.replay import check_resumed, check_two_ranks, run_all_here
from tests.end_to_end.test_resume import OPTIONS
from tests.support import make_worker, on_ranks, rows, run_here

_RUNS: dict[str, dict[str, Any]] = {
    "cubic": {"prune": "magnitude:0.8", "prune_schedule": "cubic:0,6,2", "uplink": "topk:0.2+log3", "downlink": "int8"},
    "gradient": {
        "prune": "gradient:0.5,scope=layer",
        "prune_schedule": "oneshot:2",
        "uplink": "none",
        "downlink": "none",
    },
    "random": {"prune": "random:0.9,min=0.05", "uplink": "topk:0.3", "downlink": "topk:0.5"},
    "dgc": {
        "prune": "magnitude:0.7",
        "prune_schedule": "iterative:1,5,2",
        "uplink": "topk:0.2",
        "error_feedback": "dgc:0.5",
        "momentum": 0.0,
        "server": "fedavg",
    },
    "filters": {
        "prune": "filters:0.5",
        "prune_schedule": "linear:1,5,2",
        "uplink": "topk:0.1+int8",
        "downlink": "bf16",
    },
    "after": {"prune": "magnitude:0.7,by=after", "uplink": "bf16+zstd", "downlink": "none", "error_feedback": "none"},
    "after, rows": {
        "prune": "filters:0.5,by=after",
        "uplink": "csr_codec:csr",
        "downlink": "none",
        "error_feedback": "none",
    },
}


def _options(name: str) -> dict[str, Any]:
    return {**OPTIONS, "model": "lenet5", "rounds": 8, "lr_schedule": "constant", **_RUNS[name]}


_ALL = {name: _options(name) for name in _RUNS}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all runs in one process."""
    return run_all_here(tmp_path_factory.mktemp("whole"), _ALL)


def test_two_ranks_end_in_the_same_bits(whole: Path, tmp_path: Path) -> None:
    """Model, metrics, bytes."""
    check_two_ranks(tmp_path, _ALL, whole)


def test_resumed_on_another_number_of_ranks(whole: Path, tmp_path: Path) -> None:
    """Two ranks, stopped between two steps of a schedule, go on in one process."""
    check_resumed(tmp_path, _ALL, whole, ranks=2, stop=3)


def test_the_schedule_is_obeyed_to_the_weight(whole: Path) -> None:
    """Sparsity of the prunable weights after every round, and the final model's zeros, to within one weight."""
    schedule = parse_prune_schedule("cubic:0,6,2")
    layout = layout_of_lenet5()
    whole_layers = protected_layers(layout)
    sizes = dict(zip(layout.names, layout.sizes, strict=True))
    prunable = sum(size for name, size in sizes.items() if name not in whole_layers)
    for row in rows(whole / "cubic"):
        dropped = float(row["sparsity"]) * sum(sizes.values())
        assert abs(dropped - sparsity_at(schedule, 0.8, int(row["round"])) * prunable) <= 1
        assert (int(row["mask_bytes"]) > 0) == (int(row["round"]) in (2, 4, 6))
    model = load_file(whole / "cubic" / "final_model.safetensors")
    zeros = sum(int((tensor == 0).sum()) for name, tensor in model.items() if name not in whole_layers)
    assert abs(zeros - 0.8 * prunable) <= 2


def layout_of_lenet5() -> Layout:
    """For the digits."""
    model = build_model(ModelOptions(model="lenet5"), classes=10, in_channels=3, image_size=32, seed=0)
    return Layout.of(model.named_parameters())


def test_masks_save_bytes_both_ways(whole: Path) -> None:
    """Nine tenths pruned at random, exact top-k inside: a first download without them, and payloads without them."""
    first = rows(whole / "random", "clients")[0]
    layout = layout_of_lenet5()
    assert int(first["downlink_bytes"]) < 0.5 * 4 * layout.total
    kept = [float(row["kept_fraction"]) for row in rows(whole / "random")]
    sparsity = float(rows(whole / "random")[-1]["sparsity"])
    assert kept == pytest.approx([0.3 * (1 - sparsity)] * len(kept), abs=1e-3)


def _train_ten_rounds(rank: int, world_size: int, engine: str, optimizer: str) -> None:
    options = {"prune_schedule": "oneshot:1", "momentum": 0.9, "engine": engine, "optimizer": optimizer}
    worker = make_worker(**{**_options("cubic"), **options})
    rounds = make_rounds(worker)
    state, train = worker.state, rounds.trainer.train
    local = []

    def recording(job: Any, given: Any) -> Any:
        update = train(job, given)
        trained = dict(worker.engine.model.named_parameters())
        local.append(
            state.layout.gather([trained[name] for name in state.layout.names], torch.empty_like(update.values))
        )
        return update

    rounds.trainer.train = recording
    for round_ in range(10):
        before = state.parameters.clone()
        local.clear()
        rounds.run(round_)
        if round_ >= 1:
            outside = ~rounds.plan.published.inside.mask
            assert int(outside.sum()) > 1000
            assert not state.parameters[outside].any()
            assert not any(weights[outside].any() for weights in local), "gradients are masked in every step"
            assert all(tensor.isfinite().all() for tensor in rounds.server.state_dict()["downlink"].values())
        assert not torch.equal(before, state.parameters)


@pytest.mark.parametrize(("engine", "optimizer"), [("ddp", "sgd"), ("accelerate", "adamw"), ("deepspeed", "sgd")])
def test_nothing_outside_the_mask_changes(engine: str, optimizer: str) -> None:
    """Ten rounds with momentum and weight decay: weights outside are zero, and so is every client's update there."""
    on_ranks(1, _train_ten_rounds, engine, optimizer)


def _average_of_pruned_weights(rank: int, world_size: int) -> None:
    options = {
        **_options("after"),
        "prune": "magnitude:0.6,by=after,protect=vectors",
        "uplink": "none",
        "server": "fedavg",
    }
    worker = make_worker(**{**options, "partition": "quantity:0.7"})
    rounds, layout = make_rounds(worker), worker.state.layout
    start, cohort = worker.state.parameters.clone(), rounds.cohort(0)
    total, samples = torch.zeros(layout.total, dtype=torch.float64), 0
    for client in cohort:
        update = rounds.trainer.train(Job(client, 0, 0), rounds.plan.local(client, 0))
        weights = start - update.values
        matrices = torch.cat(
            [torch.full((size,), len(shape) > 1) for size, shape in zip(layout.sizes, layout.shapes, strict=True)]
        )
        order = weights.abs().masked_fill(~matrices, float("inf")).sort(stable=True).indices
        weights[order[: round(0.6 * int(matrices.sum()))]] = 0
        total += update.samples * weights.double()
        samples += update.samples
    outcome = rounds.run(0)
    torch.testing.assert_close(worker.state.parameters, (total / samples).float(), rtol=1e-5, atol=1e-6)
    left = layout.total - round(0.6 * int(matrices.sum()))
    assert all(abs(report.kept - left) <= 2 for report in outcome.reports), "a trained weight may be zero by itself"
    for report in outcome.reports:
        assert 4 * report.kept < report.uplink_bytes < 4 * report.kept + layout.total / 8 + 100, "a bitmap or less"


def test_after_training_the_server_averages_pruned_weights() -> None:
    """Clients of unequal size: the new model is the weighted mean of what is left of each, by NumPy-style ranking."""
    on_ranks(1, _average_of_pruned_weights)


def _fail_the_pruning_round(rank: int, world_size: int) -> None:
    worker = make_worker(**_options("cubic"))
    rounds = make_rounds(worker)
    for round_ in (0, 1):
        rounds.run(round_)
    before = remembered(rounds, 4)
    train = rounds.trainer.train

    def failing(job: Any, state: Any) -> Any:
        update = train(job, state)
        update.values[3] = float("nan")
        return update

    rounds.trainer.train = failing
    with pytest.raises(RoundError):
        rounds.run(2)
    same(remembered(rounds, 4), before)
    rounds.trainer.train = train
    rounds.run(2)
    assert rounds.plan.held(0) < worker.state.layout.total


def test_a_failed_round_takes_its_mask_back() -> None:
    """The round that prunes fails: weights, moments and mask are as before, and the round can be run again."""
    on_ranks(1, _fail_the_pruning_round)


def test_a_run_that_diverges_ends_with_a_sentence(tmp_path: Path) -> None:
    """Weights that are not finite cannot be ranked: the error that `main` tells in one line."""
    with pytest.raises(RoundError):
        run_here(
            tmp_path, "run", **{**_options("cubic"), "lr": 1e25, "prune": "snip:0.5,by=client", "server": "fedavg"}
        )


def test_a_new_mask_is_logged(whole: Path) -> None:
    """When, how large, and what it does to moments and residuals."""
    log = (whole / "cubic" / "run.log").read_text()
    for round_ in (2, 4, 6):
        assert f"round {round_} begins with a mask of" in log
    assert "residuals are forgotten" in log


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"prune": "magnitud:0.5"}, "did you mean 'magnitude'"),
        ({"prune": "magnitude:1.5"}, "between 0 and 1"),
        ({"prune": "magnitude:0.5", "prune_schedule": "cubic:5,1,1"}, "--prune-schedule"),
        ({"prune": "gradient:0.5"}, "must begin after round 0"),
        ({"prune": "magnitude:0.5,by=after", "uplink": "none"}, "--error-feedback residual must be none"),
        ({"prune": "magnitude:0.5,by=after", "error_feedback": "none", "uplink": "topk:0.1"}, "sends weights"),
        ({"prune": "gradient:0.5,by=client"}, "use snip,by=client"),
        ({"prune": "structured:0.5,score=gradient"}, "must begin after round 0"),
        ({"prune": "structured:1"}, "no channel would be left"),
        ({"prune": "structured:0.5,by=after"}, "filters:0.5,by=after"),
        ({"prune": "structured:0.5", "engine": "deepspeed"}, "--engine must be ddp or accelerate"),
        ({"prune": "structured:0.5,scope=layer"}, "has no option 'scope'"),
        ({"prune": "structured:0.5", "model": "tests.user_code:linear_model"}, "no channels that could be dropped"),
        ({"prune": "structured:0.5", "model": "tests.user_code:mixing_model"}, "mixes its channels"),
        ({"prune": "structured:0.5,protect=typo"}, "'typo' is no layer"),
        ({"prune": "filters:0.5,scope=layer"}, "has no option 'scope'"),
        ({"prune": "filters:0.5,fc=0.9"}, "treats every layer alike"),
        ({"prune": "magnitude:0.5,min=0.3", "capabilities": "groups:1.0x2+0.1x2", "clients": 4}, "at most 0.7"),
        (
            {"prune": "magnitude:0", "capabilities": "uniform:0.2,1", "recover": "plateau:3", "val_fraction": 0.0},
            "above 0",
        ),
        (
            {
                "prune": "magnitude:0.5,by=after",
                "error_feedback": "none",
                "uplink": "csr_codec:csr",
                "finetune_rounds": 1,
            },
            "--uplink csr_codec:csr",
        ),
        ({"prune": "width:0"}, "no channel would be left"),
        ({"prune": "width:0.5,fc=0.1"}, "treats every layer alike"),
        ({"prune": "width:0.5", "prune_schedule": "oneshot:3"}, "it must be constant"),
        ({"prune": "width:0.5,shift=roling"}, "did you mean 'rolling'"),
        ({"prune": "prunefl:0.5,every=0"}, "whole number of at least 1"),
        ({"prune": "prunefl:0.5", "precision": "fp16"}, "use bf16 or fp32"),
        ({"prune": "prunefl:0.5", "prune_schedule": "oneshot:3"}, "say every=ROUNDS"),
        ({"prune": "snip:0.5", "capabilities": "uniform:0.2,1"}, "use snip:S,by=client"),
        ({"prune": "magnitude:0.5", "capabilities": "uniform:2,1"}, "--capabilities"),
        ({"prune": "magnitude:0.5", "recover": "plateau:3"}, "it needs --capabilities"),
        ({"prune": "magnitude:0.5", "capabilities": "uniform:0.2,1", "recover": "platau:3"}, "did you mean 'plateau'"),
        ({"prune": "magnitude:0.5,by=client,rewind"}, "rewind is for one mask"),
        ({"capabilities": "uniform:0.2,1"}, "--prune must not be none"),
        ({"prune": "magnitude:0.5,protect=none+fc"}, "protect must be"),
        ({"prune": "magnitude:0.5", "mode": "step"}, "--mode sync"),
        ({"prune": "magnitude:0.5", "uplink": "powersgd:2"}, "inside a mask"),
        ({"prune": "magnitude:0.5", "downlink": "csr_codec:csr"}, "inside a mask"),
    ],
)
def test_what_cannot_work_is_refused(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    """In one sentence, before anything is written."""
    with pytest.raises(ConfigError, match=words):
        run_here(tmp_path, "run", **options)
    assert not list(tmp_path.iterdir())
