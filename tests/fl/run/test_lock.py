"""One writer a run folder. Oracle: a second process is refused, and the folder is as it was, byte for byte."""

import contextlib
import errno
import fcntl
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fl.common.errors import ConfigError
from fl.run.lock import only_writer
from tests.end_to_end.test_resume import contents
from tests.support import context, on_ranks, resume_here, run_here

OPTIONS: dict[str, Any] = {"limit_train": 40, "clients": 2, "rounds": 1, "batch_size": 10}


def _hold(folder: Path, told: Any) -> None:
    """Lock the folder, as a run does, and fork, as a library may."""
    with only_writer(folder):
        child = os.fork()
        if child:
            told.send(child)
        time.sleep(600)


@contextlib.contextmanager
def held(folder: Path) -> Iterator[Any]:
    """In this block another process, which is returned, has the lock of `folder`; a child of it lives to the end."""
    ours, theirs = context().Pipe()
    holder = context().Process(target=_hold, args=(folder, theirs))
    holder.start()
    child = ours.recv()
    try:
        yield holder
    finally:
        holder.kill()
        holder.join()
        os.kill(child, signal.SIGKILL)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that another process goes on with."""
    folder = tmp_path_factory.mktemp("runs")
    run_here(folder, "a", **OPTIONS)
    return folder / "a"


def _refused(rank: int, world_size: int, folder: Path, given: dict[str, Any], says: str) -> None:
    with pytest.raises((ConfigError, RuntimeError)) as caught:
        run_here(folder.parent, **{"run_name": folder.name, **OPTIONS, **given})
    assert (says if rank == 0 else "rank 0 failed, and says why") in str(caught.value)


@pytest.mark.parametrize("given", [{}, {"resume": "auto", "rounds": 2}, {"resume": "FOLDER"}])
def test_a_second_process_is_refused(run: Path, given: dict[str, Any]) -> None:
    """By the name of the run, by --resume auto and by its folder, on two ranks too: host and process id are named."""
    given = {name: str(run) if value == "FOLDER" else value for name, value in given.items()}
    with held(run) as process:
        before = contents(run)
        says = f"process {process.pid} on {socket.gethostname()} writes to"
        if given.get("resume") == str(run):
            with pytest.raises(ConfigError, match=says):
                resume_here(run.parent, "ignored", **given)
        else:
            on_ranks(2 if given else 1, _refused, run, given, says)
        assert contents(run) == before


def test_auto_does_not_share_a_folder_without_checkpoint(tmp_path: Path) -> None:
    """The other process is in its first round."""
    (tmp_path / "a").mkdir()
    with held(tmp_path / "a"), pytest.raises(ConfigError, match="writes to it"):
        run_here(tmp_path, "a", **OPTIONS, resume="auto")


def test_a_run_that_another_process_has_begun_is_not_begun_again(tmp_path: Path, monkeypatch: Any) -> None:
    """It began, and ended, after this process had seen no checkpoint."""
    import fl.run.loop

    assemble = fl.run.loop.assemble

    def slowly(*args: Any) -> Any:
        with monkeypatch.context() as patched:
            patched.setattr(fl.run.loop, "assemble", assemble)
            run_here(tmp_path, "a", **OPTIONS, resume="auto")
        return assemble(*args)

    monkeypatch.setattr(fl.run.loop, "assemble", slowly)
    with pytest.raises(ConfigError, match="another process has begun"):
        run_here(tmp_path, "a", **OPTIONS, resume="auto")


def test_the_lock_ends_with_its_holder(tmp_path: Path) -> None:
    """Killed, it leaves the folder free at once, though a child that it forked lives on."""
    with held(tmp_path) as process:
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        with only_writer(tmp_path):
            pass


def test_half_written_files_of_dead_processes_go(tmp_path: Path) -> None:
    """What a killed process left is removed; the user's files stay."""
    for name in ("partition.json.77.part", "final_model.safetensors.3.part", "notes.part", "mine.txt"):
        (tmp_path / name).write_text("")
    with only_writer(tmp_path):
        assert {path.name for path in tmp_path.iterdir()} == {"lock.json", "notes.part", "mine.txt"}


def test_a_file_system_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A warning, and the run goes on."""

    def none(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", none)
    run_here(tmp_path, "a", **OPTIONS)
    assert (tmp_path / "a" / "summary.json").exists()
    assert "a cannot be locked (No locks available): make sure that no other" in capsys.readouterr().err
