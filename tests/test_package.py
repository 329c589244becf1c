"""The package as users have it: an sdist, a wheel built from it, and an environment that knows nothing of the checkout.

Libraries are those of the environment that runs the tests. Oracle: each command does there what it does here.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.support import QUICK, ROOT

pytestmark = pytest.mark.slow

_BUILD = "import sys; from setuptools import build_meta; build_meta.build_{}(sys.argv[1])"
_SOURCE = (
    "compression",
    "fl",
    "leanfed",
    "tests",
    "configs",
    "pyproject.toml",
    "MANIFEST.in",
    "constraints.txt",
    "README.md",
    "LICENSE",
)


def _do(*words: str | Path, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(list(map(str, words)), cwd=cwd, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist, and the wheel that is built from nothing else."""
    folder = tmp_path_factory.mktemp("dist")
    source = folder / "checkout"
    source.mkdir()
    for name in _SOURCE:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, source / name)
    _do(sys.executable, "-c", _BUILD.format("sdist"), folder, cwd=source)
    (sdist,) = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    _do(sys.executable, "-c", _BUILD.format("wheel"), folder, cwd=unpacked)
    (wheel,) = folder.glob("*.whl")
    return sdist, wheel


@pytest.fixture(scope="module")
def commands(built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of commands of an environment in which the wheel is installed."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    install = ("install", "--quiet", "--no-deps", "--no-index", built[1])
    _do(sys.executable, "-m", "pip", "--python", python, *install, cwd=folder)
    (site,) = folder.glob("lib/python*/site-packages")
    (site / "libraries.pth").write_text(sysconfig.get_path("purelib"))
    return folder / "bin"


def test_the_tested_versions_lie_in_the_ranges() -> None:
    """Every library is pinned in constraints.txt, but for those whose version another library chooses."""
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11 reads pyproject.toml")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    ranges = {found.name: found.specifier for found in map(Requirement, lines)}
    pins = [
        Requirement(line)
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line.strip("#")[:1].isalpha()
    ]
    for pin in pins:
        (exact,) = pin.specifier
        assert exact.version in ranges[pin.name], pin
    assert ranges.keys() - {pin.name for pin in pins} == {"leanfed", "rich", "flwr", "triton"}


def test_what_is_inside(built: tuple[Path, Path]) -> None:
    """Every module of the packages, and no test, data or result, in the wheel; in the sdist neither."""
    with zipfile.ZipFile(built[1]) as wheel:
        held = {name for name in wheel.namelist() if ".dist-info/" not in name}
    packages = ("compression", "fl", "leanfed")
    assert held == {str(path.relative_to(ROOT)) for name in packages for path in (ROOT / name).rglob("*.py")}
    with tarfile.open(built[0]) as sdist:
        rooms = {name.split("/")[1] for name in sdist.getnames() if name.count("/") > 1}
    assert rooms == {*packages, "leanfed.egg-info"}


def test_the_commands(commands: Path, tmp_path: Path) -> None:
    """The installed program trains, exports, draws, compares and describes, in a folder that is empty before."""
    leanfed = commands / "leanfed"
    where = _do(commands / "python", "-c", "import fl, leanfed; print(fl.__file__, leanfed.__file__)", cwd=tmp_path)
    assert all(Path(name).is_relative_to(commands.parent) for name in where.split())
    options = QUICK | {"clients": 2, "rounds": 1, "limit_train": 60, "uplink": "topk:0.1", "output_dir": "runs"}
    words = [word for name, value in options.items() if name != "quiet" for word in (f"--{name}", str(value))]
    _do(leanfed, *words, "--quiet", "--run-name", "one", cwd=tmp_path)
    shutil.copytree(tmp_path / "runs" / "one", tmp_path / "runs" / "two")
    assert "model.safetensors" in _do(leanfed, "export", "runs/one", cwd=tmp_path)
    assert _do(leanfed, "report", "runs/one", cwd=tmp_path) == "runs/one/report.html\n"
    assert "results: comparison" in _do(leanfed, "compare", "runs/one", "runs/two", "--link", "none", cwd=tmp_path)
    assert "usage: leanfed experiment" in _do(leanfed, "experiment", "--help", cwd=tmp_path)
    update = ("--update", "runs/one/export/model.safetensors")
    assert "4 times fewer bytes" in _do(leanfed, "describe", "int8", *update, cwd=tmp_path)
