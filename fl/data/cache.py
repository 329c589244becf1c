"""What takes long to decode is kept: tables and pictures, as the tensors that a run reads, for its ranks and for later runs.

An entry is one safetensors file in the folder `.leanfed-cache` beside the data, or in `--cache-dir`. It is mapped into
memory, not copied, so the ranks of a machine share its pages. Its name is a digest of what was decoded and how, of all the
files' contents among it. It holds numbers and texts, never code, and counts only if its checksum is right and it belongs
to this user or to the owner of the data. Whatever goes wrong here, the data are decoded as if there were no cache.
"""

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import stat
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path

import numpy as np
import PIL
import torch
from torch import Tensor

from fl.common.names import readable
from fl.common.tensor_files import join_state, read_tensors, save_tensors, split_state

from .dataset import Dataset, Split
from .files import one_at_a_time

FOLDER = ".leanfed-cache"
LEAST_BYTES = 8_000_000
"""Files of less than this together are not cached: to decode them takes a second or so."""

_TEXTS, _CHECKSUM = "texts", "checksum"
_LOCK = "lock"

_chosen: ContextVar[str | None] = ContextVar("cache_dir", default=None)


@contextlib.contextmanager
def cache_in(folder: str | None) -> Iterator[None]:
    """In this block entries are in that folder; None: beside the data."""
    token = _chosen.set(folder)
    try:
        yield
    finally:
        _chosen.reset(token)


def cached(root: Path, files: Sequence[Path], how: str, load: Callable[[], Dataset]) -> Dataset:
    """What `load()` returns, from the cache if it is there.

    It must follow from `how`, which identifies the options, and from the contents of `files` and their places in the folder
    `root` alone. An entry replaces those of the same root and options. One process of a machine decodes while the others
    wait. An entry that cannot be kept is told in `left_out`.
    """
    before = _identify(files)
    if before is None or sum(size for size, *_ in before) < LEAST_BYTES:
        return load()
    source = hashlib.sha256(f"{root.resolve()!s}\n{how}".encode(errors="surrogateescape")).hexdigest()[:16]
    folder = (root / FOLDER if (chosen := _chosen.get()) is None else Path(chosen).resolve()) / source
    try:
        entry = folder / f"{_digest(root, files)}.safetensors"
        owners = {os.geteuid(), root.stat().st_uid}
    except OSError:  # gone, or not to be read: the reader knows what to say
        return load()
    found = _read(entry, owners)
    if found is not None:
        return found
    trouble = None
    with contextlib.ExitStack() as held:
        try:
            _make_folder(folder, owners)
            held.enter_context(one_at_a_time(folder / _LOCK))
        except OSError as error:
            trouble = error
        found = _read(entry, owners)  # another rank may have decoded it while this one waited
        if found is not None:
            return found
        data = load()
        if trouble is None and _identify(files) == before:  # else it is of what the files hold now
            try:
                _write(entry, data)
            except OSError as error:
                trouble = error
    if trouble is not None:
        told = f"decoded data are not kept in {folder.parent} ({trouble.strerror}); --cache-dir names another folder"
        return dataclasses.replace(data, left_out=(*data.left_out, readable(told)))
    return _read(entry, owners) or data


def _identify(files: Sequence[Path]) -> list[tuple[int, ...]] | None:
    """Size, time stamps and number of each file; None if one is no file."""
    found: list[tuple[int, ...]] = []
    for path in files:
        try:
            status = path.stat()
        except OSError:
            return None
        if not stat.S_ISREG(status.st_mode):
            return None
        found.append((status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino))
    return found


def _digest(root: Path, files: Sequence[Path]) -> str:
    """Of the files' contents and their paths from `root`, and of what decodes them: this package and its libraries."""
    found = hashlib.sha256(f"{sys.version_info[:2]} {np.__version__} {PIL.__version__}".encode())
    program = Path(__file__).parents[1]
    own = [path for room in ("common", "data") for path in sorted((program / room).glob("*.py"))]
    for folder, paths in ((program, own), (root, files)):
        above = os.path.join(folder, "")
        for path in paths:
            found.update(os.fsencode(str(path).removeprefix(above)) + b"\0")
            found.update(_content_sha256(path))
    return found.hexdigest()[:32]


def _content_sha256(path: Path) -> bytes:
    content = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while part := file.read(1 << 20):
            content.update(part)
    return content.digest()


def _make_folder(folder: Path, owners: set[int]) -> None:
    """OSError if it, or the one that it is in, is a link or somebody else's, who could exchange what is there."""
    folder.mkdir(parents=True, exist_ok=True)
    for each in (folder.parent, folder):
        status = each.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid not in owners:
            raise PermissionError(errno.EPERM, "it is a link, or another user's")


def _write(entry: Path, data: Dataset) -> None:
    """In the place of older entries, and of what a process that was killed has left."""
    for old in entry.parent.iterdir():
        if old.name != _LOCK:
            old.unlink()
    state = {field.name: getattr(data, field.name) for field in dataclasses.fields(data)}
    state = {name: vars(value) if isinstance(value, Split) else value for name, value in state.items()}
    tensors, texts = split_state(state)
    tensors[_TEXTS] = torch.frombuffer(bytearray(json.dumps(texts).encode()), dtype=torch.uint8)
    tensors[_CHECKSUM] = torch.tensor(_checksum(entry.name, tensors))
    save_tensors(entry, tensors)


def _read(entry: Path, owners: set[int]) -> Dataset | None:
    """The data set of an entry, mapped; None if there is none, or it is not as it was written."""
    try:
        status = entry.lstat()
        if not stat.S_ISREG(status.st_mode) or status.st_uid not in owners:
            return None
        tensors = read_tensors(entry)
        if int(tensors.pop(_CHECKSUM)) != _checksum(entry.name, tensors):
            return None
        texts = json.loads(tensors.pop(_TEXTS).numpy().tobytes())
        state = join_state(tensors, {name: tuple(v) if isinstance(v, list) else v for name, v in texts.items()})
        splits = {name: Split(**value) for name, value in state.items() if isinstance(value, dict)}
        return Dataset(**{**state, **splits})
    except Exception:  # whatever somebody wrote there
        return None


def _checksum(name: str, tensors: dict[str, Tensor]) -> int:
    """Of the tensors, their names, and the entry's name: one that somebody has renamed is of other data."""
    found = zlib.crc32(name.encode())
    for name in sorted(tensors):
        found = zlib.crc32(np.ascontiguousarray(tensors[name].numpy()).data, zlib.crc32(name.encode(), found))
    return found
