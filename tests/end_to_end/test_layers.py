"""layers.csv of real runs. Oracle: metrics.csv, the final model, and the run itself, uninterrupted."""

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from fl.output.report import write_report
from tests.end_to_end.replay import run_all_here
from tests.end_to_end.test_resume import OPTIONS, contents
from tests.support import resume_here, rows, run_here, run_on_ranks

_COMMON: dict[str, Any] = {**OPTIONS, "model": "lenet5", "rounds": 5, "lr_schedule": "constant"}
_RUNS: dict[str, dict[str, Any]] = {
    "mask": {"prune": "magnitude:0.8", "prune_schedule": "cubic:0,4,2", "uplink": "topk:0.2+log3"},
    "whole payloads": {"prune": "filters:0.5", "prune_schedule": "oneshot:2", "uplink": "none", "downlink": "none"},
    "masks that differ": {"prune": "magnitude:0.5", "capabilities": "uniform:0.2,1", "uplink": "topk:0.2"},
    "smaller model": {"prune": "structured:0.4", "prune_schedule": "oneshot:1", "uplink": "topk:0.2"},
    "after": {"prune": "magnitude:0.7,by=after", "uplink": "bf16+zstd", "downlink": "none", "error_feedback": "none"},
    "after, csr": {
        "prune": "filters:0.5,by=after",
        "uplink": "csr_codec:csr",
        "downlink": "none",
        "error_feedback": "none",
    },
}
_ALL = {name: {**_COMMON, **options} for name, options in _RUNS.items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all runs in one process."""
    return run_all_here(tmp_path_factory.mktemp("whole"), _ALL)


def _of_round(folder: Path, round_: int) -> list[dict[str, str]]:
    return [row for row in rows(folder, "layers") if int(row["round"]) == round_]


@pytest.mark.parametrize("name", _RUNS)
def test_layers_add_up_to_the_metrics(whole: Path, name: str) -> None:
    """Held coordinates make the round's sparsity, sent ones its kept fraction; the final zeros are the model's."""
    for metrics in rows(whole / name):
        table = _of_round(whole / name, int(metrics["round"]))
        total = sum(int(row["size"]) for row in table)
        assert 1 - sum(float(row["held"]) for row in table) / total == pytest.approx(float(metrics["sparsity"]))
        if name != "after, csr":  # which writes every zero of a row of its matrix down, and counts it as sent
            sent = sum(float(row["sent_fraction"]) * int(row["size"]) for row in table)
            assert sent / total == pytest.approx(float(metrics["kept_fraction"]), abs=1e-9)
    model = load_file(whole / name / "final_model.safetensors")
    last = _of_round(whole / name, 4)
    assert {row["layer"]: int(row["non_zeros"]) for row in last} == {
        layer: int(tensor.count_nonzero()) for layer, tensor in model.items()
    }


def test_what_each_kind_prunes(whole: Path) -> None:
    """In the last round: masks leave as many non-zeros as they hold; pruning after training drops what is not sent."""
    for row in _of_round(whole / "mask", 4):
        assert int(row["non_zeros"]) <= int(row["held"]) <= int(row["size"])
        assert float(row["pruned_fraction"]) == float(row["sparsity"])
    for row in _of_round(whole / "whole payloads", 4):
        assert float(row["sent_fraction"]) == 1 - float(row["sparsity"])
    for name in ("after", "after, csr"):
        pruned = 0.0
        for row in _of_round(whole / name, 4):
            assert row["held"] == row["size"]
            assert float(row["pruned_fraction"]) == pytest.approx(1 - float(row["sent_fraction"]))
            pruned += float(row["pruned_fraction"])
        assert pruned > 1


def test_two_ranks_write_the_same_file(whole: Path, tmp_path: Path) -> None:
    """Byte for byte."""
    run_on_ranks(2, tmp_path, _ALL)
    for name in _RUNS:
        assert (tmp_path / name / "layers.csv").read_bytes() == (whole / name / "layers.csv").read_bytes()


def test_a_resumed_run_writes_the_same_file(whole: Path, tmp_path: Path) -> None:
    """Stopped after three rounds, with rows of a fourth half written; the record of pruning is the same too."""
    for name, options in _ALL.items():
        run_here(tmp_path, name, **{**options, "rounds": 3})
        with open(tmp_path / name / "layers.csv", "a") as file:
            file.write("3,0.weight,450")
        resume_here(tmp_path, name, rounds=5)
        assert (tmp_path / name / "layers.csv").read_bytes() == (whole / name / "layers.csv").read_bytes()


def test_a_run_without_pruning_has_neither_file(tmp_path: Path) -> None:
    """No layers.csv, no pruning.json, no figure of layers; the cost of training is told all the same."""
    run_here(tmp_path, "run", **{**_COMMON, "rounds": 1})
    paths = write_report(tmp_path / "run", dpi=20)
    assert [path.stem for path in paths[5:]] == ["dashboard", "confusion"]
    assert not [name for name in contents(tmp_path / "run") if "layers" in name or "pruning" in name]
    row = rows(tmp_path / "run")[0]
    assert int(row["train_flops"]) > 0
    assert int(row["client_memory_bytes"]) > 4 * 62_006 * 3


def test_the_cost_is_the_sum_over_the_clients(whole: Path) -> None:
    """Three clients of one step of 8 samples on LeNet-5 with three channels: whatever the mask, but for a smaller model."""
    layers = 28 * 28 * 6 * 75 + 10 * 10 * 16 * 150 + 400 * 120 + 120 * 84 + 84 * 10
    small = 28 * 28 * 3 * 75 + 10 * 10 * 9 * 75 + 225 * 72 + 72 * 50 + 50 * 10
    for name in _RUNS:
        seen = [int(row["train_flops"]) / (3 * 8 * 3 * 2) for row in rows(whole / name)]
        assert seen == ([layers] + 4 * [small] if name == "smaller model" else 5 * [layers])
    first, *later = (int(row["client_memory_bytes"]) for row in rows(whole / "smaller model"))
    assert max(later) < first / 2


def test_the_report_has_a_record_of_pruning(whole: Path) -> None:
    """pruning.json and layers.png, from a real run."""
    paths = write_report(whole / "mask", dpi=20)
    assert "layers.png" in [path.name for path in paths]
    assert (whole / "mask" / "pruning.json").exists()
