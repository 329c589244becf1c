"""Names that others chose. Oracle: escapes as Python writes them, and letters of all scripts as they are."""

import os

import pytest

from fl.common.names import readable


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("plain name-1.png", "plain name-1.png"),
        ("café \N{HEBREW LETTER ALEF} \N{PILE OF POO}", "café \N{HEBREW LETTER ALEF} \N{PILE OF POO}"),
        ("$x_{1}^2$ <b> 100%\\n", "$x_{1}^2$ <b> 100%\\n"),
        (os.fsdecode(b"caf\xe9"), r"caf\xe9"),
        ("\ud800", r"\ud800"),
        ("a\nb\tc\0\x1b[31m\x7f\x85", r"a\nb\tc\x00\x1b[31m\x7f\x85"),
        ("gnp\u202e.exe\u2028", r"gnp\u202e.exe\u2028"),
    ],
)
def test_readable(name: str, shown: str) -> None:
    """One line, which UTF-8 can hold."""
    assert readable(name) == shown
    assert shown.encode().decode() == shown
