"""Runs on windows instead of images, and on numbers instead of classes. Oracles: the final model evaluated by hand with
scikit-learn's metrics, the same run on two ranks, the uninterrupted run."""

import csv
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn import metrics

from fl.common.errors import ConfigError
from fl.data import Split
from fl.export import export_run, load
from fl.output.record import read_metrics
from tests.end_to_end.replay import check_resumed, check_two_ranks
from tests.support import rows, run_here
from tests.user_tasks import NAMES, last, slopes, waves

_COMMON: dict[str, Any] = {
    "model": "tests.user_tasks:last",
    "partition": "natural",
    "rounds": 3,
    "local_epochs": 2,
    "batch_size": 16,
    "lr": 0.2,
    "uplink": "topk:0.2",
}
RUNS: dict[str, dict[str, Any]] = {
    "numbers": {**_COMMON, "dataset": "tests.user_tasks:waves", "client_eval": 0.2},
    "classes": {
        **_COMMON,
        **{
            "dataset": "tests.user_tasks:slopes",
            "client_eval": 0.1,
            "eval_every": 2,
            "uplink": "none",
            "local_epochs": 5,
        },
    },
    "buffered": {
        **_COMMON,
        **{"dataset": "tests.user_tasks:waves", "mode": "buffered:2", "profiles": "good", "clients_per_round": 3},
    },
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every run, uninterrupted."""
    folder = tmp_path_factory.mktemp("whole")
    for name, options in RUNS.items():
        run_here(folder, name, **options)
    return folder


def _outputs(folder: Path, outputs: int, split: Split) -> np.ndarray:
    """What the final model in `folder` says, by one forward pass."""
    model = last(outputs, 2)
    model.load_state_dict(load_file(folder / "final_model.safetensors"))
    with torch.no_grad():
        return model(split.x).double().numpy()


def test_regression_metrics(whole: Path, tmp_path: Path) -> None:
    """In the target's unit, on the test split and on the data set's own validation split, whatever --val-fraction says."""
    folder, data = whole / "numbers", waves(tmp_path)
    summary = json.loads((folder / "summary.json").read_text())
    assert data.validation is not None
    for name, split in (("test", data.test), ("val", data.validation)):
        predicted = _outputs(folder, 1, split)[:, 0] * data.target[1] + data.target[0]
        y = split.y.double().numpy()
        expected = {
            "mse": metrics.mean_squared_error(y, predicted),
            "mae": metrics.mean_absolute_error(y, predicted),
            "mape": metrics.mean_absolute_percentage_error(y, predicted),
            "r2": metrics.r2_score(y, predicted),
        }
        found = {metric: summary[f"final_{name}_{metric}"] for metric in expected}
        assert found == pytest.approx(expected, rel=1e-6)
        assert summary[f"final_{name}_loss"] == pytest.approx(expected["mse"] / data.target[1] ** 2, rel=1e-5)
    assert summary["final_test_r2"] > 0.5
    assert summary["best_val_r2"] == max(row["val_r2"] or 0 for row in read_metrics(folder))
    with open(folder / "predictions.csv", newline="") as file:
        pairs = np.array([[float(cell) for cell in row] for row in list(csv.reader(file))[1:]])
    assert pairs[:, 0].tolist() == data.test.y.tolist()
    assert metrics.r2_score(pairs[:, 0], pairs[:, 1]) == pytest.approx(summary["final_test_r2"])
    log = (folder / "run.log").read_text()
    assert "made of sines" in log
    assert "60 validation (the data set's own split, --val-fraction is not used), 90 test" in log


def test_classes_of_windows(whole: Path, tmp_path: Path) -> None:
    """Accuracy, macro-F1 and the confusion matrix, by name of the class, of the final model."""
    folder, data = whole / "classes", slopes(tmp_path)
    predicted = _outputs(folder, 3, data.test).argmax(1)
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["final_test_accuracy"] == pytest.approx(metrics.accuracy_score(data.test.y, predicted))
    assert summary["final_test_accuracy"] > 0.5
    assert summary["final_test_macro_f1"] == pytest.approx(metrics.f1_score(data.test.y, predicted, average="macro"))
    with open(folder / "confusion.csv", newline="") as file:
        header, *lines = csv.reader(file)
    assert header == ["class", *NAMES]
    assert [line[0] for line in lines] == [*NAMES]
    counts = metrics.confusion_matrix(data.test.y, predicted)
    assert [[int(cell) for cell in line[1:]] for line in lines] == counts.tolist()


@pytest.mark.parametrize(("name", "score"), [("numbers", "r2"), ("classes", "accuracy")])
def test_clients_scores(whole: Path, name: str, score: str) -> None:
    """The mean by samples and the worst one of five clients, from client_eval.csv, in every evaluated round and only
    there; what is held out is not trained on."""
    folder = whole / name
    clients = rows(folder, "client_eval")
    partition = np.array(json.loads((folder / "partition.json").read_text())["labels"]).sum(1)
    for row in read_metrics(folder):
        own = [each for each in clients if int(each["round"]) == row["round"]]
        if row[f"test_{score}"] is None:
            assert not own
            assert row[f"client_{score}"] is None
            continue
        held, scores = (np.array([float(each[column]) for each in own]) for column in ("samples", "score"))
        assert row[f"client_{score}"] == pytest.approx(np.average(scores, weights=held))
        assert row[f"worst10_{score}"] == scores.min()
        assert len(own) == 5
        share = RUNS[name]["client_eval"]
        assert held.tolist() == [round(share * (int(a) + int(b))) for a, b in zip(held, partition, strict=True)]


def test_without_client_evaluation_there_are_no_columns(whole: Path) -> None:
    """Nor a file, where --client-eval is off."""
    assert not (whole / "buffered" / "client_eval.csv").exists()
    assert "client_r2" not in rows(whole / "buffered")[0]


def test_two_ranks(whole: Path, tmp_path: Path) -> None:
    """Same model, metrics and bytes; same clients' scores."""
    check_two_ranks(tmp_path, RUNS, whole)
    for name in ("numbers", "classes"):
        assert rows(tmp_path / name, "client_eval") == rows(whole / name, "client_eval")


def test_continued(whole: Path, tmp_path: Path) -> None:
    """Two ranks run two rounds, this process the third."""
    runs = {"numbers": RUNS["numbers"], "buffered": RUNS["buffered"]}
    check_resumed(tmp_path, runs, whole, ranks=2, stop=2)
    assert rows(tmp_path / "numbers", "client_eval") == rows(whole / "numbers", "client_eval")


def test_exported(whole: Path, tmp_path: Path) -> None:
    """The exported model says the same, and is measured by the same metrics."""
    own = {name: RUNS["numbers"][name] for name in ("dataset", "model")}
    report = export_run(whole / "numbers", tmp_path / "export", bits=8, **own)
    assert report["run_test_r2"] == pytest.approx(report["files"]["model.safetensors"]["test_r2"], abs=1e-6)
    data = waves(tmp_path)
    with torch.no_grad():
        said = load(tmp_path / "export", model=own["model"])(data.test.x).double().numpy()
    assert np.allclose(said, _outputs(whole / "numbers", 1, data.test), atol=1e-6)
    structure = json.loads((tmp_path / "export" / "structure.json").read_text())
    assert structure["target"] == list(data.target)
    assert structure["sample_shape"] == [12, 2]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (
            {"dataset": "tests.user_tasks:waves", "partition": "dirichlet:0.3"},
            "--partition dirichlet:0.3 shares samples",
        ),
        ({"dataset": "tests.user_tasks:waves", "partition": "shards:2"}, "waves has numbers to predict: use iid"),
        ({"dataset": "tests.user_tasks:slopes", "augment": "flip"}, r"--augment flip is for images .* \[12, 2\]"),
        ({"dataset": "tests.user_tasks:slopes", "model": "lenet5"}, r"--model lenet5 takes images.*\[12, 2\]"),
        ({"dataset": "digits", "model": "mlp"}, r"--model mlp takes windows and rows.*\[3, 32, 32\]"),
        ({"model": "tests.user_tasks:two"}, "--model tests.user_tasks:two must give one number for each sample"),
    ],
)
def test_what_does_not_go_together(tmp_path: Path, options: dict[str, Any], says: str) -> None:
    """Oracle: one sentence, before the first round."""
    given = {"dataset": "tests.user_tasks:waves", "model": "tests.user_tasks:last", "clients": 4, **options}
    with pytest.raises(ConfigError, match=says):
        run_here(tmp_path, "refused", **given)
    assert not (tmp_path / "refused").exists()


