"""Starts real processes for tests: ranks of a function, or the program under a launcher."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

ROOT = Path(__file__).resolve().parent.parent
_BIN = Path(sys.executable).parent


def on_ranks(world_size: int, function: Callable[..., None], *args: Any) -> None:
    """Run `function(rank, world_size, *args)` in so many processes of one gloo group, one thread each.

    `function` must stand at the top of a module. An assertion that fails in any rank fails the test.
    """
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(_enter, args=(world_size, f"{folder}/store", function, args), nprocs=world_size)


def _enter(rank: int, world_size: int, path: str, function: Callable[..., None], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", store=dist.FileStore(path, world_size), rank=rank, world_size=world_size)
    try:
        function(rank, world_size, *args)
        dist.barrier()
    finally:
        dist.destroy_process_group()


PYTHON = [sys.executable]


def torchrun(ranks: int) -> list[str]:
    """torchrun with so many ranks, on a free port."""
    return [str(_BIN / "torchrun"), "--nproc_per_node", str(ranks), "--rdzv_backend", "c10d", "--rdzv_endpoint", ":0"]


def accelerate(ranks: int) -> list[str]:
    """accelerate launch with so many ranks, on a free port."""
    many = ["--multi_gpu"] if ranks > 1 else []
    return [
        *(str(_BIN / "accelerate"), "launch", *many, "--num_processes", str(ranks)),
        *("--num_machines", "1", "--main_process_port", "0"),
    ]


def deepspeed(ranks: int) -> list[str]:
    """deepspeed with so many ranks on this machine."""
    return [str(_BIN / "deepspeed"), "--num_gpus", str(ranks), "--master_port", str(_free_port())]


def program(
    launcher: list[str], *options: str, script: str = "main.py", check: bool = True, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run the program from the project's root and return what it printed; an exit status other than 0 fails."""
    result = subprocess.run(
        [*launcher, script, *options],
        cwd=ROOT,
        env={**_environment(), **(env or {})},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    if check:
        assert result.returncode == 0, f"{result.args}\n{result.stdout[-3000:]}\n{result.stderr[-3000:]}"
    return result


def _environment() -> dict[str, str]:
    """This process's environment with its own interpreter's scripts first on the path."""
    return {**os.environ, "PATH": f"{_BIN}{os.pathsep}{os.environ.get('PATH', '')}", "CUDA_VISIBLE_DEVICES": ""}


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
