"""Finding the files of a data set, fetching them once, and saying what is missing."""

import fcntl
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import numpy as np

from fl.common.errors import DataError
from fl.common.files import need_file
from fl.common.text_file import UNREADABLE, refuse_bomb

T = TypeVar("T")


@contextmanager
def one_at_a_time(lock: Path) -> Iterator[None]:
    """Let one process of this machine in at a time: all ranks start together and would write the same files. `lock`: a file
    for this alone; OSError if it cannot be made."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with open(lock, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def obtain(
    name: str,
    data_dir: Path,
    *,
    read: Callable[[Path], T],
    fetch: Callable[[Path], None] | None,
    folder: str,
    sums: Mapping[str, str],
) -> T:
    """What `read(root)` returns for the first root, DIR or DIR/<name>, whose files it can read.

    If there is none, `fetch(DIR)` may download them (None: not allowed). Raises DataError that names every file with
    its MD5 sum (`sums`) and the folder they belong in (`folder`, relative to a root).
    """
    reason = ""
    for root in (data_dir, data_dir / name):
        try:
            return read(root)
        except UNREADABLE as error:
            if (root / folder).is_dir():
                reason = f" ({_first_line(error)})"
    if fetch is None:
        failure = "--download is off"
    else:
        try:
            with one_at_a_time(data_dir / ".download.lock"):
                try:
                    return read(data_dir)  # another rank may have fetched them while this one waited
                except UNREADABLE:
                    fetch(data_dir)
                return read(data_dir)
        except Exception as error:  # whatever went wrong, the user's way out is the same
            failure = f"the download failed ({_first_line(error)})"
    wanted = ", ".join(f"{file} (MD5 {md5})" for file, md5 in sums.items())
    raise DataError(
        f"--dataset {name}: no complete copy in {data_dir} or {data_dir / name}{reason}, and {failure}; "
        f"put these files in {data_dir / folder}: {wanted}"
    )


def read_arrays(path: Path, names: Sequence[str]) -> list[np.ndarray]:
    """Arrays of a NumPy archive by name, none of them pickled. KeyError for one that is absent, else one of UNREADABLE."""
    need_file(path)
    try:
        with np.load(path, allow_pickle=False) as archive:
            members = archive.zip.infolist()
            refuse_bomb(path.stat().st_size, sum(member.file_size for member in members))
            found = [archive[name] for name in names]
    except (KeyError, *UNREADABLE):
        raise
    except Exception as error:  # what NumPy's and Python's readers raise depends on the damage
        raise ValueError(f"it is damaged, or no NumPy archive: {_first_line(error)}") from None
    for name, array in zip(names, found, strict=True):
        if not isinstance(array, np.ndarray):
            raise ValueError(f"'{name}' is no array")
    return found


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


def why_unreadable(error: Exception) -> str:
    """The cause in a few words: a missing array of an archive by name, else the error's first line."""
    if isinstance(error, KeyError):
        return f"no array '{str(error.args[0]).removesuffix(' is not a file in the archive')}'"
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
