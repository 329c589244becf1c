"""Which program this is, for those that must be the same to understand one another."""

import functools
import hashlib
from pathlib import Path

import torch


@functools.cache
def source_sha256() -> str:
    """A digest of this program's own source."""
    found = hashlib.sha256()
    root = Path(__file__).parents[2]
    for path in sorted(path for room in ("compression", "fl") for path in (root / room).rglob("*.py")):
        found.update(path.read_bytes())
    return found.hexdigest()[:12]


def program() -> str:
    """This program and its version of torch, whatever device that was built for."""
    return f"leanfed {source_sha256()} with torch {torch.__version__.partition('+')[0]}"
