"""Starts real processes for tests: ranks of a function, whole runs, or the program under a launcher.

Ranks come from a fork server, a process that has imported the program once (`preloaded.py`): a rank starts in
milliseconds, with memory, threads and process group of its own.
"""

import contextlib
import csv
import json
import multiprocessing
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

ROOT = Path(__file__).resolve().parent.parent
_BIN = Path(sys.executable).parent

QUICK = {"dataset": "digits", "model": "lenet5", "threads": 1, "precision": "fp32", "quiet": True}
"""Options of a run that takes a fraction of a second."""

TIMES = ("time_s", "train_s", "exchange_s", "eval_s", "checkpoint_s")
"""Columns of the csv files that differ between two runs of the same options."""


def on_ranks(world_size: int, function: Callable[..., None], *args: Any) -> None:
    """Run `function(rank, world_size, *args)` in so many processes of one gloo group, one thread each.

    `function` must stand at the top of a module. An assertion that fails in any rank fails the test.
    """
    context()
    with tempfile.TemporaryDirectory() as folder:
        arguments = (world_size, folder, function, args)
        try:
            mp.start_processes(_enter, args=arguments, nprocs=world_size, start_method="forkserver")
        except Exception as error:
            told = sorted(Path(folder).glob("failed-*"), key=lambda path: path.stat().st_mtime_ns)
            # The first failure is the cause: the other ranks fail when their peer is gone.
            raise AssertionError(told[0].read_text() if told else str(error)) from None


def context() -> Any:
    """The fork server, as a multiprocessing context."""
    forkserver = multiprocessing.get_context("forkserver")
    forkserver.set_forkserver_preload(["tests.preloaded"])
    return forkserver


def _enter(rank: int, world_size: int, folder: str, function: Callable[..., None], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    # What a launcher would set: the program reads its rank here.
    os.environ.update(
        RANK=str(rank), WORLD_SIZE=str(world_size), LOCAL_RANK=str(rank), LOCAL_WORLD_SIZE=str(world_size)
    )
    store = dist.FileStore(f"{folder}/store", world_size)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
    try:
        function(rank, world_size, *args)
        dist.barrier()
    except Exception:
        Path(folder, f"failed-{rank}").write_text(f"rank {rank} of {world_size}:\n{traceback.format_exc()}")
        raise
    finally:
        from fl.common.ranks import leave_group

        leave_group()


@contextlib.contextmanager
def no_figures() -> Iterator[None]:
    """Runs in this block draw no figures, which take seconds; the launchers' tests look at these."""
    import fl.output.report

    original = fl.output.report.write_report
    fl.output.report.write_report = lambda folder, **_: []
    try:
        yield
    finally:
        fl.output.report.write_report = original


@contextlib.contextmanager
def _nothing_is_written_over() -> Iterator[None]:
    """A run in this block must not write over the tensors of a checkpoint, at least not before it begins the next one."""
    from fl.common.tensor_files import split_state
    from fl.output.checkpoint import Checkpoints

    original, given = Checkpoints.save, []

    def save(checkpoints: Checkpoints, next_round: int, *, state: Any, record: Any) -> None:
        for name, tensor, copy in given:
            assert tensor.equal(copy), f"{name} has been written over"
        given[:] = [(name, tensor, tensor.clone()) for name, tensor in split_state(state)[0].items()]
        original(checkpoints, next_round, state=state, record=record)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Checkpoints, "save", save)
        yield


def run_here(output_dir: Path, run_name: str, **options: Any) -> dict[str, Any]:
    """A quick run in this process, or on all ranks of its group; `options` replace or add to `QUICK`.

    Returns the summary, on rank 0. Every option named here counts as given by the user.
    """
    return _run({**QUICK, "output_dir": str(output_dir), "run_name": run_name, **options})


def resume_here(output_dir: Path, run_name: str, **options: Any) -> dict[str, Any]:
    """Continue a run in this process, or on all ranks of its group, with no options but its name, `options`, and those
    that name functions of the tests' own."""
    folder = Path(options.get("resume", output_dir / run_name))
    stored = json.loads((folder / "config.json").read_text())
    again = {name: value for name, value in stored.items() if str(value).startswith(("tests.", "csr_codec:"))}
    given = {"output_dir": str(output_dir), "run_name": run_name, "resume": "auto", "quiet": True}
    return _run({**given, **again, **options})


