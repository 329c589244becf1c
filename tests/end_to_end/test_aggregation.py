"""Whole runs with every rule of `--aggregate`: what they replay, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fl.common.config import Config
from fl.common.errors import ConfigError
from fl.run.checks import check_options, resolve
from tests.support import TIMES, resume_here, rows, run_here, run_on_ranks

_BASE = {"clients": 7, "clients_per_round": 5, "rounds": 3, "local_steps": 2, "batch_size": 16, "lr": 0.05}
_BASE |= {"limit_train": 280, "limit_test": 40, "uplink": "topk:0.1", "downlink": "topk:0.2"}
_RULES = ["median", "trimmed:0.2", "krum:1", "multikrum:1", "clip:0.5"]
_RUNS: dict[str, dict[str, Any]] = {rule: {**_BASE, "aggregate": rule} for rule in _RULES}
_RUNS["batch norm"] = {**_BASE, "aggregate": "median", "model": "tests.user_code:norm_model", "uplink": "none"}
_RUNS["krum, batch norm"] = {**_RUNS["batch norm"], "aggregate": "krum:1", "server": "fedadam"}
_RUNS["one mask"] = {**_BASE, "aggregate": "trimmed:0.2", "prune": "magnitude:0.5", "prune_schedule": "oneshot:1"}
_RUNS["buffered"] = {**_BASE, "aggregate": "krum:0", "mode": "buffered:3", "profiles": "good", "staleness": "poly:0.5"}
_RUNS["deadline"] = {**_BASE, "aggregate": "median", "deadline": 1e6, "over_select": 1.2, "profiles": "good"}


@pytest.fixture(scope="module")
def one_rank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every run on one rank."""
    folder = tmp_path_factory.mktemp("one")
    for name, options in _RUNS.items():
        run_here(folder, name, **options)
    return folder


def same(one: Path, other: Path) -> None:
    """Model bits, and every client's bytes and virtual times."""
    weights, others = (load_file(folder / "final_model.safetensors") for folder in (one, other))
    assert weights.keys() == others.keys()
    for name, tensor in weights.items():
        assert bool(torch.isfinite(tensor).all()), name
        assert torch.equal(tensor, others[name]), name
    without = (*TIMES, "rank")
    assert rows(one, "clients", without) == rows(other, "clients", without)


def test_two_ranks_make_the_same_bits(one_rank: Path, tmp_path: Path) -> None:
    """Invariant 2 of docs/architecture.md."""
    run_on_ranks(2, tmp_path, _RUNS)
    for name in _RUNS:
        same(one_rank / name, tmp_path / name)


@pytest.mark.parametrize("name", ["median", "krum, batch norm", "one mask", "buffered"])
def test_a_resumed_run_is_the_uninterrupted_one(one_rank: Path, tmp_path: Path, name: str) -> None:
    """Invariant 3: stopped after two of three rounds."""
    run_here(tmp_path, name, **{**_RUNS[name], "rounds": 2})
    resume_here(tmp_path, name, rounds=3)
    same(one_rank / name, tmp_path / name)


def test_the_rules_differ(one_rank: Path) -> None:
    """Each of them does something of its own to the same clients."""
    models = [load_file(one_rank / name / "final_model.safetensors") for name in _RULES]
    flat = [torch.cat([tensor.flatten().float() for tensor in model.values()]) for model in models]
    assert len({tuple(vector.tolist()) for vector in flat}) == len(_RULES)


def test_nothing_trimmed_is_the_mean_of_clients_of_one_size(tmp_path: Path) -> None:
    """Oracle: --aggregate mean, whose weights are equal here; sums differ in their order only."""
    options = {**_BASE, "uplink": "none", "downlink": "none", "model": "tests.user_code:norm_model"}
    for name, aggregate in (("mean", "mean"), ("trimmed", "trimmed:0"), ("chosen", "multikrum:0")):
        run_here(tmp_path, name, **options, aggregate=aggregate)
    assert len({row["samples"] for row in rows(tmp_path / "mean", "clients")}) == 1
    mean, *others = (load_file(tmp_path / name / "final_model.safetensors") for name in ("mean", "trimmed", "chosen"))
    for other in others:
        for name, tensor in mean.items():
            torch.testing.assert_close(other[name], tensor, rtol=1e-3, atol=1e-5)


def _checked(options: dict[str, Any]) -> Config:
    """As at the beginning of a run on one rank."""
    config = Config(**options)
    check_options(config)
    return resolve(config, world_size=1, threads=1)


_PLAIN = {"momentum": 0.0, "error_feedback": "none"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"aggregate": "medain"}, "--aggregate 'medain' is no rule"),
        ({"aggregate": "median", "exchange": "hook"}, "--exchange hook does not go with --aggregate median"),
        ({"aggregate": "clip:1", "mode": "step"}, "--mode step does not go with --aggregate clip:1"),
        ({"aggregate": "clip:1", "mode": "async:0.5"}, "--mode async:0.5 does not go with --aggregate clip:1"),
        ({"aggregate": "median", "prune": "snip:0.5,by=client"}, "--prune snip:0.5,by=client does not go"),
        ({"aggregate": "krum:1", "prune": "width:1", "capabilities": "uniform:0.5,1"}, "--prune width:1 does not go"),
        ({"aggregate": "krum:1", "deadline": 5, "profiles": "good"}, "--deadline 5 does not go .* 5 updates"),
        (
            {"aggregate": "median", "algorithm": "scaffold", **_PLAIN},
            "--algorithm scaffold does not go",
        ),
        ({"aggregate": "clip:1", "algorithm": "feddyn:0.1", **_PLAIN}, "--algorithm feddyn:0.1 does not go"),
        ({"aggregate": "krum:2", "clients": 6}, "needs at least 7 updates in a round: --clients-per-round 6"),
        ({"aggregate": "krum:1", "clients": 9, "mode": "buffered:4"}, "at least 5 updates .* --mode buffered:4"),
    ],
)
def test_what_does_not_go_together_is_refused(options: dict[str, Any], words: str) -> None:
    """One sentence that names the option, its value and what would be right."""
    with pytest.raises(ConfigError, match=words):
        _checked(options)


@pytest.mark.parametrize(
    "options",
    [
        {"aggregate": "clip:1", "prune": "width:1", "capabilities": "uniform:0.5,1"},
        {"aggregate": "median", "algorithm": "fednova"},
        {"aggregate": "krum:1", "clients": 5, "algorithm": "fedprox:0.1"},
        {"aggregate": "krum:1", "clients": 4, "mode": "buffered:5"},
    ],
)
def test_what_goes_together_is_not_refused(options: dict[str, Any]) -> None:
    """As docs/aggregation.md says."""
    assert _checked(options).aggregate == options["aggregate"]
