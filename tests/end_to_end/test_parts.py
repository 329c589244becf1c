"""Runs whose clients hold parts of the model: own masks, levels, smaller models, growth. Oracle: the run itself."""

from pathlib import Path
from typing import Any

import pytest

from tests.end_to_end.replay import check_resumed, check_two_ranks, run_all_here
from tests.end_to_end.test_resume import OPTIONS
from tests.support import rows

_RUNS: dict[str, dict[str, Any]] = {
    "own": {"prune": "magnitude:0.5,by=client", "capabilities": "groups:1.0x1+0.5x3", "prune_schedule": "linear:1,5,2"},
    "own, snip": {"prune": "snip:0.7,by=client", "uplink": "topk:0.2+log3"},
    "own, channels": {"prune": "structured:0.3,by=client,score=gradient", "server": "fedadam"},
    "snip": {"prune": "snip:0.8", "prune_schedule": "oneshot:1"},
    "structured": {"prune": "structured:0.4", "prune_schedule": "linear:1,5,2", "downlink": "bf16"},
    "levels": {
        "prune": "magnitude:0.1",
        "capabilities": "groups:1.0x1+0.6x1+0.1x2",
        "recover": "schedule:2,2",
        "uplink": "topk:0.3",
    },
    "levels, plateau": {
        "prune": "gradient:0.2,mean=cohort",
        "prune_schedule": "linear:2,6,2",
        "capabilities": "groups:1.0x2+0.3x2",
        "recover": "plateau:1,0.5",
    },
    "smaller": {
        "prune": "structured:0",
        "capabilities": "groups:1.0x1+0.6x1+0.3x2",
        "recover": "schedule:3,2",
        "model": "tests.user_code:norm_model",
    },
    "width": {"prune": "width:1", "capabilities": "groups:1.0x1+0.5x3", "partition": "labels:3"},
    "rolling": {"prune": "width:0.5,shift=rolling", "model": "tests.user_code:norm_model"},
    "prunefl": {"prune": "prunefl:0.7,every=3", "uplink": "topk:0.3+bf16"},
    "rewind": {"prune": "magnitude:0.7,rewind", "prune_schedule": "iterative:1,5,2"},
}
_ALL = {
    name: {**OPTIONS, "model": "lenet5", "rounds": 8, "lr_schedule": "constant", **options}
    for name, options in _RUNS.items()
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all runs in one process."""
    return run_all_here(tmp_path_factory.mktemp("whole"), _ALL)


def test_two_ranks_end_in_the_same_bits(whole: Path, tmp_path: Path) -> None:
    """Model, metrics, bytes."""
    check_two_ranks(tmp_path, _ALL, whole)


def test_resumed_on_another_number_of_ranks(whole: Path, tmp_path: Path) -> None:
    """Two ranks, stopped after three rounds, go on in one process: masks, growth and rankings are all there."""
    check_resumed(tmp_path, _ALL, whole, ranks=2, stop=3)


def test_parts_grow_when_the_schedule_says_so(whole: Path) -> None:
    """Levels 0.1 become 0.3, 0.6 and 1.0: the mean sparsity of full cohorts never rises."""
    sparsity = [float(row["sparsity"]) for row in rows(whole / "levels")]
    assert sparsity[-1] < sparsity[0]


def test_smaller_models_train_fewer_numbers(whole: Path) -> None:
    """An uplink without compression is as large as the part that is trained."""
    assert float(rows(whole / "structured")[-1]["sparsity"]) > 0.4
    assert float(rows(whole / "rolling")[0]["sparsity"]) > 0.49
