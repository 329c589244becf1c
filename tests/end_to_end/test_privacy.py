"""Whole runs with `--dp`: they replay, count every round, and go on after rounds that nobody took part in."""

import json
from pathlib import Path
from typing import Any

import pytest

from fl.common.errors import ConfigError
from fl.server import privacy_spec
from fl.server.privacy import epsilon
from fl.training.trainer import ClientTrainer
from tests.end_to_end.replay import check_resumed, check_two_ranks, run_all_here
from tests.support import rows, run_here

_DP = "clip:0.5,noise=0.8,delta=1e-5"
_BASE = {"clients": 6, "clients_per_round": 2, "rounds": 4, "local_steps": 2, "batch_size": 16, "seed": 5}
_BASE |= {"limit_train": 240, "limit_test": 40, "uplink": "topk:0.1", "dp": _DP}
_RUNS: dict[str, dict[str, Any]] = {
    "fixed": {**_BASE, "downlink": "topk:0.2", "algorithm": "fedprox:0.1", "profiles": "good"},
    "adaptive": {**_BASE, "dp": f"{_DP},adaptive=0.5", "server": "fedadam", "clients_per_round": 1, "seed": 4},
    "one mask": {**_BASE, "prune": "magnitude:0.5", "prune_schedule": "oneshot:1", "error_feedback": "none"},
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every run on one rank, uninterrupted."""
    return run_all_here(tmp_path_factory.mktemp("whole"), _RUNS)


def test_two_ranks_draw_the_same_clients_and_noise(whole: Path, tmp_path: Path) -> None:
    """Invariant 2 of docs/architecture.md."""
    check_two_ranks(tmp_path, _RUNS, whole)


def test_a_resumed_run_draws_the_same_and_goes_on_counting(whole: Path, tmp_path: Path) -> None:
    """Stopped after two of four rounds: the same bits, epsilon and norms."""
    check_resumed(tmp_path, _RUNS, whole, ranks=1, stop=2)


def test_epsilon_is_that_of_the_rounds_and_the_sampling(whole: Path) -> None:
    """Oracle: `epsilon`, which is compared with closed forms elsewhere; summary.json ends where metrics.csv does."""
    for name, options in _RUNS.items():
        share = options["clients_per_round"] / options["clients"]
        told = [float(row["epsilon"]) for row in rows(whole / name)]
        assert told == [epsilon(0.8, share, rounds, 1e-5) for rounds in (1, 2, 3, 4)]
        summary = json.loads((whole / name / "summary.json").read_text())
        assert (summary["epsilon"], summary["delta"]) == (told[-1], 1e-5)


def test_how_many_take_part_is_drawn_and_may_be_none(whole: Path) -> None:
    """A round without clients has its row, its noise and its step; the next clients download all that they missed."""
    found = rows(whole / "adaptive")
    assert "0" in {row["clients"] for row in found}
    assert len({row["clients"] for row in found}) > 1
    for row in found:
        assert (row["train_loss"] == "") == (row["clients"] == "0")
        assert float(row["update_norm"]) > 0
        assert row["val_loss"]


def test_noise_stays_inside_the_mask(whole: Path) -> None:
    """No more weights than the mask has are other than zero, with noise on all coordinates."""
    found = rows(whole / "one mask", "layers")
    assert {row["sparsity"] == "0.0" for row in found} == {True, False}
    assert all(int(row["non_zeros"]) <= float(row["held"]) for row in found)


def test_a_client_that_fails_counts_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean is over the six that were expected, however many of their updates, which are all alike, count."""
    options = {**_BASE, "clients_per_round": 6, "rounds": 1, "uplink": "none", "min_clients": 1}
    train = ClientTrainer.train

    def run_without(failing: set[int]) -> float:
        def fail(trainer: Any, job: Any, model: Any) -> Any:
            if job.client in failing:
                raise ValueError("this client fails")
            update = train(trainer, job, model)
            update.values.fill_(1.0)  # far beyond the norm
            return update

        monkeypatch.setattr(ClientTrainer, "train", fail)
        name = f"without-{len(failing)}"
        run_here(tmp_path, name, **options)
        return float(rows(tmp_path / name)[0]["update_norm"])

    noise = 0.8 * 0.5 / 6 * 62006**0.5
    for failing in (set[int](), {1}, {0, 2, 3, 4, 5}):
        share = (6 - len(failing)) * 0.5 / 6
        assert run_without(failing) ** 2 == pytest.approx(noise**2 + share**2, rel=0.02)


def test_what_cannot_be_private_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Running statistics, a delta that protects nobody, and no accountant: one sentence each, and no run folder."""
    with pytest.raises(ConfigError, match="norm_model has running statistics"):
        run_here(tmp_path, "run", **{**_BASE, "model": "tests.user_code:norm_model"})
    with pytest.raises(ConfigError, match="delta must be below 1 / --clients 6"):
        run_here(tmp_path, "run", **{**_BASE, "dp": "clip:1,noise=1,delta=0.2"})
    monkeypatch.setattr(privacy_spec.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"needs the package dp-accounting: pip install 'leanfed\[privacy\]'"):
        run_here(tmp_path, "run", **_BASE)
    assert not list(tmp_path.iterdir())
