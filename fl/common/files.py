"""Files written whole or not at all: JSON and tensors."""

import json
import os
from pathlib import Path
from typing import Any

from safetensors.torch import load, load_file, save
from torch import Tensor

from .names import readable
from .tensors import to_host


def _to_bytes(tensors: dict[str, Tensor]) -> bytes:
    return save({name: tensor.contiguous() for name, tensor in to_host(tensors).items()})


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file; as `load_file`, which cannot open a path that is no UTF-8."""
    return load_file(path) if readable(str(path)) == str(path) else load(path.read_bytes())


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write a safetensors file atomically."""
    write_bytes(path, _to_bytes(tensors))


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file atomically."""
    write_bytes(path, (json.dumps(value, indent=2) + "\n").encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write beside the target, force to disk, then rename: a reader sees the old file or the new one, never a part."""
    temporary = path.with_name(path.name + f".{os.getpid()}.part")
    try:
        with open(temporary, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:  # a full disk, say, on which the part must not stay
        temporary.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
