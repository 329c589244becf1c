"""A run that a signal asks to stop. Oracle for what is lost: nothing, so after `--resume` the uninterrupted run."""

import contextlib
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fl.common.stopping import Stopped, stopping
from fl.run.cli import main
from fl.training.trainer import ClientTrainer
from tests.end_to_end.test_resume import OPTIONS, assert_same_run
from tests.support import (
    ROOT,
    context,
    environment,
    flags,
    no_figures,
    on_ranks,
    program,
    resume_here,
    rows,
    run_here,
    torchrun,
)

_SHORT: dict[str, Any] = {**OPTIONS, "rounds": 5}
_CODE = ["--model", _SHORT["model"]]  # what a run folder alone must not name
_TIMED = {"clients_per_round": 3, "profiles": "mix:good=0.5+2g=0.5"}
_STEP = {"clients": 1, "clients_per_round": 1, "downlink": "none", "server": "fedavg"}


def _ask(number: int) -> None:
    """Send this process a signal, and wait until it is heard."""
    before = stopping.status
    os.kill(os.getpid(), number)
    while not before and not stopping.status:
        time.sleep(0.001)


@contextlib.contextmanager
def _when(round_: int, act: Callable[[], object]) -> Iterator[None]:
    """In this block: `act` before the first client trains in this round."""
    train, done = ClientTrainer.train, []

    def acting(self: Any, job: Any, model: Any) -> Any:
        if job.version == round_ and not done:
            done.append(act())
        return train(self, job, model)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ClientTrainer, "train", acting)
        yield


@pytest.mark.parametrize(
    ("number", "options"),
    [
        (signal.SIGTERM, {"checkpoint_every": 4}),
        (signal.SIGINT, {"checkpoint_every": 0, "mode": "buffered:2", **_TIMED}),
        (signal.SIGHUP, {"mode": "async:0.5", **_TIMED, "server": "fedavg"}),
        (signal.SIGUSR1, {"deadline": 1000, "late": "carry", **_TIMED}),
        (signal.SIGTERM, {"exchange": "hook", **_STEP, "server": "fedyogi"}),
        (signal.SIGINT, {"mode": "step", **_STEP}),
    ],
    ids=["sync", "buffered", "async", "deadline", "hook", "step"],
)
def test_the_round_is_finished_and_nothing_is_lost(tmp_path: Path, number: int, options: dict[str, Any]) -> None:
    """Asked in round 2, saved after it whatever --checkpoint-every says; handlers are then as they were."""
    handler = signal.getsignal(number)
    options = {**_SHORT, **options}
    run_here(tmp_path, "whole", **options)
    with _when(2, lambda: _ask(number)), stopping.on_signals(), pytest.raises(Stopped) as end:
        run_here(tmp_path, "run", **options)
    assert signal.getsignal(number) is handler
    assert end.value.status == {signal.SIGINT: 130}.get(number, 143)
    folder = tmp_path / "run"
    assert [row["round"] for row in rows(folder)] == ["0", "1", "2"]
    assert str(end.value).startswith("stopped by a signal after 3 of 5 rounds; to go on: ")
    assert str(end.value).endswith(shlex.join(["--resume", str(folder), *_CODE]))
    assert str(end.value) in (folder / "run.log").read_text()
    resume_here(tmp_path, "run")
    assert_same_run(folder, tmp_path / "whole")


def _stop_on_one_rank(rank: int, world_size: int, output_dir: Path) -> None:
    with _when(2, lambda: rank == 1 and _ask(signal.SIGTERM)), stopping.on_signals(), pytest.raises(Stopped) as end:
        run_here(output_dir, "run", **_SHORT)
    assert end.value.status == 143
    assert bool(str(end.value)) == (rank == 0)
    resume_here(output_dir, "run")


def test_one_rank_is_asked_and_all_stop(tmp_path: Path) -> None:
    """Of two ranks only the second is sent a signal: both stop after the same round, and rank 0 speaks."""
    run_here(tmp_path, "whole", **_SHORT)
    on_ranks(2, _stop_on_one_rank, tmp_path)
    assert_same_run(tmp_path / "run", tmp_path / "whole")


