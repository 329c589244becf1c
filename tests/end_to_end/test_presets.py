"""The presets, as a user starts them, with fewer rounds and samples. Oracle: what their comments promise."""

import json
import math
from dataclasses import fields, replace
from pathlib import Path

import pytest

from fl.common.config import Config
from fl.pruning.schedule import parse_prune_schedule, sparsity_at
from fl.pruning.spec import parse_pruning
from fl.run.cli import parse
from tests.support import ROOT, rows, run_here

PRESETS = sorted(path.stem for path in (ROOT / "configs").glob("*.yaml"))

_RECOMMENDED = {  # sparsity, first round, last round, rounds between steps
    "pruning_unstructured": (0.5, 10, 100, 5),
    "pruning_structured": (0.4, 15, 150, 10),
    "pruning_gentle": (0.3, 20, 200, 10),
    "emotion": (0.5, 10, 100, 5),
}
_PARAMETERS = {  # published counts; of a ResNet, its layers' for ten and for the ten classes of the Tiny-ImageNet subset
    "cifar10_resnet18": 11_173_962,
    "cifar10_resnet50": 23_520_842,
    "cifar10_vgg11": 9_750_922,
    "demo": 804_096,
    "diloco": 804_096,
    "emotion": 2_345_607,
    "femnist_conv2": 6_603_710,
    "mental_state": 754_459,
    "mnist_lenet5": 44_426,
    "pfl_benchmark": 1_626_442,
    "pruning_gentle": 44_426,
    "pruning_structured": 1_626_442,
    "pruning_unstructured": 824_458,
    "quickstart": 11_181_642,
    "sparseloco": 804_096,
    "streaming_diloco": 804_096,
    "temperature": 11_251,
    "tiny_imagenet_resnet18": 11_173_962,
    "unreliable_clients": 62_006,
}


def _preset(name: str) -> Config:
    return parse(["--config", str(ROOT / "configs" / f"{name}.yaml")])[0]


@pytest.mark.parametrize("name", _RECOMMENDED)
def test_the_schedule_is_the_recommended_one(name: str) -> None:
    """Nothing up to BEGIN, all from END on, and the run is long enough to go on under the final mask."""
    config, (sparsity, begin, end, every) = _preset(name), _RECOMMENDED[name]
    schedule, pruning = parse_prune_schedule(config.prune_schedule), parse_pruning(config.prune)
    assert pruning.sparsity == sparsity
    at = [sparsity_at(schedule, sparsity, round_) for round_ in range(config.rounds)]
    assert at[begin] == 0 < at[begin + every]
    assert at[end - 1] < at[end] == at[-1] == sparsity
    assert config.rounds > end


def test_published_settings() -> None:
    """PruneFL's for FEMNIST, and the workload on which simulators are compared: 1,000 clients of 50 of the 50,000 images."""
    femnist, workload = _preset("femnist_conv2"), _preset("pfl_benchmark")
    assert (femnist.clients, femnist.clients_per_round, femnist.local_steps, femnist.batch_size) == (100, 10, 5, 20)
    assert (workload.clients, workload.clients_per_round, workload.val_fraction, workload.partition) == (
        1000,
        50,
        0,
        "iid",
    )
    assert (workload.local_epochs, workload.batch_size, workload.lr, workload.momentum) == (1, 10, 0.1, 0)
    assert (workload.uplink, workload.downlink) == ("none", "none")


@pytest.mark.parametrize("name", PRESETS)
def test_the_preset_runs(name: str, real_data: Path, tmp_path: Path) -> None:
    """Two rounds on its own data, with at most four clients, two of them a round, of a step each: finite figures, its
    network's parameters, bytes sent. What it prunes on a schedule, it prunes in the second round."""
    preset = _preset(name)
    scheduled = preset.prune_schedule != "constant"
    config = replace(
        preset,
        data_dir=str(real_data),
        download=False,
        rounds=2,
        clients=min(preset.clients or 4, 4),
        clients_per_round=2,
        min_clients=preset.min_clients and 1,
        limit_train=80,
        limit_test=8,
        val_fraction=0.1,
        local_epochs=None,
        local_steps=1,
        batch_size=2,
        eval_every=2,
        checkpoint_every=0,
        prune_schedule="oneshot:1" if scheduled else "constant",
    )
    default = Config()
    given = {f.name: getattr(config, f.name) for f in fields(Config)}
    changed = {key: value for key, value in given.items() if value != getattr(default, key)}
    run_here(tmp_path, name, **{**changed, "dataset": config.dataset, "model": config.model})
    folder = tmp_path / name
    table = rows(folder)
    assert [row["clients"] for row in table] == ["2", "2"]
    assert all(math.isfinite(float(row["train_loss"])) for row in table)
    assert all(math.isfinite(float(table[-1][column])) for column in ("val_loss", "test_loss"))
    assert all(int(row["uplink_bytes"]) > 0 for row in table)
    assert [float(row["sparsity"]) > 0.1 for row in table] == (
        [False, True] if scheduled else [config.prune != "none"] * 2
    )
    assert bool(rows(folder, "layers")) if config.prune != "none" else not (folder / "layers.csv").exists()
    assert len(json.loads((folder / "partition.json").read_text())["labels"]) == config.clients
    assert json.loads((folder / "summary.json").read_text())["parameters"] == _PARAMETERS[name]
