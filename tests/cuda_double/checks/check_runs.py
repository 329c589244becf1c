"""Whole runs on the double. Oracle: the model of the same run on the CPU, to the bit; no wait in a local step."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fl.report
from fl import train
from fl.client import ClientTrainer
from fl.engine.plain import PlainEngine
from tests.cuda_double.recorder import recorder

SMALL: dict[str, Any] = {
    **{"dataset": "digits", "model": "lenet5", "precision": "fp32", "threads": 1, "quiet": True, "eval_every": 2},
    **{"limit_train": 60, "limit_test": 20, "clients": 2, "rounds": 2, "local_steps": 2, "batch_size": 8, "lr": 0.02},
    **{"uplink": "none"},
}
RUNS: dict[str, dict[str, Any]] = {
    "codecs both ways": {
        "uplink": "topk:0.05+log3+zstd",
        "downlink": "int8",
        "augment": "crop:1+flip",
        "clip_norm": 1.0,
    },
    "low rank, adaptive server": {"uplink": "powersgd:2", "server": "fedyogi", "client_eval": 0.2},
    "hook": {"exchange": "hook", "uplink": "topk:0.05", "clients": 1},
    "hook, dense": {"exchange": "hook", "clients": 1},
    "step": {"mode": "step", "uplink": "topk:0.05", "clients": 1},
    "structured": {"prune": "structured:0.4", "uplink": "topk:0.1"},
    "structured by gradient": {"prune": "structured:0.4,score=gradient", "prune_schedule": "oneshot:1"},
    "structured by client": {"prune": "structured:0.4,by=client"},
    "width": {"prune": "width:0.5,shift=rolling", "capabilities": "groups:1.0x1+0.5x1"},
    "snip": {"prune": "snip:0.8", "uplink": "bf16"},
    "prunefl": {"prune": "prunefl:0.8,every=1,size=adaptive,min=0.02"},
    "masks": {"prune": "filters:0.5", "capabilities": "uniform:0.3,1.0"},
    "buffered": {"mode": "buffered:2", "profiles": "pr-fl", "uplink": "topk:0.1", "clients": 4, "clients_per_round": 3},
    "scaffold": {"algorithm": "scaffold", "momentum": 0.0, "uplink": "topk:0.1", "error_feedback": "none"},
    "feddyn": {"algorithm": "feddyn:0.1", "optimizer": "adam"},
    "qat": {"qat": 8},
}


@pytest.fixture(autouse=True)
def _regions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts apart for the steps of a client and for what is around them; no pictures at the end."""
    monkeypatch.setattr(fl.report, "write_report", lambda folder: None)
    recorder.regions.clear()

    def counted(owner: Any, name: str, region: str) -> None:
        original: Callable[..., Any] = getattr(owner, name)

        @functools.wraps(original)
        def call(*args: Any, **kwargs: Any) -> Any:
            with recorder.region(region):
                return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, call)

    counted(PlainEngine, "step", "local step")
    counted(ClientTrainer, "train", "client")


@pytest.mark.parametrize("name", RUNS)
def test_a_run(name: str, tmp_path: Path) -> None:
    """The CPU's model; 0 waits in a step, and around the steps of a client at most two."""
    options = {**SMALL, **RUNS[name], "output_dir": str(tmp_path)}
    found = train(**options, device="cuda", run_name="cuda")
    step, client = recorder.regions["local step"], recorder.regions["client"]
    if options.get("mode") != "step":  # where the hook, at work during the backward pass, waits
        assert not step.waits, str(step)
    assert client.waits.total() <= 2 * client.times, str(client)
    expected = train(**options, device="cpu", run_name="cpu")
    assert found["model_sha256"] == expected["model_sha256"]


def test_resume(tmp_path: Path) -> None:
    """A run on the double that goes on from its checkpoint ends as one that was not interrupted."""
    options = {**SMALL, "device": "cuda", "uplink": "topk:0.05", "downlink": "topk:0.1", "server": "fedadam"}
    whole = train(**options, output_dir=str(tmp_path), run_name="whole")
    train(**{**options, "rounds": 1}, output_dir=str(tmp_path), run_name="cut")
    found = train(resume=str(tmp_path / "cut"), rounds=2, quiet=True)
    assert found["model_sha256"] == whole["model_sha256"]
