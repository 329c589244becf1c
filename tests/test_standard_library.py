"""Our package `compression` and the standard library's, from Python 3.14 on: whichever is found first, both work.

Oracles: a made-up standard library, and a real one where node and the npm package `pyodide` (CPython in WebAssembly) are.
"""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT

_BOTH = """
import compression.zstd, compression._common
import fl, compression.grammar, fl.run.rules, fl.server.spec
assert not compression.zstd.__file__.startswith({ours!r}) and compression.grammar.__file__.startswith({ours!r})
from compression import SpecError
from leanfed.compression import SpecError as the_same
assert SpecError is the_same is compression.spec.SpecError
print(compression.__file__)
"""
_PYODIDE = """
require("pyodide").loadPyodide().then((python) => {
  python.FS.mkdirTree("/checkout");
  python.FS.mount(python.FS.filesystems.NODEFS, { root: process.argv[1] }, "/checkout");
  python.runPython(process.argv[2]);
});
"""
_FORGET = """
import sys
sys.dont_write_bytecode = True
names = "compression", "gzip", "bz2", "lzma", "zipfile", "tarfile"
for name in [name for name in sys.modules if name.partition(".")[0] in names]:
    del sys.modules[name]
{first}
import io, gzip, bz2, lzma, zipfile, tarfile
for each in gzip, bz2, lzma:
    assert each.decompress(each.compress(b"some bytes")) == b"some bytes"
for mode, read in ("w:xz", "r:xz"), ("w:gz", "r:gz"):
    file = io.BytesIO()
    tarfile.open(fileobj=file, mode=mode).close()
    file.seek(0)
    tarfile.open(fileobj=file, mode=read).close()
zipfile.ZipFile(io.BytesIO(), "w", zipfile.ZIP_LZMA).writestr("name", b"some bytes")
"""


@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_a_made_up_standard_library(first: str, tmp_path: Path) -> None:
    """`compression.zstd` and `compression._common` are theirs, and our modules and names are ours."""
    for name in ("compression", "compression/_common", "compression/zstd"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    folders = [str(ROOT), str(tmp_path)] if first == "ours" else [str(tmp_path), str(ROOT)]
    forget = f"import os, sys; sys.modules.pop('compression', None); sys.path[:0] = {folders}"
    code = f"{forget}; os.__file__ = {str(tmp_path / 'os.py')!r}\n{_BOTH.format(ours=str(ROOT))}"
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == str(Path(folders[0]) / "compression" / "__init__.py"), done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_a_real_standard_library(first: str) -> None:
    """gzip, bz2, lzma, zipfile and tarfile work, and with them those of our modules that need no torch."""
    node = shutil.which("node") or ""
    if not node or subprocess.run([node, "-e", "require('pyodide')"], capture_output=True, check=False).returncode:
        pytest.skip(
            "needs node and the npm package pyodide, version 314 or newer; NODE_PATH names its folder node_modules"
        )
    place = "sys.path.insert(0, '/checkout')" if first == "ours" else "sys.path.append('/checkout')"
    code = _FORGET.format(first=place) + _BOTH.format(ours="/checkout")
    done = subprocess.run([node, "-e", _PYODIDE, str(ROOT), code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("/checkout/") == (first == "ours")
