"""One writer for each run folder: a lock that the operating system frees when its holder ends, however it ends."""

import contextlib
import errno
import fcntl
import json
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from fl.common.errors import ConfigError
from fl.common.terminal import say

_NAME = "lock.json"
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)  # what file systems without them answer


@contextlib.contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """In this block no other process writes to the run folder; what dead ones left half-written there is removed.

    ConfigError names the process that writes there already. Where the file system has no locks, a warning says so.
    """
    with open(folder / _NAME, "a+") as file:
        # A forked child would keep the lock beyond the death of its parent; programs that are started do not inherit it.
        os.register_at_fork(after_in_child=file.close)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(
                f"{folder} is in use: {_told(file)} writes to it; wait for its end, or choose another --run-name"
            ) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            say(f"{folder} cannot be locked ({error.strerror}): make sure that no other process writes to it")
        file.truncate(0)
        json.dump({"host": socket.gethostname(), "pid": os.getpid()}, file)
        file.flush()
        for path in folder.iterdir():
            if re.fullmatch(r".+\.\d+\.part", path.name) and path.is_file():
                path.unlink(missing_ok=True)
        yield


def writer(folder: Path) -> str | None:
    """The process that writes to a run folder now, in words; None if there is none, or it cannot be told."""
    with contextlib.suppress(OSError), open(folder / _NAME) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _told(file)
    return None


def _told(file: IO[str]) -> str:
    file.seek(0)
    try:
        holder = json.load(file)
        return f"process {holder['pid']} on {holder['host']}"
    except (ValueError, TypeError, KeyError):  # it has the lock, and has not said so yet
        return "another process"
