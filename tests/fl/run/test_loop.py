"""The end of a run. Oracles: the files of an undisturbed run; the words that say what is missing."""

import errno
import json
import os
import resource
import shutil
import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import fl.output.checkpoint
import fl.output.report
import fl.run.loop
from fl.common.errors import ConfigError, DataError, DiskError
from fl.common.tensor_files import write_tensors
from fl.output.checkpoint import Checkpoints, _to_json
from fl.output.report import write_report
from fl.run.cli import main
from tests.support import QUICK, on_ranks, resume_here, rows, run_here

pytestmark = pytest.mark.slow

OPTIONS: dict[str, Any] = {"limit_train": 40, "clients": 2, "rounds": 2, "batch_size": 10}


def failing(error: BaseException) -> Any:
    """A function that only raises."""

    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


def run_with_figures(folder: Path, name: str, **options: Any) -> dict[str, Any]:
    """As `run_here`, which draws none."""
    given = {**QUICK, **OPTIONS, "output_dir": str(folder), "run_name": name, **options}
    return fl.run.loop.run(fl.run.loop.Config(**given), explicit=frozenset(given))


def test_nothing_is_lost_at_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither figures nor predictions can be written. Model, checkpoint and summary are those of an undisturbed run, a
    sentence for each says how to get the rest, and --resume does get it."""
    whole, folder = run_here(tmp_path, "whole", **OPTIONS), tmp_path / "a"
    with monkeypatch.context() as patched:
        patched.setattr(
            fl.run.loop, "write_predictions", failing(UnicodeEncodeError("utf-8", "\udce9", 0, 1, "no surrogates"))
        )
        patched.setattr(fl.output.report, "write_report", failing(OSError(errno.ENOSPC, "No space left on device")))
        summary = run_with_figures(tmp_path, "a")
    assert summary["model_sha256"] == whole["model_sha256"]
    for name in ("final_model.safetensors", "summary.json", "checkpoints/manifest-000002.json"):
        assert (folder / name).exists()
    told = capsys.readouterr().err.splitlines()
    assert [line.partition(" could not")[0] for line in told] == [
        "what the model says of the test samples",
        f"figures or report.html of {folder}",
    ]
    remedy = f"; the model and summary.json are whole, and --resume {folder} writes what is missing"
    assert all(line.endswith(remedy) for line in told)
    assert "Traceback" in (folder / "run.log").read_text()
    again = resume_here(tmp_path, "a")
    assert again["model_sha256"] == whole["model_sha256"]
    assert (folder / "confusion.csv").read_bytes() == (tmp_path / "whole" / "confusion.csv").read_bytes()
    assert rows(folder) == rows(tmp_path / "whole")


def test_ctrl_c_while_figures_are_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It ends the program, as everywhere; the results are there."""
    monkeypatch.setattr(fl.output.report, "write_report", failing(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        run_with_figures(tmp_path, "a", rounds=1)
    assert (tmp_path / "a" / "summary.json").exists()


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No room for the model: one sentence with the way on, nothing half-written; with room again, the same model."""
    whole = run_here(tmp_path, "whole", **OPTIONS)
    with monkeypatch.context() as patched:
        patched.setattr(fl.run.loop, "save_tensors", failing(OSError(errno.ENOSPC, "No space left on device")))
        with pytest.raises(DiskError) as caught:
            run_here(tmp_path, "a", **OPTIONS)
    folder = tmp_path / "a"
    assert str(caught.value) == (
        f"{folder} cannot be used (No space left on device): make room, then --resume {folder} goes on after the last "
        "checkpoint"
    )
    assert resume_here(tmp_path, "a")["model_sha256"] == whole["model_sha256"]


def _limited(rank: int, world_size: int, folder: Path, most: int) -> None:
    """A run of which rank 1 cannot write files of more than `most` bytes, as the kernel enforces."""
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)
    if rank == 1:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, usual[1]))
    with pytest.raises(DiskError, match=r"checkpoints/client-\d+-000001.safetensors cannot be used \(File too large\)"):
        run_here(folder, "a", **OPTIONS, uplink="topk:0.1")
    resource.setrlimit(resource.RLIMIT_FSIZE, usual)


def test_a_rank_that_cannot_write(tmp_path: Path) -> None:
    """All ranks say which file and why; nothing half-written is left."""
    on_ranks(2, _limited, tmp_path, 10_000)
    assert not [path for path in (tmp_path / "a").rglob("*") if path.name.endswith(".part") or "manifest" in path.name]


@pytest.mark.parametrize("rounds", [1, 3])
def test_a_run_folder_that_is_deleted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rounds: int) -> None:
    """In the last round, and in one that others follow: one sentence, and the folder is not made anew."""
    from fl.training.trainer import ClientTrainer

    train = ClientTrainer.train

    def deleting(self: Any, job: Any, model: Any) -> Any:
        shutil.rmtree(tmp_path / "a", ignore_errors=True)
        return train(self, job, model)

    monkeypatch.setattr(ClientTrainer, "train", deleting)
    with pytest.raises(
        DiskError, match=r"a/checkpoints cannot be used \(No such file or directory\): .* begin the run again"
    ):
        run_here(tmp_path, "a", **{**OPTIONS, "rounds": rounds})
    assert not (tmp_path / "a").exists()


def test_the_disks_mistakes_end_with_status_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The options are right; the lock cannot be written."""
    run_here(tmp_path, "a", **OPTIONS)

    def broken(*_: Any) -> None:
        raise OSError(errno.EIO, "Input/output error", str(tmp_path / "a" / "lock.json"))

    monkeypatch.setattr("fcntl.flock", broken)
    with pytest.raises(SystemExit) as caught:
        main(["--resume", str(tmp_path / "a")])
    assert caught.value.code == 1
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"error: {tmp_path}/a/lock.json cannot be used (Input/output error): mend that, then --resume {tmp_path}/a goes on "
        "after the last checkpoint"
    )


def test_other_files_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model's or data set's own file is not the run folder's: its error stays what it is."""
    from fl.training.trainer import ClientTrainer

    def reading(*_: Any) -> Any:
        return (tmp_path / "mine").read_text()

    monkeypatch.setattr(ClientTrainer, "train", reading)
    with pytest.raises(FileNotFoundError, match="mine"):
        run_here(tmp_path, "a", **OPTIONS)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("a\nb", r"--run-name 'a\\nb' must hold no control character"),
        ("a\x1b[31m", r"--run-name 'a\\x1b\[31m' must hold no control character"),
        (os.fsdecode(b"caf\xe9"), r"--run-name 'caf\\xe9' must hold no control character, and be UTF-8"),
        ("é" * 128, r"--run-name éé.* must have at most 255 bytes, not 256"),
    ],
)
def test_names_of_runs(tmp_path: Path, name: str, says: str) -> None:
    """Oracle: refused before anything starts, in the words of the option."""
    for resume in (None, "auto"):
        with pytest.raises(ConfigError, match=says):
            run_here(tmp_path, name, **OPTIONS, resume=resume)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_is_not_utf8(tmp_path: Path) -> None:
    """A run there, and its figures, are whole; so is what is read back from there when it goes on."""
    output = tmp_path / os.fsdecode(b"caf\xe9")
    run_here(output, "a", **{**OPTIONS, "rounds": 1})
    assert resume_here(output, "a", rounds=2)["rounds"] == 2
    assert len(write_report(output / "a", dpi=20)) == 7
    assert "\\udce9" in (output / "a" / "report.html").read_text()


