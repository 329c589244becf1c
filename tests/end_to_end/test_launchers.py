"""The program under every launcher, as a user starts it.

Each launch happens once; several tests look at what it left. A launch takes seconds, most of them importing.
"""

import json
import math
import runpy
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from fl.output.record import CLIENTS, metrics_columns
from fl.training.tasks import Classification
from tests.support import PYTHON, ROOT, TIMES, accelerate, deepspeed, flags, program, rows, run_on_ranks, torchrun

_OPTIONS: dict[str, Any] = {
    "clients": 4,
    "rounds": 3,
    "limit_train": 300,
    "batch_size": 32,
    "uplink": "topk:0.05",
    "error_feedback": "residual",
    "server": "fedyogi",
}
_LAUNCHES: dict[str, tuple[list[str], list[str], str, int]] = {  # command, its own options, engine, ranks
    "python": ([*PYTHON, "-X", "importtime"], ["--figures"], "ddp", 1),
    "torchrun": (torchrun(2), [], "ddp", 2),
    "accelerate": (accelerate(2), [], "accelerate", 2),
    "deepspeed": (deepspeed(2), ["--deepspeed_config", "deepspeed_config.json"], "deepspeed", 2),
}
_FIGURES = (
    "accuracy_vs_round",
    "accuracy_vs_bytes",
    "bytes_per_round",
    "time_per_round",
    "partition",
    "dashboard",
)


class Launched:
    """The run folders of all launches so far, each made when it is first asked for."""

    def __init__(self, output_dir: Path) -> None:
        self.output_dir = output_dir
        self.printed: dict[str, subprocess.CompletedProcess[str]] = {}

    def folder(self, launcher: str) -> Path:
        """The run folder of the run under `launcher`."""
        if launcher not in self.printed:
            command, extra, _, _ = _LAUNCHES[launcher]
            options = flags(**_OPTIONS, output_dir=self.output_dir, run_name=launcher)
            if launcher == "python":  # this one shows its progress bar and table
                options.remove("--quiet")
            self.printed[launcher] = program(command, *options, *extra)
        return self.output_dir / launcher

    def summary(self, launcher: str) -> dict[str, Any]:
        """Its summary.json."""
        return json.loads((self.folder(launcher) / "summary.json").read_text())


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Launched:
    """See `Launched`."""
    return Launched(tmp_path_factory.mktemp("launched"))


@pytest.mark.parametrize("launcher", list(_LAUNCHES))
def test_the_run_folder_is_complete(launched: Launched, launcher: str) -> None:
    """Every file that is promised, with every column and key, finite figures, the report, and 300-dpi pictures on demand."""
    folder, (_, _, engine, world_size) = launched.folder(launcher), _LAUNCHES[launcher]
    config = json.loads((folder / "config.json").read_text())
    assert config["engine"] == engine
    assert config["threads"] == 1
    assert (config["clients"], config["clients_per_round"], config["local_epochs"]) == (4, 4, 1)
    assert config["run_name"] == launcher
    summary = launched.summary(launcher)
    assert summary["launcher"] == launcher
    assert summary["world_size"] == world_size
    assert summary["rounds"] == 3
    assert summary["bytes_counted"] == "payloads"
    for name in ("final_test_accuracy", "best_val_round", "best_val_test_accuracy", "seconds", "uplink_ratio"):
        assert math.isfinite(summary[name]), name
    assert summary["total_uplink_dense_bytes"] / summary["total_uplink_bytes"] == summary["uplink_ratio"] > 10
    assert len(summary["model_sha256"]) == 64
    metrics, clients = rows(folder, without=()), rows(folder, "clients", without=())
    assert tuple(metrics[0]) == metrics_columns(Classification(10))
    assert tuple(clients[0]) == CLIENTS
    assert [row["round"] for row in metrics] == ["0", "1", "2"]
    assert [int(row["rank"]) for row in clients] == [client % world_size for client in range(4)] * 3
    assert all(row.pop("virtual_time_s") == "" for row in metrics), "there are no profiles"
    assert all(math.isfinite(float(cell)) for row in metrics for cell in row.values())
    weights = load_file(folder / "final_model.safetensors")
    assert sum(tensor.numel() for tensor in weights.values()) == summary["parameters"]
    assert "ends: test accuracy" in (folder / "run.log").read_text()
    assert (folder / "report.html").stat().st_size > 50_000
    assert {path.stem for path in folder.glob("*.png")} == ({*_FIGURES, "confusion"} if launcher == "python" else set())
    for path in folder.glob("*.png"):
        _check_picture(path)


def _check_picture(path: Path) -> None:
    data = path.read_bytes()
    assert data.startswith(b"\x89PNG\r\n")
    at = data.index(b"pHYs")
    per_metre, _, unit = struct.unpack(">IIB", data[at + 4 : at + 13])
    assert unit == 1
    assert round(per_metre * 0.0254) == 300


