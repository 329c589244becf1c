"""A short run on the published data sets themselves."""

import json
from pathlib import Path
from typing import Any

from tests.support import rows, run_on_ranks

_RUNS: dict[str, dict[str, Any]] = {
    "cifar10": {"dataset": "cifar10", "lr": 0.03, "augment": "none", "uplink": "topk:0.5"},
    "mnist": {"dataset": "mnist", "lr": 0.03, "partition": "dirichlet:1", "uplink": "topk:0.5"},
}


def test_learning_on_cifar10_and_mnist(real_data: Path, tmp_path: Path) -> None:
    """Four clients on two ranks with top-k and FedAvg learn within three rounds; nothing is downloaded or written there.

    Chance is 10 %. MNIST is learnt far beyond that, CIFAR-10 clearly so.
    """
    common = {
        "data_dir": str(real_data),
        "download": False,
        "clients": 4,
        "limit_train": 3000,
        "batch_size": 16,
        "rounds": 3,
        "eval_every": 3,
    }
    before = sorted(path for path in real_data.rglob("*"))
    run_on_ranks(2, tmp_path, {name: {**common, **options} for name, options in _RUNS.items()})
    accuracy = {}
    for name in _RUNS:
        summary = json.loads((tmp_path / name / "summary.json").read_text())
        accuracy[name] = summary["final_test_accuracy"]
        assert len(rows(tmp_path / name)) == 3
    assert accuracy["mnist"] > 0.6, accuracy
    assert accuracy["cifar10"] > 0.18, accuracy
    assert sorted(path for path in real_data.rglob("*")) == before
