"""A rank that hangs, is stopped or is gone. Oracle: every other rank ends, says who it was, and nothing is lost."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from fl.training.trainer import ClientTrainer
from tests.distributed.two_ranks import assert_lost, said, two_ranks
from tests.end_to_end.test_resume import OPTIONS, assert_same_run
from tests.support import resume_here, run_here

_OPTIONS: dict[str, Any] = {**OPTIONS, "rounds": 5}
_TIMEOUT_S = 2


def _stop(round_: int) -> None:
    if round_ in (2, 4):
        os.kill(os.getpid(), signal.SIGSTOP)


def _hang(round_: int) -> None:
    if round_ == 3:
        time.sleep(1000)


def _dawdle(round_: int) -> None:
    time.sleep(_TIMEOUT_S / 4)


def _die(round_: int) -> None:
    if round_ == 3:
        os.kill(os.getpid(), signal.SIGKILL)


def _before_batches(patch: pytest.MonkeyPatch, trouble: Callable[[int], None]) -> None:
    """The trouble comes before each batch, and is told the round."""
    batches = ClientTrainer.batches

    def troubled(self: Any, client: int, round_: int, engine: Any) -> Iterator[Any]:
        for batch in batches(self, client, round_, engine):
            trouble(round_)
            yield batch

    patch.setattr(ClientTrainer, "batches", troubled)


def _two_ranks(
    folder: Path, victim: int, trouble: Callable[[int], None], **options: Any
) -> AbstractContextManager[list[BaseProcess]]:
    given = {**_OPTIONS, "hang_timeout": _TIMEOUT_S, **options}
    return two_ranks(folder, victim, partial(_before_batches, trouble=trouble), **given)


def _wait_until_stopped(pid: int | None) -> int:
    assert pid is not None
    while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
        time.sleep(0.01)
    return pid


def _goes_on(folder: Path) -> str:
    return f"--resume {folder / 'run'} --model {_OPTIONS['model']}"


@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_that_is_stopped(tmp_path: Path, victim: int) -> None:
    """SIGSTOP for a while harms nothing; for longer than --hang-timeout it ends the other rank, with the stopped one's
    number. The run goes on to the bits of one that never stopped."""
    other = 1 - victim
    with _two_ranks(tmp_path, victim, _stop) as processes:
        pid = _wait_until_stopped(processes[victim].pid)
        time.sleep(_TIMEOUT_S / 4)
        os.kill(pid, signal.SIGCONT)
        processes[other].join()
        assert processes[other].exitcode == 2
        assert processes[victim].is_alive()
    told = said(tmp_path, other)
    assert told.startswith(f"error: no progress of rank {victim}"), told
    assert "for 2 s, which is --hang-timeout; to go on: " in told
    assert told.endswith(_goes_on(tmp_path))
    if victim == 1:
        assert told.removeprefix("error: ") in (tmp_path / "run" / "run.log").read_text()
    run_here(tmp_path, "whole", **_OPTIONS)
    resume_here(tmp_path, "run")
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def test_a_client_whose_training_hangs(tmp_path: Path) -> None:
    """Its rank is alive, and sends signs of life: both ranks end, and name it and the client."""
    with _two_ranks(tmp_path, 1, _hang) as processes:
        for process in processes:
            process.join()
            assert process.exitcode == 2
    for rank in range(2):
        told = said(tmp_path, rank)
        assert told.startswith("error: no progress of rank 1 (client "), told
        assert told.endswith(_goes_on(tmp_path))


def test_a_rank_that_is_slow_is_waited_for(tmp_path: Path) -> None:
    """Its clients take three times --hang-timeout together, while the other rank has nothing to do; each batch is
    progress."""
    with _two_ranks(tmp_path, 1, _dawdle, rounds=1, local_steps=6) as processes:
        for process in processes:
            process.join()
            assert process.exitcode == 0
    assert (tmp_path / "run" / "summary.json").exists()


@pytest.mark.parametrize("victim", [0, 1])
def test_a_rank_that_dies(tmp_path: Path, victim: int) -> None:
    """SIGKILL: the other rank names it, and how to go on."""
    with _two_ranks(tmp_path, victim, _die) as processes:
        processes[1 - victim].join()
        assert processes[1 - victim].exitcode == 2
    told = said(tmp_path, 1 - victim)
    assert_lost(told, victim)
    assert told.endswith(_goes_on(tmp_path))
