"""The program on a machine that seems to have a GPU, as `double.py` makes it.

Each file of `checks` runs in a process of its own, where PyTorch is another one for good.
"""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.cuda_double.build import build, missing

ROOT = Path(__file__).parents[2]
CHECKS = sorted(Path(__file__).parent.glob("checks/check_*.py"))
TRITON = importlib.util.find_spec("triton") is not None


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the double is in C++."""
    if torch.version.cuda is not None or torch.version.hip is not None:
        pytest.skip("needs a PyTorch that was built without CUDA; this one has its own")
    reason = missing()
    if reason is not None:
        pytest.skip(reason)
    return build(tmp_path_factory.mktemp("cuda_double"))


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the double is a shared library for Linux")
@pytest.mark.parametrize("check", CHECKS, ids=lambda path: path.stem)
def test_on_the_double(check: Path, library: Path, tmp_path: Path) -> None:
    """Without a GPU, and without a trace in this process. Kernels only where the check is of them: compiling takes time."""
    triton = check.stem == "check_codecs"
    if triton and not TRITON:
        pytest.skip("needs Triton")
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-p", "tests.cuda_double.plugin", str(check)],
        cwd=ROOT,
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "TRITON_"))},
            **{"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
            **{"CUDA_DOUBLE": str(library), "CUDA_DOUBLE_TRITON": str(int(triton)), "TRITON_CACHE_DIR": str(tmp_path)},
        },
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
