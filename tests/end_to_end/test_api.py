"""The program from Python, as docs/python.md shows it."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from fl import Config, train
from fl.common.errors import ConfigError
from tests.support import QUICK, ROOT, no_figures, on_ranks, rows


def _write_blocks(folder: Path) -> dict[str, str]:
    """The page's Python blocks by the file name in their first line, written to `folder`."""
    page = (ROOT / "docs" / "python.md").read_text()
    blocks = {}
    for block in re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL):
        name = block.splitlines()[0].removeprefix("# ")
        blocks[name] = block
        (folder / name).write_text(block)
    return blocks


def _execute(rank: int, world_size: int, folder: Path, block: str) -> None:
    if hasattr(os, "sched_setaffinity"):  # one core, so one thread: two of them crawl where other programs run
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))} if world_size == 1 else os.sched_getaffinity(0))
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    scope: dict[str, Any] = {}
    with no_figures():
        exec(compile(block, "federate.py", "exec"), scope)
    assert bool(scope["summary"]) == (rank == 0)


@pytest.mark.parametrize("world_size", [1, 2])
def test_the_page_works(tmp_path: Path, world_size: int) -> None:
    """Its two blocks, in about the promised number of lines, on one rank and on two: own model, own data, and it learns."""
    blocks = _write_blocks(tmp_path)
    assert list(blocks) == ["my_parts.py", "federate.py"]
    assert len(blocks["federate.py"].strip().splitlines()) <= 24
    on_ranks(world_size, _execute, tmp_path, blocks["federate.py"])
    folder = tmp_path / "outputFolder" / "from-python"
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["final_test_accuracy"] > 0.6
    assert summary["uplink_ratio"] > 5
    assert summary["world_size"] == world_size
    assert json.loads((folder / "config.json").read_text())["model"] == "my_parts:network"
    assert len(rows(folder)) == 6


def test_train_in_pieces(tmp_path: Path) -> None:
    """Options are those of the command line; a run is continued by its folder."""
    options = {**QUICK, "limit_train": 100, "local_steps": 1, "batch_size": 8, "output_dir": str(tmp_path)}
    with no_figures():
        whole = train(**options, run_name="whole", rounds=3)
        train(**options, run_name="pieces", rounds=1)
        pieces = train(resume=str(tmp_path / "pieces"), rounds=3, quiet=True)
    assert pieces["model_sha256"] == whole["model_sha256"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"clint": 3}, ["clint", "clients"]),
        ({"server": "fedsgd"}, ["--server", "'fedsgd'", "did you mean 'fedavg'"]),
        ({"optimizer": "rmsprop"}, ["--optimizer rmsprop", "adamw"]),
        ({"rounds": "3"}, ["--rounds '3'"]),
        ({"rounds": 2.5}, ["--rounds 2.5"]),
        ({"rounds": None}, ["--rounds None"]),
        ({"clients": True}, ["--clients True"]),
        ({"quiet": "no"}, ["--quiet 'no'"]),
        ({"uplink": 0.1}, ["--uplink 0.1"]),
        ({"lr": float("nan")}, ["--lr nan"]),
    ],
)
def test_wrong_options_are_refused(tmp_path: Path, options: dict[str, Any], words: list[str]) -> None:
    """A Python program can pass what no command line lets through: the option and the value are named all the same."""
    with pytest.raises(ConfigError) as caught:
        train(**{**QUICK, "output_dir": str(tmp_path / "out"), **options})
    for word in words:
        assert word in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_a_whole_number_is_a_number(tmp_path: Path) -> None:
    """`lr=1` is as good as `lr=1.0`."""
    assert Config(lr=1).lr == 1
    with no_figures():
        train(**QUICK, lr=0, clip_norm=1, rounds=1, limit_train=50, output_dir=str(tmp_path))


_PROGRAM = """
import sys, fl
assert "torch" not in sys.modules
import torch
state = torch.get_rng_state()
from fl import Config, train
import fl.run.cli, fl.run.loop
assert not torch.distributed.is_initialized() and not torch.cuda.is_initialized()
assert not {"matplotlib", "deepspeed", "accelerate"} & set(sys.modules)

from pathlib import Path
import fl.output.report
fl.output.report.write_report = lambda folder, **_: []
threads = torch.get_num_threads()
train(dataset="digits", model="lenet5", rounds=1, limit_train=50, quiet=True, threads=threads + 1, output_dir=sys.argv[1])
assert torch.equal(state, torch.get_rng_state())
assert torch.get_num_threads() == threads
assert not torch.distributed.is_initialized()
left = [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]
assert not [name for name in left if "gloo" in name], left
"""


def test_nothing_is_left_behind(tmp_path: Path) -> None:
    """Importing loads and starts nothing; a run gives back the thread count, the random state, and its process group.

    A thread of a process group that is still there when Python shuts down now and then ends the process with an abort.
    """
    subprocess.run([sys.executable, "-c", _PROGRAM, str(tmp_path)], cwd=ROOT, check=True, timeout=120)
