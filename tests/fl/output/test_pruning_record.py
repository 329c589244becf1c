"""pruning.json. Oracle: a made-up run of four rounds, by hand."""

import json
from pathlib import Path

import pytest

from fl.output.figures.run_data import read_run
from fl.output.pruning_record import write_pruning_record
from tests.fl.output.figures.run_folder import add_layers, make_run

_KEYS = [
    "round",
    "sparsity",
    "compression_ratio",
    "non_zero_params",
    "total_params",
    "accuracy",
    "original_size_mb",
    "compressed_size_mb",
    "size_reduction_percent",
]


def _write(folder: Path) -> list[dict[str, float]]:
    run = read_run(folder)
    record = write_pruning_record(run, folder)
    assert json.loads((folder / "pruning.json").read_text()) == record
    return record


def test_by_hand(tmp_path: Path) -> None:
    """Round 2: 20 of 300 weights are zero; three clients sent 3 MB where the dense model would have been 40."""
    record = _write(add_layers(make_run(tmp_path / "run"), ["a", "b", "c"]))
    assert [list(entry) for entry in record] == [_KEYS] * 4
    expected = [2, 20 / 300, 300 / 280, 280, 300, 0.68, 40 / 3, 1.0, 92.5]
    assert list(record[2].values()) == pytest.approx(expected)


def test_only_rounds_that_were_evaluated(tmp_path: Path) -> None:
    """Without a validation split there is no accuracy; without any evaluation there is no entry."""
    record = _write(add_layers(make_run(tmp_path / "test", val_accuracy=""), ["a"]))
    assert [entry["accuracy"] for entry in record] == [None] * 4
    assert _write(add_layers(make_run(tmp_path / "none", val_accuracy="", test_accuracy=""), ["a"])) == []


def test_a_model_of_zeros_has_no_ratio(tmp_path: Path) -> None:
    """Nothing is divided by zero."""
    folder = add_layers(make_run(tmp_path / "run"), ["a"])
    text = (folder / "layers.csv").read_text().replace(",100,0.0,0.01", ",0,0.0,0.01")
    (folder / "layers.csv").write_text(text)
    assert _write(folder)[0]["compression_ratio"] is None
