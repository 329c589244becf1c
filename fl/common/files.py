"""Files read only if they are files, and written whole or not at all."""

import contextlib
import errno
import hashlib
import json
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import DiskError
from .progress import work

_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # what nothing but a disk says


@dataclass(frozen=True)
class Beginning:
    """The first `bytes` bytes of a file, by their SHA-256 in hexadecimal."""

    bytes: int
    sha256: str


def sha256(data: bytes) -> str:
    """The SHA-256 of some bytes, in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, in hexadecimal, without holding all of it in memory."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while data := file.read(1 << 20):
            digest.update(data)
    return digest.hexdigest()


def need_file(path: Path) -> None:
    """OSError for a pipe or a device, of which reading might never end, and for what is not there."""
    kind = path.stat().st_mode
    if not stat.S_ISREG(kind):
        reason = os.strerror(errno.EISDIR) if stat.S_ISDIR(kind) else "it is a pipe or a device, not a file"
        raise OSError(errno.EINVAL, reason, str(path))


def read_bytes(path: Path) -> bytes:
    """What a file holds; OSError as `need_file`."""
    need_file(path)
    return path.read_bytes()


def read_json(path: Path, **options: Any) -> Any:
    """What a JSON file holds, in any UTF; `options` are those of `json.loads`. OSError as `need_file`, ValueError for
    what is not JSON."""
    try:
        return json.loads(read_bytes(path), **options)
    except RecursionError:
        raise ValueError("it is nested too deep") from None


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically."""
    write_bytes(path, (json.dumps(value, indent=2) + "\n").encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically."""
    with written_whole(path) as temporary:
        temporary.write_bytes(data)


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """A file beside the target, to be written in this block; then it is forced to disk and renamed: a reader sees the old
    file or the new one, never a part."""
    work.steps += 1
    temporary = path.with_name(path.name + f".{os.getpid()}.part")
    with naming(path):
        try:
            yield temporary
            _force_to_disk(temporary)
            os.replace(temporary, path)
        except BaseException:  # a full disk, say, on which the part must not stay
            temporary.unlink(missing_ok=True)
            raise
        _force_to_disk(path.parent)


def _force_to_disk(path: Path) -> None:
    opened = os.open(path, os.O_RDONLY)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """In this block an OSError is about this file: the system does not say which one it could not write."""
    try:
        yield
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise


@contextlib.contextmanager
def disk_told(folder: Path, remedy: Callable[[], str]) -> Iterator[None]:
    """In this block an OSError about a file in `folder` becomes a DiskError that says the way on; others stay what they
    are."""
    try:
        yield
    except OSError as error:
        names = [
            Path(os.fsdecode(name)) for name in (error.filename, error.filename2) if isinstance(name, (str, bytes))
        ]
        path = next((name for name in names if folder in (name, *name.parents)), None)
        if path is None and (names or error.errno not in _DISK):
            raise
        first = "make room" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "mend that"
        what = f"{path or folder} cannot be used ({error.strerror})"
        raise DiskError(f"{what}: {first}, then {remedy()}") from None
