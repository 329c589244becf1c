"""`benchmarks/gpu.sh` and what reads its runs. Oracle: the statuses in the script's head, and tables written by hand."""

import importlib.util
import json
import os
import subprocess
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from tests.support import ROOT

SCRIPT = ROOT / "benchmarks" / "gpu.sh"


def _load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _slice(tmp_path: Path, body: str, *words: str) -> subprocess.CompletedProcess[str]:
    """The script with a stand-in for Python that notes its arguments and then does `body`."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\ncase "$*" in *fl.experiment*) {body} ;; esac\n')
    python.chmod(0o755)
    given = {"PYTHON": str(python), "GPU_SLICE_S": "1", "GPU_OUT": str(tmp_path / "out"), "DATA": "there"}
    return subprocess.run(
        [str(SCRIPT), *words], env={**os.environ, **given}, capture_output=True, text=True, timeout=60, check=False
    )


def _calls(tmp_path: Path) -> list[str]:
    return (tmp_path / "calls").read_text().splitlines()


def test_a_slice_that_is_over_asks_to_be_called_again(tmp_path: Path) -> None:
    """Status 3 when time is up; the GPU was looked for first, and OPTIONS went to the runner."""
    checkpoint = tmp_path / "out" / "gpu-resnet18" / "dense-seed0" / "checkpoints" / "manifest-000005.json"
    body = f"mkdir -p {checkpoint.parent}; touch {checkpoint}; exec sleep 30"
    result = _slice(tmp_path, body, "resnet18", "--only", "dense")
    assert (result.returncode, "the same command goes on" in result.stdout) == (3, True)
    check, call = _calls(tmp_path)
    assert check == "benchmarks/gpu.py --check"
    assert call == (
        f"-m fl.experiment experiments/gpu_resnet18.yaml --data-dir there --output-dir {tmp_path}/out --only dense"
    )


def test_a_slice_without_a_checkpoint_would_go_on_for_ever(tmp_path: Path) -> None:
    """Status 4, so that a loop over slices ends: the next one would begin where this one began."""
    result = _slice(tmp_path, "exec sleep 30", "adaptive")
    assert (result.returncode, "GPU_SLICE_S 1 must be longer" in result.stderr) == (4, True)


@pytest.mark.parametrize("name", ["mine", "gpu-adaptive"])
def test_a_finished_experiment(tmp_path: Path, name: str) -> None:
    """Status 0; a file of one's own needs no GPU. Of gpu-adaptive, the last rounds of every run folder are read."""
    (tmp_path / "out" / name / "a-seed0").mkdir(parents=True)
    (tmp_path / "mine.yaml").write_text(f"name: {name}\n")
    assert _slice(tmp_path, "true", str(tmp_path / "mine.yaml")).returncode == 0
    call, *figures = _calls(tmp_path)
    assert call.startswith(f"-m fl.experiment {tmp_path}/mine.yaml")
    assert figures == (
        [f"benchmarks/gpu/last_rounds.py {tmp_path}/out/{name}/a-seed0/"] if name == "gpu-adaptive" else []
    )


def test_an_error_is_no_slice(tmp_path: Path) -> None:
    """The runner's own status comes through, so that a loop over slices ends; an unknown name is 2."""
    assert _slice(tmp_path, "exit 2", "adaptive").returncode == 2
    result = _slice(tmp_path, "true", "resnet19")
    assert (result.returncode, "there is no experiments/gpu_resnet19.yaml" in result.stderr) == (2, True)


def test_the_mean_of_the_last_rounds(tmp_path: Path) -> None:
    """Of 12 rounds, evaluated in every third, the last six (6 to 11) hold 8 and 11."""
    lines = ["round,test_accuracy"] + [f"{n},{'' if n % 3 != 2 else 0.25 * (n // 3)}" for n in range(12)]
    (tmp_path / "metrics.csv").write_text("\n".join(lines) + "\n")
    tool = _load(ROOT / "benchmarks" / "gpu" / "last_rounds.py")
    assert tool.evaluations(tmp_path, 6) == [(8, 0.5), (11, 0.75)]
    (tmp_path / "metrics.csv").write_text("round,test_accuracy\n0,\n")
    with pytest.raises(ValueError, match="none of the last 7 of 1 rounds was evaluated"):
        tool.evaluations(tmp_path, 7)


def test_step_times_leave_out_the_warm_up(tmp_path: Path) -> None:
    """Two clients on a rank, steps of 1 s first and 20 ms later: medians 20 ms and 5 ms, 1,000 and 4,000 bytes a client,
    40,000 bits, which take 0.4 ms at 100 Mbit/s."""
    tool = _load(ROOT / "Bandwidth Analysis" / "cifar10_compression" / "step_times.py")
    rounds, clients = ["round,exchange_s"], ["round,client,rank,train_s,uplink_bytes,downlink_bytes"]
    for n in range(tool.WARM_UP + 3):
        slow = n < tool.WARM_UP
        rounds.append(f"{n},{3 if slow else 0.005}")
        clients += [f"{n},{client},0,{1 if slow else 0.02},{9 if slow else 1000},4000" for client in (0, 1)]
    (tmp_path / "metrics.csv").write_text("\n".join(rounds))
    (tmp_path / "clients.csv").write_text("\n".join(clients))
    found = tool.step_times(tmp_path)
    assert json.loads(json.dumps(found)) == {
        "steps": 3,
        "compute_ms": 20.0,
        "communicate_ms": 5.0,
        "ranks": 1,
        "uplink_bytes": 1000,
        "downlink_bytes": 4000,
        "transfer_ms_100_mbit": 0.4,
    }
    (tmp_path / "metrics.csv").write_text("round,exchange_s\n0,1\n")
    with pytest.raises(ValueError, match="more than 5 rounds"):
        tool.step_times(tmp_path)


def test_equal_parts_of_unequal_classes() -> None:
    """Reddi et al.'s partition: all samples dealt, equal sizes; few classes a client at alpha 0.1, nearly all at 100."""
    tool = _load(ROOT / "benchmarks" / "equal_dirichlet.py")
    labels = np.arange(2000) % 10
    classes = {}
    for alpha in (0.1, 100.0):
        owner = tool.equal_dirichlet(labels, 20, alpha, np.random.default_rng(3))
        assert np.bincount(owner).tolist() == [100] * 20
        classes[alpha] = np.mean([len(np.unique(labels[owner == client])) for client in range(20)])
    assert classes[0.1] < 5 < 9 < classes[100.0]
    with pytest.raises(ValueError, match="2000 samples cannot be shared out equally among 30 clients"):
        tool.equal_dirichlet(labels, 30, 0.1, np.random.default_rng(3))
