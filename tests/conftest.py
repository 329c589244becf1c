"""Fixtures of all tests."""

import os
import signal
from pathlib import Path

import pytest

# Before torch is imported, here and in what is started here. While all cores are at work, threads that wait for each other
# take up to ten times as long as one does, and tests are small. Those that are about several threads say how many.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import fl  # noqa: F401 - makes `compression` ours too where the standard library has one, before a test asks for it
import tests.no_fsync  # noqa: F401

# A shell's background job ignores Ctrl-C, and one under nohup that its terminal goes; so would all that is started here.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Of `-n auto`: more than there are cores, because for more than a quarter of the time tests wait for processes, signals
    and sockets. No more than 12: each takes gigabytes with its ranks."""
    return min(12, (os.cpu_count() or 1) * 3 // 2)


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real data sets that LEANFED_DATA names; without it the test is skipped, or fails where the
    variable LEANFED_REQUIRE_DATA says that a skip is a failure."""
    folder = os.environ.get("LEANFED_DATA")
    if folder and Path(folder).is_dir():
        return Path(folder).resolve()
    reason = f"LEANFED_DATA must name the folder of real data sets, not {folder!r}"
    if os.environ.get("LEANFED_REQUIRE_DATA") == "1":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests choose their options themselves: variables that the program would read are out of the way."""
    for name in list(os.environ):
        if name.startswith("LEANFED_") and name not in ("LEANFED_DATA", "LEANFED_REQUIRE_DATA"):
            monkeypatch.delenv(name)
