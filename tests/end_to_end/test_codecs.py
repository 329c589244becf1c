"""Every kind of codec, in both directions, in whole runs. Oracle: the same run in one process, uninterrupted."""

from pathlib import Path
from typing import Any

import pytest

from fl.common.errors import ConfigError
from tests.end_to_end.replay import check_resumed, check_two_ranks, run_all_here
from tests.end_to_end.test_resume import OPTIONS
from tests.support import rows, run_here

_RUNS: dict[str, dict[str, Any]] = {
    "stochastic": {"uplink": "topk:0.1+int4+zstd", "downlink": "qsgd:31"},
    "seeded": {"uplink": "randk:0.2+log3", "downlink": "randk:0.3+int8"},
    "low rank": {"uplink": "powersgd:1+bf16", "downlink": "powersgd:2+zstd"},
    "momentum": {
        "uplink": "topk:0.1+sign",
        "downlink": "sign",
        "error_feedback": "dgc:0.5",
        "uplink_warmup": 4,
        "momentum": 0.0,
        "server": "fedavg",
    },
    "no feedback": {"uplink": "cost:0.1,linear=2+int8", "downlink": "log4+zstd", "error_feedback": "none"},
    "rows": {"uplink": "csr_codec:csr", "downlink": "csr_codec:csr"},
}

_FOREIGN = "torch.distributed.algorithms.ddp_comm_hooks.default_hooks:fp16_compress_hook"


def _options(name: str) -> dict[str, Any]:
    return {**OPTIONS, "rounds": 6, "lr_schedule": "constant", **_RUNS[name]}


_ALL = {name: _options(name) for name in _RUNS}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of all runs in one process."""
    return run_all_here(tmp_path_factory.mktemp("whole"), _ALL)


def test_two_ranks_end_in_the_same_bits(whole: Path, tmp_path: Path) -> None:
    """Model, metrics, bytes."""
    check_two_ranks(tmp_path, _ALL, whole)


def test_resumed_on_another_number_of_ranks(whole: Path, tmp_path: Path) -> None:
    """Three ranks, stopped after three rounds, go on in one process: residuals, velocities, factors and keys come along."""
    check_resumed(tmp_path, _ALL, whole, ranks=3, stop=3)


def test_warm_up_falls_by_equal_factors(whole: Path) -> None:
    """From a quarter to a tenth in four rounds: factors of 0.4^(1/4); then constant."""
    kept = [float(row["kept_fraction"]) for row in rows(whole / "momentum")]
    expected = [0.25 * 0.4 ** (min(round_, 4) / 4) for round_ in range(6)]
    assert kept == pytest.approx(expected, abs=1e-3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"error_feedback": "dgc:0.9"}, "--momentum 0.9 must be 0"),
        ({"error_feedback": "dgc:0.9", "momentum": 0.0, "optimizer": "adam"}, "--optimizer must be sgd"),
        (
            {"error_feedback": "dgc:0.9", "momentum": 0.0, "server": "fedavgm"},
            "--server-momentum 0.9 of --server fedavgm must be 0",
        ),
        ({"error_feedback": "dgc:0.9", "momentum": 0.0, "server": "fedyogi"}, "--beta1 0.9"),
        ({"error_feedback": "dgc"}, "takes 1 argument"),
        ({"error_feedback": "rezidual"}, "did you mean 'residual'"),
        ({"error_feedback": "dgc:0.9", "momentum": 0.0, "uplink": "int8"}, "leaves none out"),
        ({"error_feedback": "dgc:0.9", "momentum": 0.0, "exchange": "hook", "hook": _FOREIGN}, "of your own"),
        ({"uplink_warmup": 3, "exchange": "hook", "hook": _FOREIGN}, "of your own"),
        ({"uplink": "threshold:1", "uplink_warmup": 3}, "no kept fraction"),
        ({"uplink": "topk:0.5", "uplink_warmup": 3}, "no kept fraction"),
        ({"uplink": "prune:1", "uplink_warmup": 3}, "no kept fraction"),
        ({"uplink": "topk:0.01+bf61"}, "did you mean 'bf16'"),
        ({"downlink": "log3+topk:0.1"}, "in this order"),
    ],
)
def test_what_cannot_work_is_refused(options: dict[str, Any], words: str, tmp_path: Path) -> None:
    """In one sentence, before anything is written."""
    with pytest.raises(ConfigError, match=words):
        run_here(tmp_path, "run", **options)
    assert not list(tmp_path.iterdir())
