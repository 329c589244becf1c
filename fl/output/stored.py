"""The files of a checkpoint: what they are called, and how they are read back, whole or not at all."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError
from torch import Tensor

from fl.common.errors import DataError
from fl.common.files import sha256_of
from fl.common.ranks import Ranks
from fl.common.tensor_files import read_tensors


class Stored(NamedTuple):
    """A client's state in a file: how often it had changed, and the SHA-256 of the file."""

    number: int
    sha256: str


def client_file(client: int, number: int) -> str:
    """The name of a client's file. Another state is another file: one that a checkpoint has is never written again."""
    return f"client-{client:06d}-{number:06d}.safetensors"


def make_folder(folder: Path, ranks: Ranks) -> None:
    """Make the folder of the checkpoints. FileNotFoundError if rank 0's run folder is gone; a rank of a machine that does
    not share it has one of its own."""
    folder.mkdir(parents=not ranks.is_server, exist_ok=True)


def load_tensors(path: Path, digest: str) -> dict[str, Tensor]:
    """The tensors of a checkpoint's file, mapped into memory: pages are read as they are used. DataError if the file cannot
    be read, or is not what was written."""
    check_whole(path, digest)
    try:
        return read_tensors(path)
    except SafetensorError as error:
        raise DataError(f"checkpoint file {path} cannot be read ({error})") from None


def check_whole(path: Path, digest: str) -> None:
    """DataError if a checkpoint's file is not what was written."""
    with reading(path):
        if sha256_of(path) != digest:
            raise DataError(f"checkpoint file {path} is damaged: its SHA-256 is not the one in its manifest")


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """In this block a checkpoint's file is read; DataError if it is no plain file in its folder, or cannot be read."""
    try:
        if path.exists() and not (path.is_file() and path.resolve().parent == path.parent.resolve()):
            raise DataError(f"checkpoint file {path} is no plain file in this folder")
        yield
    except OSError as error:
        raise DataError(
            f"checkpoint file {path} cannot be read ({error.strerror}); with several machines, "
            "--output-dir must be a folder that all of them share"
        ) from None