def _run(given: dict[str, Any]) -> dict[str, Any]:
    from fl.common.config import Config
    from fl.run.loop import run

    with no_figures(), _nothing_is_written_over():
        return run(Config(**given), explicit=frozenset(given))


def run_on_ranks(world_size: int, output_dir: Path, runs: dict[str, dict[str, Any]]) -> None:
    """Quick runs, options by name of the run, one after another in one group of ranks."""
    on_ranks(world_size, _run_all, output_dir, runs)


def _run_all(rank: int, world_size: int, output_dir: Path, runs: dict[str, dict[str, Any]]) -> None:
    for name, options in runs.items():
        run_here(output_dir, name, **options)


def make_worker(**options: Any) -> Any:
    """The parts of a quick run on this rank of the group that exists; nothing is written."""
    from fl.common.config import Config
    from fl.common.ranks import Ranks, in_groups
    from fl.run.build import assemble
    from fl.run.checks import check_options, resolve

    rank, world_size, cpu = dist.get_rank(), dist.get_world_size(), torch.device("cpu")
    ranks = Ranks(
        rank=rank,
        world_size=world_size,
        local_rank=rank,
        local_world_size=world_size,
        device=cpu,
        wire_device=cpu,
        launcher="torchrun",
        threads=1,
    )
    given = {**QUICK, **options}
    check_options(Config(**given), frozenset(given))
    config = resolve(Config(**given), world_size=world_size, threads=1)
    return assemble(config, _FOR_GOOD.enter_context(in_groups(ranks, config.ranks_per_client, config.server_shards)))


_FOR_GOOD = contextlib.ExitStack()
"""What lives as long as this process."""


def rows(folder: Path, table: str = "metrics", without: tuple[str, ...] = TIMES) -> list[dict[str, str]]:
    """The rows of a run's csv file as text, less the columns in `without`."""
    with open(folder / f"{table}.csv", newline="") as file:
        return [{key: cell for key, cell in row.items() if key not in without} for row in csv.DictReader(file)]


PYTHON = [sys.executable]


def torchrun(ranks: int) -> list[str]:
    """torchrun with so many ranks, on a free port."""
    return [
        *(str(_BIN / "torchrun"), "--nproc_per_node", str(ranks)),
        *("--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0"),
    ]


def accelerate(ranks: int) -> list[str]:
    """accelerate launch with so many ranks, on a free port."""
    many = ["--multi_gpu"] if ranks > 1 else []
    return [
        *(str(_BIN / "accelerate"), "launch", *many, "--num_processes", str(ranks)),
        *("--num_machines", "1", "--main_process_port", "0"),
    ]


def deepspeed(ranks: int) -> list[str]:
    """deepspeed with so many ranks on this machine."""
    return [str(_BIN / "deepspeed"), "--num_gpus", str(ranks), "--master_port", str(free_port())]


def program(
    launcher: list[str], *options: str, script: str = "main.py", check: bool = True, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the program from the project's root and return what it printed; an exit status other than 0 fails."""
    result = subprocess.run(
        [*launcher, script, *options],
        cwd=ROOT,
        env={**environment(), **(env or {})},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    if check:
        assert result.returncode == 0, f"{result.args}\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}"
    return result


def flags(**options: Any) -> list[str]:
    """Options of a quick run, as on the command line; `options` replace or add to `QUICK`."""
    words = []
    for name, value in {**QUICK, **options}.items():
        words += [f"--{name.replace('_', '-')}"] if value is True else [f"--{name.replace('_', '-')}", str(value)]
    return words


def environment() -> dict[str, str]:
    """This process's environment with its own interpreter's scripts first on the path, and without a GPU."""
    return {**os.environ, "PATH": f"{_BIN}{os.pathsep}{os.environ.get('PATH', '')}", "CUDA_VISIBLE_DEVICES": ""}


def kill_tree(process: int) -> None:
    """SIGKILL to `process` and to all that it started, the parent first so that it starts no more."""
    started = _children(process)
    for number in [process, *started]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(number, signal.SIGKILL)


def _children(process: int) -> list[int]:
    found = []
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            for number in map(int, task.read_text().split()):
                found += [number, *_children(number)]
    return found


def free_port() -> int:
    """A port of this machine that nobody listens on, below those that the system gives to whoever asks for any one."""
    while True:
        port = 20_000 + secrets.randbelow(12_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
