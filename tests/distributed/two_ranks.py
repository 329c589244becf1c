"""Two ranks of a run in processes of their own, one of which gets into trouble."""

import contextlib
import os
import re
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from fl.run.cli import main
from tests.support import context, flags, free_port, no_figures

Trouble = Callable[[pytest.MonkeyPatch], None]
"""Patches the process that gets into trouble."""


def _rank(rank: int, port: int, folder: Path, trouble: Trouble | None, options: dict[str, Any]) -> None:
    """One rank of two, as if on a machine of its own, its standard error in a file."""
    os.dup2(os.open(folder / f"stderr{rank}", os.O_CREAT | os.O_WRONLY), 2)
    place = {"RANK": rank, "WORLD_SIZE": 2, "LOCAL_RANK": 0, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()})
    with no_figures(), pytest.MonkeyPatch.context() as patch:
        if trouble is not None:
            trouble(patch)
        main(flags(**options, output_dir=folder, run_name="run"))


@contextlib.contextmanager
def two_ranks(folder: Path, victim: int, trouble: Trouble, **options: Any) -> Iterator[list[BaseProcess]]:
    """A quick run on two ranks, of which the `victim` has this trouble; at the end of the block both are killed."""
    port, troubles = free_port(), [None, None]
    troubles[victim] = trouble
    processes = [
        context().Process(target=_rank, args=(rank, port, folder, troubles[rank], options)) for rank in range(2)
    ]
    for process in processes:
        process.start()
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.join()


def said(folder: Path, rank: int) -> str:
    """What a rank said last; a traceback would be an error of its own."""
    told = (folder / f"stderr{rank}").read_text()
    assert "Traceback" not in told, told
    return told.splitlines()[-1]


def assert_lost(told: str, victim: int) -> None:
    """`told` is about the connection to this rank, and the client that it trains if the rank has said so in time."""
    assert re.match(rf"error: the connection to rank {victim}( \(client \d+\))? is broken; to go on: ", told), told
