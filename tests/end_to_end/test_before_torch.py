"""Help, and the refusal of what a user got wrong, come before torch and NumPy are imported, which takes seconds."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT

_PROGRAM = """
import runpy, sys
try:
    run, name = (runpy.run_module, "compression") if sys.argv[1] == "describe" else (runpy.run_path, "main.py")
    run(name, run_name="__main__")
finally:
    print("\\nimported:", *sorted({"torch", "numpy"} & sys.modules.keys()))
"""


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--help", "usage: leanfed"),
        ("--print_config", "dataset: cifar10"),
        ("--uplnk none", "there is no option '--uplnk'"),
        ("--rounds 0", "--rounds 0 must be at least 1"),
        ("--config FOLDER/none.yaml", "none.yaml: cannot be read"),
        ("--uplink topk:2", "--uplink 'topk:2'"),
        ("--uplink randk:0.1+log3+zstd --error-feedback dgc:2", "--error-feedback 'dgc:2'"),
        ("--uplink none --uplink-warmup 3", "--uplink-warmup 3"),
        ("--model no_such", "--model 'no_such' is not known"),
        ("--dataset no_such", "--dataset 'no_such' is not known"),
        ("--augment crop:x", "--augment 'crop:x'"),
        ("--partition iid:3", "--partition 'iid:3'"),
        ("--prune magnitudes:0.5", "magnitudes"),
        ("--server fedavgn", "did you mean 'fedavg"),
        ("--aggregate trimmed:0.5", "--aggregate 'trimmed:0.5'"),
        ("--algorithm scaffold --optimizer adam", "does not go with --algorithm scaffold"),
        ("--mode step --server fedadam", "--server fedadam has no meaning there"),
        ("advise --help", "usage: leanfed advise"),
        ("advise", "--link is missing"),
        ("advise --link 1 --codec topk:2", "--codec 'topk:2'"),
        ("advise --link 1 --uplnk none", "there is no option '--uplnk'"),
        ("describe --help", "usage: python -m compression describe"),
        ("describe topk:2", "'topk:2'"),
        ("describe none --model no_such", "--model 'no_such' is not known"),
        ("describe none --update FOLDER/none", "does not exist"),
    ],
)
def test_neither_is_imported(words: str, told: str, tmp_path: Path) -> None:
    """Oracle: the interpreter's own list of modules at the end."""
    argv = words.replace("FOLDER", str(tmp_path)).split()
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *argv], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert told in done.stdout + done.stderr
    assert done.stdout.endswith("\nimported:\n")