@pytest.mark.parametrize("launcher", list(_LAUNCHES))
def test_nothing_in_the_run_folder_is_a_pickle(launched: Launched, launcher: str) -> None:
    """Only safetensors, JSON, csv, text and pictures, whatever the engine."""
    for path in launched.folder(launcher).rglob("*"):
        if path.is_file():
            assert path.suffix in (".safetensors", ".json", ".csv", ".log", ".png", ".html"), path
            start = path.read_bytes()[:4]
            assert not start.startswith((b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")), path


@pytest.mark.parametrize("launcher", ["torchrun", "accelerate"])
def test_every_launcher_ends_in_the_same_bits(launched: Launched, launcher: str) -> None:
    """Against plain python: weights, metrics, and bytes of every client."""
    one, other = launched.folder("python"), launched.folder(launcher)
    assert launched.summary("python")["model_sha256"] == launched.summary(launcher)["model_sha256"]
    assert rows(one) == rows(other)
    assert rows(one, "clients", (*TIMES, "rank")) == rows(other, "clients", (*TIMES, "rank"))


@pytest.mark.parametrize("world_size", [1, 2, 4])
def test_any_number_of_ranks_ends_in_the_same_bits(launched: Launched, world_size: int, tmp_path: Path) -> None:
    """Against plain python: the same run on a group of ranks that no launcher made."""
    run_on_ranks(world_size, tmp_path, {"run": _OPTIONS})
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["model_sha256"] == launched.summary("python")["model_sha256"]
    assert rows(tmp_path / "run") == rows(launched.folder("python"))


def test_deepspeed_trains_in_its_own_engine(launched: Launched, tmp_path: Path) -> None:
    """Its run is near that of plain PyTorch, since the file leaves every value to the command line, and learns."""
    ours, theirs = (rows(launched.folder(name)) for name in ("python", "deepspeed"))
    for one, other in zip(ours, theirs, strict=True):
        assert float(one["train_loss"]) == pytest.approx(float(other["train_loss"]), rel=0.05)
        assert one["uplink_bytes"] == other["uplink_bytes"]
    log = (launched.folder("deepspeed") / "run.log").read_text()
    assert "engine deepspeed" in log


def test_python_shows_the_result(launched: Launched) -> None:
    """Without --quiet there is a table with the accuracy and the bytes; with it nothing is printed."""
    launched.folder("python")
    shown = launched.printed["python"].stdout
    assert f"{100 * launched.summary('python')['final_test_accuracy']:.1f}" in shown
    launched.folder("torchrun")
    assert launched.printed["torchrun"].stdout.strip() == ""


def test_what_takes_long_to_import_is_left_out(launched: Launched) -> None:
    """Oracle: the interpreter's own list. scikit-learn, which has the digits, takes as long as torch."""
    launched.folder("python")
    lines = launched.printed["python"].stderr.splitlines()
    imported = {line.rpartition("|")[2].strip() for line in lines if line.startswith("import time:")}
    assert {"torch", "matplotlib"} <= imported
    assert not {"sklearn", "pandas"} & imported


@pytest.mark.parametrize("launcher", list(_LAUNCHES))
def test_main_resnet50(tmp_path: Path, launcher: str) -> None:
    """`main_resnet50.py` under every launcher: the same program with another default model."""
    command, extra, engine, ranks = _LAUNCHES[launcher]
    options = flags(
        dataset="tests.user_code:few_digits",
        clients=2,
        limit_train=4,
        limit_test=4,
        val_fraction=0,
        local_steps=1,
        batch_size=2,
        rounds=1,
        checkpoint_every=0,
        output_dir=tmp_path,
        run_name="run",
    )
    at = options.index("--model")
    program(command, *options[:at], *options[at + 2 :], *extra, script="main_resnet50.py")
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (config["model"], config["engine"]) == ("resnet50", engine)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["parameters"] == 23_520_842
    assert summary["world_size"] == ranks


def test_an_option_beats_the_default_of_main_resnet50(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its default model is a default, no more."""
    monkeypatch.setattr(sys, "argv", ["main_resnet50.py", "--model", "lenet5", "--print_config"])
    with pytest.raises(SystemExit):
        runpy.run_path(str(ROOT / "main_resnet50.py"), run_name="__main__")
    assert "model: lenet5" in capsys.readouterr().out


def test_a_rank_that_fails_ends_the_run(tmp_path: Path) -> None:
    """In step mode, in which the other rank waits for its gradient: no hang, an exit status, and the reason."""
    options = flags(
        mode="step",
        uplink="topk:0.1",
        rounds=3,
        limit_train=100,
        batch_size=8,
        model="tests.user_code:failing_model",
        output_dir=tmp_path,
        run_name="run",
    )
    where = {"TEST_FAILING_RANK": "1", "TEST_FAILING_PASS": "11"}
    result = program(torchrun(2), *options, check=False, env=where)
    assert result.returncode != 0
    assert "the user's model has failed" in result.stderr
    assert not (tmp_path / "run" / "summary.json").exists()
    finished = [row["round"] for row in rows(tmp_path / "run")]
    assert finished == ["0"]
