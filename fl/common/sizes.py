"""Sizes in bytes: how users write them, how they are said, and how much room this machine has."""

import re
from pathlib import Path

import psutil

from compression.spec import SpecError

_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGT]?B)?", re.IGNORECASE)


def parse_size(text: str) -> int:
    """The bytes of a size such as 6GB, 500MB or 1000000, by powers of ten; SpecError for anything else."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise SpecError(f"'{text}' is no size: write a number of bytes, or one with a unit, such as 500MB or 6GB")
    unit = (found[2] or "").upper()
    return int(float(found[1]) * _UNITS.get(unit, 1))


def say_size(size: float) -> str:
    """A number of bytes in a unit that suits it, with two or three digits."""
    name, unit = next(((name, unit) for name, unit in reversed(_UNITS.items()) if unit <= size), ("", 1))
    value = size / unit
    return f"{value:.0f} {name or 'bytes'}" if value >= 10 or not name else f"{value:.1f} {name}"


def free_memory() -> int:
    """Bytes of memory that this machine, or the container that this process is in, can still give."""
    free = [int(psutil.virtual_memory().available)]
    group = Path("/sys/fs/cgroup")
    try:
        limit, used = ((group / name).read_text().strip() for name in ("memory.max", "memory.current"))
        free.append(max(0, int(limit) - int(used)))
    except (OSError, ValueError):  # no container, or one without a limit ("max")
        pass
    return min(free)
