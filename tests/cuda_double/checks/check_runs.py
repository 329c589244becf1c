"""Whole runs on the double. Oracle: the model of the same run on the CPU, to the bit; no wait in a local step."""

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import fl.output.report
from fl import train
from fl.training.engine.plain import PlainEngine
from fl.training.trainer import ClientTrainer
from tests.cuda_double.recorder import recorder
from tests.cuda_double.runs import RUNS, SMALL


@pytest.fixture(autouse=True)
def _regions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts apart for the steps of a client and for what is around them; no pictures at the end."""
    monkeypatch.setattr(fl.output.report, "write_report", lambda folder, **_: None)
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
    """The CPU's model; 0 waits in a step, and around the steps of a client at most two, or five where two moments and the
    number of steps come back."""
    options = {**SMALL, **RUNS[name], "output_dir": str(tmp_path)}
    found = train(**options, device="cuda", run_name="cuda")
    step, client = recorder.regions["local step"], recorder.regions["client"]
    if options.get("mode") != "step":  # where the hook, at work during the backward pass, waits
        assert not step.waits, str(step)
    most = 5 if options.get("local_state") == "keep" else 2
    assert client.waits.total() <= most * client.times, str(client)
    expected = train(**options, device="cpu", run_name="cpu")
    assert found["model_sha256"] == expected["model_sha256"]


def test_resume(tmp_path: Path) -> None:
    """A run on the double that goes on from its checkpoint ends as one that was not interrupted."""
    options = {**SMALL, "device": "cuda", "uplink": "topk:0.05", "downlink": "topk:0.1", "server": "fedadam"}
    whole = train(**options, output_dir=str(tmp_path), run_name="whole")
    train(**{**options, "rounds": 1}, output_dir=str(tmp_path), run_name="cut")
    found = train(resume=str(tmp_path / "cut"), rounds=2, quiet=True)
    assert found["model_sha256"] == whole["model_sha256"]


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision(precision: str, tmp_path: Path) -> None:
    """Runs to its end; a CPU, which has no fp16, takes other types, so that bits cannot be compared."""
    options = {**SMALL, "precision": precision, "clip_norm": 1.0, "device": "cuda", "output_dir": str(tmp_path)}
    assert train(**options)["model_sha256"]