@pytest.mark.parametrize(
    "options",
    [
        {"engine": "accelerate"},
        {"engine": "deepspeed"},
        {"mode": "step", "clients": 1, "partition": "iid", "lr": 0.02, "local_epochs": 8},
        {"exchange": "hook", "clients": 1, "partition": "iid", "local_epochs": 5},
        {"prune": "magnitude:0.3,by=client", "prune_schedule": "oneshot:1"},
        {"prune": "snip:0.3", "clients_per_round": 5},
        {"algorithm": "fedprox:0.01", "server": "fedavgm", "server_lr": 0.5, "server_momentum": 0.5},
    ],
    ids=lambda options: next(iter(options.items())),
)
def test_numbers_are_learned_in_every_way(
    tmp_path: Path, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Engines, modes and masks that look at gradients all make the error small, not the cross-entropy of something."""
    if options.get("engine") == "deepspeed":
        # DeepSpeed writes these for the whole process, in which Accelerate would then look for other ranks.
        for name, value in (("LOCAL_RANK", "0"), ("DS_ACCELERATOR", "cpu")):
            monkeypatch.setenv(name, os.environ.get(name, value))
    summary = run_here(tmp_path, "run", **{**RUNS["numbers"], "uplink": "none", **options})
    assert summary["final_test_r2"] > 0.3
