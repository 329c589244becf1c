"""A small experiment on digits, and how tests run it."""

import csv
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from fl.experiment import Experiment, read_experiment, run_experiment
from tests.support import no_figures

FILE: dict[str, Any] = {
    "name": "tiny",
    "base": {
        "dataset": "digits",
        "model": "lenet5",
        "precision": "fp32",
        "clients": 2,
        "limit_train": 120,
        "limit_test": 60,
        "batch_size": 16,
        "lr": 0.1,
        "rounds": 3,
    },
    "vary": ["uplink", "model"],
    "arms": {
        "dense": {"uplink": "none"},
        "topk 10 %": {"uplink": "topk:0.1"},
        "small": {"uplink": "none", "model": "simple_cnn"},
    },
    "seeds": [0, 1],
    "target": {"arm": "dense", "minus": 0.1},
}


CELLS = 6


def write(folder: Path, **keys: Any) -> Path:
    """The experiment's file with other keys."""
    path = folder / "tiny.yaml"
    # Every rank writes it: replaced at once, so that none reads what another has only begun.
    part = path.with_suffix(f".{os.getpid()}")
    part.write_text(yaml.safe_dump({**FILE, **keys}, sort_keys=False))
    os.replace(part, path)
    return path


def perform(folder: Path, *, keys: dict[str, Any] | None = None, **options: Any) -> Path:
    """Run the experiment in `folder` without the runs' figures; the folder of its results."""
    folder.mkdir(exist_ok=True)
    experiment: Experiment = read_experiment(write(folder, **(keys or {})))
    with no_figures():
        run_experiment(experiment, output_dir=str(folder / "out"), **options)
    return folder / "out" / "tiny"


def rows(folder: Path) -> list[dict[str, str]]:
    """The rows of results.csv as text."""
    with open(folder / "results.csv", newline="") as file:
        return list(csv.DictReader(file))


def replace_run(monkeypatch: pytest.MonkeyPatch, before: Callable[[Any], None]) -> None:
    import fl.experiment.runs as module

    original = module.run_to_the_end

    def run(config: Any, **options: Any) -> dict[str, Any]:
        before(config)
        return original(config, **options)

    monkeypatch.setattr(module, "run_to_the_end", run)