def test_a_rounds_time_holds_its_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a clock by which each of the server's files takes a thousand seconds, once somebody waits for it: the second round
    waits for the checkpoint of the first."""
    waited, asked = [0.0], threading.Event()
    write, finish = write_tensors, Checkpoints.finish

    def slowly(path: Path, tensors: dict[str, torch.Tensor]) -> str:
        asked.wait()
        waited[0] += 1000.0
        return write(path, tensors)

    def ask(checkpoints: Checkpoints) -> None:
        if checkpoints._begun:
            asked.set()
        finish(checkpoints)

    clock = SimpleNamespace(perf_counter=lambda: time.perf_counter() + waited[0])
    monkeypatch.setattr("fl.output.checkpoint.write_tensors", slowly)
    monkeypatch.setattr(Checkpoints, "finish", ask)
    for module in (fl.run.loop, fl.output.checkpoint):
        monkeypatch.setattr(module, "time", clock)
    run_here(tmp_path, "a", **OPTIONS)
    for name in ("time_s", "checkpoint_s"):
        first, second = (float(row[name]) for row in rows(tmp_path / "a", without=()))
        assert first < 1000 <= second < 2000, name


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("costs",), {}),
        (("costs", "ledger"), []),
        (("rounds", "sampler"), 3),
        (("rounds", "rejections"), {"in_a_row": 5}),
        (("rounds", "server"), None),
        (("rounds",), "x"),
        (("options",), None),
    ],
)
def test_a_forged_state_is_one_sentence(tmp_path: Path, path: tuple[str, ...], value: Any) -> None:
    """Whoever can write to the folder can write digests too: what a manifest says may be anything."""
    run_here(tmp_path, "a", **OPTIONS)
    for manifest in (tmp_path / "a" / "checkpoints").glob("manifest-*.json"):
        forged = json.loads(manifest.read_text())
        del forged["sha256"]
        inner = forged["state"]
        for name in path[:-1]:
            inner = inner[name]
        assert path[-1] in inner
        inner[path[-1]] = value
        manifest.write_text(_to_json(forged))
    with pytest.raises(DataError, match="do not hold the state of this run"):
        resume_here(tmp_path, "a")
