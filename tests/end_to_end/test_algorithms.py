"""Runs with each client and server algorithm. Oracles: the run itself, uninterrupted; FedAvg; the papers' sums."""

from pathlib import Path
from typing import Any

import pytest
import torch

from fl.common.errors import ConfigError
from tests.end_to_end.parts import start_rounds
from tests.end_to_end.replay import check_resumed, check_two_ranks, run_all_here
from tests.end_to_end.test_resume import OPTIONS
from tests.support import on_ranks, rows, run_here

_UNEQUAL = {"partition": "quantity:0.8", "local_steps": None, "local_epochs": 1, "momentum": 0.0}
_SUMS = {**_UNEQUAL, "error_feedback": "none"}
_RUNS: dict[str, dict[str, Any]] = {
    "prox": {**_UNEQUAL, "algorithm": "fedprox:0.1"},
    "prox, pruned": {**_UNEQUAL, "algorithm": "fedprox:0.1", "prune": "magnitude:0.5,protect=vectors"},
    "nova": {**_UNEQUAL, "algorithm": "fednova", "momentum": 0.9},
    "scaffold": {**_SUMS, "algorithm": "scaffold"},
    "dyn": {**_SUMS, "algorithm": "feddyn:0.1", "server": "fedavg"},
}
_ALL = {name: {**OPTIONS, "rounds": 6, "lr_schedule": "constant", **options} for name, options in _RUNS.items()}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all runs in one process."""
    return run_all_here(tmp_path_factory.mktemp("whole"), _ALL)


def test_two_ranks_end_in_the_same_bits(whole: Path, tmp_path: Path) -> None:
    """Model, metrics, bytes."""
    check_two_ranks(tmp_path, _ALL, whole)


def test_resumed_on_another_number_of_ranks(whole: Path, tmp_path: Path) -> None:
    """Two ranks, stopped after three rounds, go on in one process: variates and linear terms are all there."""
    check_resumed(tmp_path, _ALL, whole, ranks=2, stop=3)


def test_a_variate_is_downloaded_by_who_takes_part(whole: Path) -> None:
    """Three clients a round; from the second on each also downloads n numbers in fp32 and a header."""
    plain = dict(_ALL["scaffold"], algorithm="fedavg")
    downloads = []
    for row in rows(whole / "scaffold"):
        downloads.append(int(row["downlink_bytes"]))
    run_here(whole, "plain", **plain)
    parameters = 24 + 4 * (3 * 4 * 25 + 4 + 8 + 64 * 10 + 10)
    others = [int(row["downlink_bytes"]) for row in rows(whole / "plain")]
    assert downloads[0] == others[0]
    extra = [(mine - other) / parameters for mine, other in zip(downloads[1:], others[1:], strict=True)]
    assert all(2.5 < each < 3.5 for each in extra), extra


def _sums(rank: int, world_size: int) -> None:
    worker, rounds = start_rounds(algorithm="scaffold", **_SUMS, uplink="topk:0.3")
    for round_ in range(3):
        rounds.run(round_)
    own = [rounds.states.get(client) for client in range(4)]
    layout = worker.state.layout
    mean = sum(state["algorithm"]["variate"] for state in own) / 4
    torch.testing.assert_close(rounds.state_dict()["algorithm"]["variate"], mean, rtol=1e-4, atol=1e-6)
    assert mean.numel() == layout.total
    assert mean.abs().sum() > 0


def _no_spring_is_averaging(rank: int, world_size: int) -> None:
    ends = []
    for algorithm in ("fedavg", "fedprox:0", "fedprox:1"):
        worker, rounds = start_rounds(algorithm=algorithm, **_UNEQUAL)
        start = worker.state.parameters.clone()
        for round_ in range(2):
            rounds.run(round_)
        ends.append((worker.state.parameters, (worker.state.parameters - start).norm()))
    assert torch.equal(ends[0][0], ends[1][0])
    assert ends[2][1] < ends[0][1], "a spring holds clients back"


def _nova_of_equal_steps_is_averaging(rank: int, world_size: int) -> None:
    ends = []
    for algorithm in ("fedavg", "fednova"):
        worker, rounds = start_rounds(algorithm=algorithm, local_steps=3, momentum=0.9)
        rounds.run(0)
        ends.append(worker.state.parameters)
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("check", [_sums, _no_spring_is_averaging, _nova_of_equal_steps_is_averaging])
def test_in_the_rounds(check: Any) -> None:
    """SCAFFOLD's c is the mean of all c_i; FedProx without a spring, and FedNova with equal steps, are FedAvg."""
    on_ranks(1, check)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"algorithm": "fedprx:1"}, "did you mean 'fedprox'"),
        ({"algorithm": "fedprox"}, "takes a strength"),
        ({"algorithm": "scaffold"}, "--error-feedback none"),
        ({"algorithm": "scaffold", "error_feedback": "none"}, "--momentum 0.9"),
        ({"algorithm": "feddyn:0.1", "error_feedback": "none", "server": "fedadam"}, "--server fedadam"),
        ({"algorithm": "fednova", "optimizer": "adam"}, "--optimizer adam"),
    ],
)
def test_what_cannot_work_is_refused(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    """In one sentence, before anything is written."""
    with pytest.raises(ConfigError, match=words):
        run_here(tmp_path, "run", **options)
    assert not list(tmp_path.iterdir())
