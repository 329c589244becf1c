"""Sizes in bytes. Oracle: powers of ten by hand."""

from pathlib import Path

import pytest

from compression.spec import SpecError
from fl.common.sizes import free_memory, parse_size, say_size


@pytest.mark.parametrize(
    ("text", "size"),
    [("0", 0), ("1000", 1000), ("12B", 12), ("3KB", 3000), ("500MB", 500_000_000), ("1.5 gb", 1_500_000_000)],
)
def test_sizes_are_read(text: str, size: int) -> None:
    """By powers of ten, whatever the case."""
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "6 G", "-1", "GB", "6GiB", "1e9", "nan", "auto"])
def test_what_is_no_size(text: str) -> None:
    """In one sentence."""
    with pytest.raises(SpecError, match=f"'{text}' is no size: write a number of bytes, or one with a unit"):
        parse_size(text)


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 KB"),
        (44_700_000, "45 MB"),
        (4_470_000, "4.5 MB"),
        (6e9, "6.0 GB"),
    ],
)
def test_sizes_are_said(size: float, words: str) -> None:
    """In the largest unit that they reach."""
    assert say_size(size) == words


def test_free_memory_is_some() -> None:
    """Between a megabyte and what a machine can have."""
    assert 10**6 < free_memory() < 10**15


def test_a_container_may_have_less_than_its_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """3,000,000 of 5,000,000 bytes are used; "max" is no limit."""
    files = {"memory.max": "5000000\n", "memory.current": "3000000\n"}
    monkeypatch.setattr(Path, "read_text", lambda path: files[path.name])
    assert free_memory() == 2_000_000
    files["memory.max"] = "max\n"
    assert free_memory() > 2_000_000
