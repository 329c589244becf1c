"""Compiles `guard.cpp` and finds PyTorch's folder, without importing PyTorch: it looks for CUDA while it is imported."""

import importlib.util
import os
import shutil
import subprocess
from pathlib import Path

COMPILER = os.environ.get("CXX", "g++")


def missing() -> str | None:
    """Why the double cannot be built here; None if it can."""
    return None if shutil.which(COMPILER) else f"needs a C++ compiler; there is no {COMPILER}"


def build(folder: Path) -> Path:
    """The shared library in `folder`, compiled if it is not there yet; several processes may ask at once."""
    library = folder / "cuda_double.so"
    if not library.exists():
        spec = importlib.util.find_spec("torch")
        assert spec is not None
        assert spec.origin is not None
        torch = Path(spec.origin).parent
        part = library.with_suffix(f".{os.getpid()}")
        source = Path(__file__).with_name("guard.cpp")
        paths = [f"-I{torch / 'include'}", f"-L{torch / 'lib'}", f"-Wl,-rpath,{torch / 'lib'}"]
        flags = ["-std=c++20", "-O0", "-shared", "-fPIC"]
        subprocess.run([COMPILER, *flags, *paths, str(source), "-o", str(part), "-lc10", "-ltorch_cpu"], check=True)
        part.replace(library)
    return library
