"""kill -9 at a random moment, then `--resume`. Oracle: the uninterrupted run."""

import os
import pkgutil
import random
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from fl.output.checkpoint import saved_rounds
from tests.end_to_end.test_resume import assert_same_run
from tests.support import ROOT, context, environment, flags, kill_tree, on_ranks, resume_here, run_here, torchrun

_OPTIONS: dict[str, Any] = {
    "model": "tests.user_code:norm_model",
    "clients": 5,
    "clients_per_round": 3,
    "rounds": 20,
    "limit_train": 150,
    "local_steps": 1,
    "batch_size": 8,
    "uplink": "topk:0.1",
    "downlink": "topk:0.2+bf16",
    "server": "fedyogi",
    "optimizer": "adamw",
    "local_state": "keep",
}
_KILLS = 10


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _wait_for_round(folder: Path, finished: int, alive: Any) -> None:
    """Until metrics.csv tells of so many rounds, or the run is over."""
    while alive() and _lines(folder / "metrics.csv") <= finished:
        time.sleep(0.001)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder of the uninterrupted run."""
    folder = tmp_path_factory.mktemp("whole")
    run_here(folder, "whole", **_OPTIONS)
    return folder / "whole"


def _kill_once(output_dir: Path, name: str, chance: random.Random, **options: Any) -> bool:
    """Start or continue a run in a process of its own and kill it; whether it was killed before its end."""
    process = context().Process(target=run_here, args=(output_dir, name), kwargs={**_OPTIONS, **options})
    process.start()
    assert process.pid is not None
    _wait_for_round(output_dir / name, chance.randrange(18), process.is_alive)
    time.sleep(chance.uniform(0, 0.06))
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    return process.exitcode == -signal.SIGKILL and not (output_dir / name / "summary.json").exists()


@pytest.mark.parametrize("kill", range(_KILLS))
def test_killed_and_resumed(tmp_path: Path, whole: Path, kill: int) -> None:
    """One kill in any part of a round: same weights, metrics, and bytes of every client."""
    chance = random.Random(kill)
    for attempt in range(10):
        if _kill_once(tmp_path, f"run{attempt}", chance):
            break
    else:
        pytest.fail("no attempt was killed before its end")
    run_here(tmp_path, f"run{attempt}", **_OPTIONS, resume="auto")
    assert_same_run(tmp_path / f"run{attempt}", whole)


_WRITERS = {
    "a client's file": "fl.output.client_states.write_tensors",
    "the server's file": "fl.output.checkpoint.write_tensors",
    "the table": "fl.output.record.Table.so_far",
    "the manifest": "fl.output.checkpoint.write_bytes",
}


def _die_on_the_thread(output_dir: Path, what: str, after: bool) -> None:
    """A run that dies while its thread writes the seventh checkpoint, just before or just after this part of it."""
    owner, _, name = _WRITERS[what].rpartition(".")
    function, named = (
        pkgutil.resolve_name(_WRITERS[what]),
        {"the server's file": "server", "the manifest": "manifest"}.get(what, ""),
    )
    calls = []

    def struck(*arguments: Any) -> Any:
        on_thread = threading.current_thread() is not threading.main_thread()
        calls.append(on_thread and str(getattr(arguments[0], "name", "")).startswith(named))
        strikes = calls[-1] and sum(calls) == (7 if what != "a client's file" else 20)
        if strikes and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = function(*arguments)
        if strikes:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pkgutil.resolve_name(owner), name, struck)
        run_here(output_dir, "run", **_OPTIONS)


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("what", _WRITERS)
def test_killed_while_a_checkpoint_is_written(tmp_path: Path, whole: Path, what: str, after: bool) -> None:
    """While the main thread trains the next round: the checkpoint before is whole, and goes on."""
    process = context().Process(target=_die_on_the_thread, args=(tmp_path, what, after))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert max(saved_rounds(tmp_path / "run")) == (7 if (what, after) == ("the manifest", True) else 6)
    resume_here(tmp_path, "run")
    assert_same_run(tmp_path / "run", whole)


def test_killed_again_and_again(tmp_path: Path, whole: Path) -> None:
    """The same run, killed until it comes through."""
    chance = random.Random(0)
    kills = sum(_kill_once(tmp_path, "run", chance, resume="auto") for _ in range(8))
    assert kills >= 2
    resume_here(tmp_path, "run")
    assert_same_run(tmp_path / "run", whole)


def test_torchrun_killed_and_resumed_on_other_ranks(tmp_path: Path, whole: Path) -> None:
    """Two ranks are killed together; one rank, and three, go on from the same checkpoint."""
    command = [*torchrun(2), "main.py", *flags(**_OPTIONS, output_dir=tmp_path, run_name="run")]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        _wait_for_round(tmp_path / "run", random.Random(1).randrange(2, 9), lambda: process.poll() is None)
    finally:
        kill_tree(process.pid)
        process.wait()
    assert not (tmp_path / "run" / "summary.json").exists(), "the run was over before it was killed"
    for world_size in (1, 3):
        shutil.copytree(tmp_path / "run", tmp_path / f"on{world_size}")
        on_ranks(world_size, _resume, tmp_path, f"on{world_size}")
        assert_same_run(tmp_path / f"on{world_size}", whole)


def _resume(rank: int, world_size: int, folder: Path, name: str) -> None:
    resume_here(folder, name)
