"""The kernels, the files of `checks` in a process of their own: Triton reads TRITON_INTERPRET when it is imported, and this
process must neither see kernels on the CPU nor have Triton imported for it."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import compression.kernels as kernels

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
CHECKS = sorted(map(str, Path(__file__).parent.glob("checks/check_*.py")))
needs_triton = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="needs Triton")
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


def child(arguments: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
    inherited = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**inherited, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables},
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )


def pytest_child(**variables: str) -> None:
    """All checks in one process: to import torch and Triton takes as long as most of them."""
    result = child(["-m", "pytest", "-p", "no:cacheprovider", *CHECKS], **variables)
    assert result.returncode == 0, result.stdout + result.stderr


@needs_triton
def test_interpreted() -> None:
    """On the CPU, by Triton's interpreter."""
    pytest_child(TRITON_INTERPRET="1", KERNELS_DEVICE="cpu")


@needs_triton
@needs_cuda
def test_on_cuda() -> None:
    """Compiled, on the GPU."""
    pytest_child(KERNELS_DEVICE="cuda")


@needs_triton
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Triton's compiler is for Linux")
def test_every_kernel_compiles(tmp_path: Path) -> None:
    """For two generations of GPU, to machine code; needs no GPU. Each kernel of the package must be in the list."""
    script = Path(__file__).parent / "compile_all.py"
    result = child([str(script)], TRITON_CACHE_DIR=str(tmp_path))
    assert result.returncode == 0, result.stdout + result.stderr


def test_importing_the_library_does_not_import_triton() -> None:
    """So that it runs where there is none; nor does the question whether a CPU has kernels."""
    code = """
import sys
sys.modules["triton"] = None
import compression, compression.kernels
assert not compression.kernels.available("cpu")
assert "compression.kernels.packing" not in sys.modules
"""
    result = child(["-c", code])
    assert result.returncode == 0, result.stderr


def test_no_kernels_where_triton_does_not_work() -> None:
    """A trial that fails is a warning and a False, asked once per device, and the torch path is taken."""
    code = """
import sys, warnings
sys.modules["triton"] = None
from compression.kernels import availability
availability._installed = lambda: True
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    assert not availability.available("cuda:0") and not availability.available("cuda:0")
assert len(caught) == 1 and "cuda:0" in str(caught[0].message), caught
"""
    result = child(["-c", code])
    assert result.returncode == 0, result.stderr


@needs_triton
def test_switched_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """Off within, as before afterwards, also after an error."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert kernels.available("cpu")
    with kernels.switched_off():
        assert not kernels.available("cpu")
    assert kernels.available("cpu")
    with pytest.raises(KeyError), kernels.switched_off():
        raise KeyError
    assert kernels.available("cpu")


def test_there_is_no_kernel_of_another_name() -> None:
    """A misspelt name is an AttributeError, as of any module."""
    with pytest.raises(AttributeError, match="compat"):
        _ = kernels.compat
