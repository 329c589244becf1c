"""Every lossy codec trains as well as none, on real MNIST.

Oracle: the dense run of the same seed and schedule; a codec may cost a point of test accuracy, not more.
"""

import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

from fl.data import mnist
from tests.support import ROOT, run_here

SETTING = {
    "dataset": "mnist",
    "download": False,
    "limit_train": 6000,
    "model": "lenet5",
    "clients": 2,
    "rounds": 30,
    "local_steps": 10,
    "batch_size": 32,
    "lr": 0.1,
    "momentum": 0.0,
    "eval_every": 30,
    "checkpoint_every": 0,
}
DOWNWARDS = {**SETTING, "clients": 4, "local_steps": 20}  # what the downlink leaves out takes longer to arrive
# All are named in docs/compression.md (checked below).
RECOMMENDED = (
    "fp16",
    "bf16+zstd",
    "int8+zstd",
    "int4+zstd",
    "log4",
    "sign",
    "qsgd:31",
    "topk:0.05+log3+zstd",
    "topk:0.05+int4+zstd",
    "topk:0.05+sign",
    "topk:0.1,scope=layer+bf16",
    "prune:0.95+log4+zstd",
    "threshold:0.01+bf16",
    "randk:0.25+bf16",
    "cost:0.05+log3+zstd",
    "powersgd:4",
)


@pytest.fixture(scope="module", autouse=True)
def _read_once() -> Iterator[None]:
    """The files of MNIST take a sixth of a run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mnist, "load", functools.cache(mnist.load))
        yield


@pytest.fixture(scope="module")
def dense(real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> float:
    """Test accuracy without compression."""
    summary = run_here(tmp_path_factory.mktemp("dense"), "dense", data_dir=str(real_data), uplink="none", **SETTING)
    return summary["final_test_accuracy"]


@pytest.mark.parametrize("uplink", RECOMMENDED)
def test_within_a_point_of_dense(uplink: str, dense: float, real_data: Path, tmp_path: Path) -> None:
    """At the setting that docs/compression.md recommends."""
    summary = run_here(tmp_path, "run", data_dir=str(real_data), uplink=uplink, **SETTING)
    assert summary["final_test_accuracy"] >= dense - 0.01
    assert summary["total_uplink_bytes"] < summary["total_uplink_dense_bytes"]


def test_every_kind_of_codec_serves_downwards(real_data: Path, tmp_path: Path) -> None:
    """Both directions compressed."""
    options = {**DOWNWARDS, "data_dir": str(real_data)}
    dense = run_here(tmp_path, "dense", uplink="none", **options)["final_test_accuracy"]
    for downlink in ("topk:0.1+log3+zstd", "int8", "powersgd:2"):
        summary = run_here(tmp_path, downlink.split(":")[0], uplink="topk:0.1+bf16", downlink=downlink, **options)
        assert summary["final_test_accuracy"] >= dense - 0.015, downlink
        assert summary["total_downlink_bytes"] < summary["total_downlink_dense_bytes"] / 3, downlink


def test_momentum_correction_with_warm_up(dense: float, real_data: Path, tmp_path: Path) -> None:
    """DGC: top 5 %, momentum 0.5 in the clients' memory, five rounds of warm-up."""
    options = {**SETTING, "uplink": "topk:0.05+bf16", "error_feedback": "dgc:0.5", "uplink_warmup": 5}
    summary = run_here(tmp_path, "run", data_dir=str(real_data), **options)
    assert summary["final_test_accuracy"] >= dense - 0.01


def test_the_documentation_names_what_is_tested() -> None:
    """Under "Recommended settings"."""
    section = (ROOT / "docs" / "compression.md").read_text().split("## Recommended settings")[1].split("\n## ")[0]
    assert all(f"`{spec}`" in section for spec in RECOMMENDED)


def test_error_feedback_beats_none_at_a_thousandth(real_data: Path, tmp_path: Path) -> None:
    """Top-k at 0.1 %, with and without what is left over, in half of the rounds."""
    accuracy = {}
    for feedback in ("residual", "none"):
        options = {**SETTING, "rounds": 15, "uplink": "topk:0.001", "error_feedback": feedback}
        accuracy[feedback] = run_here(tmp_path, feedback, data_dir=str(real_data), **options)["final_test_accuracy"]
    assert accuracy["residual"] > accuracy["none"] + 0.05, accuracy
