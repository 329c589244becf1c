"""Room for what clients keep between rounds. Oracle: the sizes, worked out by hand."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fl.common.errors import ConfigError
from tests.support import resume_here, run_here

pytestmark = pytest.mark.slow

# lenet5 for the digits has 62,006 parameters: 248,024 bytes in fp32.
_OPTIONS: dict[str, Any] = {
    "model": "lenet5",
    "clients": 10,
    "clients_per_round": 2,
    "rounds": 3,
    "limit_train": 60,
    "local_steps": 1,
    "uplink": "topk:0.1",
}
_TOLD = "6 clients x 248 KB that each keeps between rounds: 1.5 MB"


def _disk(free: int) -> Callable[[Path], Any]:
    return lambda path: SimpleNamespace(free=free)


@pytest.mark.parametrize(
    ("options", "needed"),
    [
        ({}, (6 + 2 * 2) * 248_024),
        ({"checkpoint_every": 2}, (6 + 2 * 4) * 248_024),
        ({"checkpoint_every": 0, "state_budget": "500000"}, 6 * 248_024 - 500_000),
        ({"state_dtype": "bf16"}, (6 + 2 * 2) * 124_012),
        ({"local_state": "keep"}, (6 + 2 * 2) * 2 * 248_024),
        ({"local_state": "keep", "optimizer": "adamw"}, (6 + 2 * 2) * 3 * 248_024),
        ({"error_feedback": "dgc:0.5", "momentum": 0.0}, (6 + 2 * 2) * 2 * 248_024),
    ],
)
def test_a_run_that_cannot_fit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], needed: int
) -> None:
    """All who take part have a state, those of a checkpoint are there three times; one byte less is refused, before there is
    a folder."""
    options = {**_OPTIONS, **options}
    monkeypatch.setattr(shutil, "disk_usage", _disk(needed - 1))
    with pytest.raises(ConfigError, match=r"has room for .*: choose another --output-dir"):
        run_here(tmp_path / "out", "a", **options)
    assert not (tmp_path / "out").exists()
    monkeypatch.setattr(shutil, "disk_usage", _disk(needed))
    run_here(tmp_path / "out", "a", **options)


def test_what_goes_to_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In run.log, where memory is too small, or what fits into it is much; when the run goes on, its own files are no
    hindrance."""
    run_here(tmp_path, "small", **_OPTIONS, state_budget="1MB")
    sentence = f"{_TOLD}; of these 1.0 MB stay in memory (--state-budget), and the rest is read from disk"
    assert sentence in (tmp_path / "small" / "run.log").read_text()
    run_here(tmp_path, "large", **_OPTIONS, state_budget="1.5MB")
    assert "between rounds" not in (tmp_path / "large" / "run.log").read_text()
    monkeypatch.setattr("fl.run.room._WORTH_SAYING", 6 * 248_024)
    run_here(tmp_path, "much", **_OPTIONS, state_budget="1.5MB")
    assert f"{_TOLD}, in memory (--state-budget)" in (tmp_path / "much" / "run.log").read_text()
    monkeypatch.setattr(shutil, "disk_usage", _disk(8 * 248_024))
    resume_here(tmp_path, "small", rounds=4)


def test_nothing_kept_needs_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No error feedback, and a hook, whose state stays in memory."""
    monkeypatch.setattr(shutil, "disk_usage", _disk(0))
    run_here(tmp_path, "none", **{**_OPTIONS, "error_feedback": "none", "rounds": 1})
    run_here(tmp_path, "hook", **{**_OPTIONS, "exchange": "hook", "clients": 1, "clients_per_round": 1, "rounds": 1})
