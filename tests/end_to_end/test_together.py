"""Whole runs with `--clients-at-once`. Oracles: the run without it, and itself once more or interrupted."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.end_to_end.replay import check_resumed, run_all_here
from tests.end_to_end.test_resume import assert_same_run
from tests.support import TIMES, rows, run_here, run_on_ranks

_DENSE: dict[str, Any] = {
    "model": "tests.user_code:dense_model",
    "clients": 7,
    "clients_per_round": 5,
    "partition": "dirichlet:1",
    "limit_train": 300,
    "batch_size": 8,
    "lr": 0.002,  # a large one makes more of rounding in every step
    "uplink": "none",
    "rounds": 4,
}
_SLOW = {"profiles": "mix:good=0.5+2g=0.5,compute=1e8..1e9"}
_RUNS: dict[str, dict[str, Any]] = {
    "sync": {**_DENSE, "clients_at_once": 3},
    "all": {**_DENSE, "clients_at_once": 100, "uplink": "topk:0.1", "optimizer": "adam", "server": "fedadam"},
    "buffered": {**_DENSE, "clients_at_once": 4, "mode": "buffered:3", **_SLOW},
    "deadline": {**_DENSE, "clients_at_once": 4, "deadline": 1.0, "late": "carry", **_SLOW},
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The uninterrupted runs, in this process."""
    return run_all_here(tmp_path_factory.mktemp("whole"), _RUNS)


def _assert_close(one: Path, other: Path) -> None:
    """The same clients, samples and bytes, and the same model but for rounding."""
    columns = (*TIMES, "rank", "train_loss")
    assert rows(one, "clients", columns) == rows(other, "clients", columns)
    models = [load_file(folder / "final_model.safetensors") for folder in (one, other)]
    torch.testing.assert_close(models[0], models[1], rtol=1e-4, atol=1e-6)


def test_runs_are_those_of_one_client_after_another(whole: Path, tmp_path: Path) -> None:
    """Where everything is sent exactly, so that rounding cannot choose other coordinates; and they did train at once."""
    for name in ("sync", "buffered", "deadline"):
        run_here(tmp_path, name, **{**_RUNS[name], "clients_at_once": 1})
        _assert_close(whole / name, tmp_path / name)
        weights = [(folder / name / "final_model.safetensors").read_bytes() for folder in (whole, tmp_path)]
        assert weights[0] != weights[1], name


def test_runs_resume(whole: Path, tmp_path: Path) -> None:
    """To the same bits, on as many ranks."""
    check_resumed(tmp_path, _RUNS, whole, ranks=1, stop=2)


def test_two_ranks(whole: Path, tmp_path: Path) -> None:
    """Twice the same bits, and those of one rank but for rounding."""
    runs = {name: _RUNS[name] for name in ("sync", "buffered")}
    run_on_ranks(2, tmp_path, {**runs, "again": runs["sync"]})
    assert_same_run(tmp_path / "again", tmp_path / "sync")
    for name in runs:
        _assert_close(tmp_path / name, whole / name)


@pytest.mark.parametrize(
    "options",
    [{}, {"model": "tests.user_code:norm_model"}, {"model": "tests.user_code:dense_model", "algorithm": "fedprox:0.1"}],
    ids=["convolutions", "norm", "fedprox"],
)
def test_others_train_one_at_a_time(options: dict[str, Any], tmp_path: Path) -> None:
    """The same bits as without the option, and the log says why."""
    shared = {"rounds": 2, "limit_train": 100, "clients": 3, **options}
    run_here(tmp_path, "one", **shared)
    run_here(tmp_path, "three", **shared, clients_at_once=3)
    files = [(tmp_path / name / "final_model.safetensors").read_bytes() for name in ("one", "three")]
    assert files[0] == files[1]
    said = "--clients-at-once 3: clients train one at a time, since --"
    assert [said in (tmp_path / name / "run.log").read_text() for name in ("one", "three")] == [False, True]