def _run_alone(output_dir: Path, act: Callable[[], None], round_: int | None, code: Any = None) -> None:
    """The program on a command line of its own, its standard error in a file: `act` in this round, or in the figures."""
    os.dup2(os.open(output_dir / "stderr", os.O_CREAT | os.O_WRONLY), 2)
    words = flags(**_SHORT, output_dir=output_dir, run_name="run")
    sys.argv, sys.orig_argv = ["main.py", *words], ["python", "main.py", *words]
    with no_figures(), pytest.MonkeyPatch.context() as patch:
        if round_ is None:
            patch.setattr("fl.output.report.write_report", lambda folder, **_: act())
        with _when(-1 if round_ is None else round_, act):
            main(words)


def _twice() -> None:
    _ask(signal.SIGINT)
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(60)


def _terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)


@pytest.mark.parametrize(
    ("act", "round_", "status", "said"),
    [
        (
            _twice,
            0,
            130,
            ["SIGINT: this round is finished first; a second Ctrl-C ends at once", "SIGINT: ended at once; AGAIN"],
        ),
        (
            _twice,
            2,
            130,
            ["SIGINT: this round is finished first; a second Ctrl-C ends at once", "SIGINT: ended at once; RESUME"],
        ),
        (_terminate, None, 143, ["SIGTERM: ended at once; RESUME"]),
    ],
)
def test_when_it_does_not_wait(
    tmp_path: Path, act: Callable[[], None], round_: int | None, status: int, said: list[str]
) -> None:
    """A second Ctrl-C, and a signal while figures are drawn, end the process with one line."""
    process = context().Process(target=_run_alone, args=(tmp_path, act, round_))
    process.start()
    process.join()
    assert process.exitcode == status
    words = {"AGAIN": "nothing was saved yet: begin again"}
    words["RESUME"] = f"to go on: {shlex.join(['python', 'main.py', '--resume', str(tmp_path / 'run'), *_CODE])}"
    told = [" ".join(words.get(word, word) for word in line.split()) for line in said]
    assert (tmp_path / "stderr").read_text().splitlines() == told


def test_ctrl_c_while_modules_are_imported(tmp_path: Path) -> None:
    """It comes in the first of them: one line, and no traceback."""
    (tmp_path / "jsonargparse.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGINT)\ntime.sleep(60)"
    )
    told = program([sys.executable], check=False, env={"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"})
    assert told.returncode == 130
    assert told.stderr == "SIGINT: ended at once; nothing was saved yet: begin again\n"


def test_ctrl_c_under_torchrun(tmp_path: Path) -> None:
    """The terminal sends it to all, and torchrun to the ranks once more: no rank has a traceback, one line says how to go on
    under torchrun."""
    options = {**_SHORT, "rounds": 10_000, "lr_schedule": "constant", "output_dir": tmp_path, "run_name": "run"}
    command = [*torchrun(2), "main.py", *flags(**options)]
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment(), stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while process.poll() is None and not list(tmp_path.glob("run/checkpoints/manifest-*")):
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGINT)
    told = process.communicate()[1]
    lines = [line for line in told.splitlines() if "to go on" in line]
    assert len(lines) == 1, told
    assert lines[0].endswith(
        shlex.join([*command[: -len(flags(**options))], "--resume", str(tmp_path / "run"), *_CODE])
    ), told
    assert told.count("Traceback") == 1, told  # torchrun's own
    assert "SignalException" in told


def _without_streams() -> None:
    for number in range(3):
        os.close(number)
    with stopping.on_signals():
        assert [os.readlink(f"/proc/self/fd/{number}") for number in range(3)] == [os.devnull] * 3


def test_no_file_of_a_run_gets_the_number_of_a_closed_stream() -> None:
    """All three are closed, as after `<&- >&- 2>&-`: they lead nowhere. Otherwise what is said of a signal would be written
    into the file that is opened next."""
    process = context().Process(target=_without_streams)
    process.start()
    process.join()
    assert process.exitcode == 0
