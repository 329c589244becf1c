"""A fault of each kind, at each moment of a round, on either rank.

Oracle: the same run without a fault. Nobody waits for ever, the other rank says in one sentence who is to blame and how to
go on, the checkpoint before is whole, and the run goes on from it to the same bits.
"""

import contextlib
import importlib
import os
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.distributed.two_ranks import said, two_ranks
from tests.end_to_end.test_resume import OPTIONS, assert_same_run
from tests.support import resume_here, run_here

_OPTIONS: dict[str, Any] = {**OPTIONS, "rounds": 4, "clients": 2, "clients_per_round": 2}
_ROUND = 2  # in which the fault comes; the checkpoint after round 0 is complete, that after round 1 need not be
_PATIENCE_S = 120
_MOMENTS: dict[str, tuple[str, str]] = {
    "before the upload": ("fl.training.trainer", "ClientTrainer.train"),
    "during the upload": ("fl.comm.transport", "Transport._send"),
    "after the upload": ("fl.rounds.federated", "FederatedRounds._tell_refused"),
    "server step": ("fl.comm.transport", "Transport.share"),
    "broadcast": ("fl.rounds.federated", "FederatedRounds.apply"),
    "checkpoint": ("fl.output.client_states", "ClientStates.write"),
    "results": ("fl.run.loop", "_Run._write_results"),
}
"""What is called at each moment."""
_ON_RANK_0 = {
    "during the upload": ("fl.comm.transport", "Transport._receive"),
    "server step": ("fl.server.server", "Server.step"),
    "checkpoint": ("fl.output.checkpoint", "write_bytes"),
}
"""The same, where rank 0 calls something else."""


def _raise() -> None:
    raise ValueError("a fault")


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


_KINDS: dict[str, Callable[[], None]] = {"raises": _raise, "is killed": _kill, "is stopped": _stop}


def _strike(patch: pytest.MonkeyPatch, where: tuple[str, str], at: int, fault: Callable[[], None]) -> None:
    """The fault comes when this function is called for the `at`-th time, counted from 0."""
    owner: Any = importlib.import_module(where[0])
    *outer, name = where[1].split(".")
    for each in outer:
        owner = getattr(owner, each)
    function, calls = getattr(owner, name), [0]

    def struck(*arguments: Any, **named: Any) -> Any:
        calls[0] += 1
        if calls[0] == at + 1:
            fault()
        return function(*arguments, **named)

    patch.setattr(owner, name, struck)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("whole")
    run_here(folder, "whole", **_OPTIONS)
    return folder / "whole"


@pytest.mark.parametrize("victim", [0, 1])
@pytest.mark.parametrize("kind", list(_KINDS))
def test_a_fault_at_any_moment(tmp_path: Path, whole: Path, kind: str, victim: int) -> None:
    """All moments side by side: most of the time the processes wait."""
    with contextlib.ExitStack() as stack:
        cells = {}
        for moment, where in _MOMENTS.items():
            folder = tmp_path / moment.replace(" ", "_")
            folder.mkdir()
            where = _ON_RANK_0.get(moment, where) if victim == 0 else where
            trouble = partial(_strike, where=where, at=0 if moment == "results" else _ROUND, fault=_KINDS[kind])
            timeout = {"hang_timeout": 10} if kind == "is stopped" else {}
            cells[moment] = stack.enter_context(two_ranks(folder, victim, trouble, **_OPTIONS, **timeout)), folder
        for moment, (processes, folder) in cells.items():
            processes[1 - victim].join(_PATIENCE_S)
            assert not processes[1 - victim].is_alive(), f"{moment}: the other rank waits for ever"
            if kind != "is stopped":
                processes[victim].join(_PATIENCE_S)
            _check(moment, kind, victim, [each.exitcode for each in processes], folder)
    for moment, (_, folder) in cells.items():
        resume_here(folder, "run")
        try:
            assert_same_run(folder / "run", whole)
        except AssertionError as error:
            raise AssertionError(f"{moment}: {error}") from None


def _check(moment: str, kind: str, victim: int, codes: list[int | None], folder: Path) -> None:
    """The victim ends as it must, the other rank with exit status 2 and a sentence about it."""
    told = said(folder, 1 - victim)
    assert codes[victim] == {"raises": 1, "is killed": -signal.SIGKILL, "is stopped": None}[kind], moment
    assert codes[1 - victim] == 2, f"{moment}: {told}"
    words = {
        "raises": f"rank {victim}",
        "is killed": f"error: the connection to rank {victim}",
        "is stopped": f"error: no progress of rank {victim}",
    }
    assert words[kind] in told, f"{moment}: {told}"
    assert kind == "raises" or told.endswith(f"--resume {folder / 'run'} --model {_OPTIONS['model']}"), told
