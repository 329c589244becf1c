"""What PyTorch is told for a run to replay. Oracle: PyTorch's own settings, and a run without any default device."""

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from fl import train
from fl.common.surroundings import replaying
from tests.support import QUICK

pytestmark = pytest.mark.slow


def settings() -> tuple[bool, ...]:
    return (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        torch.utils.deterministic.fill_uninitialized_memory,
    )


def test_a_gpu_gets_deterministic_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """For as long as the run lasts, also one that fails; what the user chose for cuBLAS stays, and a CPU needs nothing."""
    monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG", raising=False)
    before = settings()
    with replaying(torch.device("cpu")):
        assert settings() == before
        assert "CUBLAS_WORKSPACE_CONFIG" not in os.environ
    with replaying(torch.device("cuda")):
        assert settings() == (True, True, False)
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":4096:8"
    assert settings() == before
    with pytest.raises(KeyError), replaying(torch.device("cuda")):
        raise KeyError
    assert settings() == before
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    with replaying(torch.device("cuda")):
        assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == ":16:8"


def test_errors_stay_errors() -> None:
    """Who asked PyTorch to refuse what has no deterministic kernel is not given warnings instead."""
    before = settings()
    torch.use_deterministic_algorithms(True)
    try:
        with replaying(torch.device("cuda")):
            assert settings() == (True, False, False)
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])


@pytest.mark.parametrize(
    "options",
    [
        {
            "uplink": "topk:0.1+int8",
            "downlink": "topk:0.1",
            "augment": "crop:1",
            "client_eval": 0.2,
            "server": "fedadam",
        },
        {"prune": "structured:0.4,score=gradient", "prune_schedule": "oneshot:1"},
        {"prune": "prunefl:0.8,every=1", "uplink": "topk:0.1"},
        {"mode": "step", "uplink": "topk:0.05", "clients": 1},
    ],
)
def test_a_default_device_changes_nothing(tmp_path: Path, options: dict[str, Any]) -> None:
    """`torch.set_default_device` in the program around a run; on `meta` no number could be read."""
    options = {**QUICK, "clients": 2, "rounds": 2, "local_steps": 2, "limit_train": 100, "limit_test": 50, **options}
    plain = train(**options, output_dir=str(tmp_path), run_name="plain")
    torch.set_default_device("meta")
    try:
        found = train(**options, output_dir=str(tmp_path), run_name="meta")
    finally:
        torch.set_default_device(None)
    assert found["model_sha256"] == plain["model_sha256"]
