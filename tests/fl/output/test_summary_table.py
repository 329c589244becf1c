"""The closing table; oracle: the numbers put in, converted by hand."""

import io
from typing import Any

import pytest
from rich.console import Console

from fl.output.summary_table import duration, megabytes, summary_table

SUMMARY: dict[str, Any] = {
    "final_test_accuracy": 0.91234,
    "best_val_round": 7,
    "best_val_test_accuracy": 0.9,
    "total_uplink_bytes": 19_800_000,
    "total_downlink_bytes": 1_787_833_920,
    "total_uplink_dense_bytes": 1_787_833_920,
    "total_downlink_dense_bytes": 1_787_833_920,
    "uplink_ratio": 90.2946,
    "downlink_ratio": 1.0,
    "parameters": 11_173_962,
    "rounds": 10,
    "seconds": 125.4,
    "model_sha256": "ab" * 32,
    "folder": "outputFolder/[bold]run",
}


def render(summary: dict[str, Any], width: int = 120) -> str:
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(summary_table(summary))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_every_figure_appears_in_human_units() -> None:
    """91.23 %, 19.8 MB against 1,787.8 MB is 90.3x, 125.4 s is 2 min 5 s; brackets in a path are no markup."""
    text = render(SUMMARY)
    for words in (
        "91.23%",
        "90.00%  (round 7)",
        "19.8 MB  (dense 1,787.8 MB, 90.3x)",
        "1,787.8 MB  (dense 1,787.8 MB, 1.0x)",
        "11,173,962",
        "2 min 5 s",
        "ab" * 32,
        "outputFolder/[bold]run",
    ):
        assert words in text


def test_a_narrow_terminal_folds_but_loses_nothing() -> None:
    """The checksum is 64 characters; all of them must survive at 60 columns."""
    text = render(SUMMARY, width=60)
    assert text.count("ab") >= 32


@pytest.mark.parametrize("summary", [{}, dict.fromkeys(SUMMARY)])
def test_missing_values_are_dashes(summary: dict[str, Any]) -> None:
    """A run without validation, or without anything, still has a table."""
    assert "-" in render(summary)


def test_units() -> None:
    """Oracle: by hand; MB is 10^6 bytes."""
    assert [megabytes(n) for n in (0, 1_234, 9_999_000, 12_345_678, 5_000_000_000)] == [
        "0.000 MB",
        "0.001 MB",
        "9.999 MB",
        "12.3 MB",
        "5,000.0 MB",
    ]
    assert [duration(s) for s in (0.04, 8.31, 59.94, 59.96, 125.4, 3599.6, 3720)] == [
        "0.0 s",
        "8.3 s",
        "59.9 s",
        "1 min 0 s",
        "2 min 5 s",
        "1 h 0 min",
        "1 h 2 min",
    ]
