"""Tensors in files (safetensors), and nested states taken apart into tensors and JSON."""

import copy
import errno
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

from safetensors import SafetensorError
from safetensors.torch import load, load_file, save, save_file
from torch import Tensor

from .files import need_file, sha256_of, write_bytes, written_whole
from .names import readable
from .tensors import to_host


def tensors_to_bytes(tensors: dict[str, Tensor]) -> bytes:
    """A safetensors file with these tensors."""
    return save(_apart({name: tensor.contiguous() for name, tensor in to_host(tensors).items()}))


def _apart(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors, but copies of those that share memory with another one, which no file takes."""
    apart, end = dict(tensors), 0
    for name, tensor in sorted(tensors.items(), key=lambda each: each[1].data_ptr()):
        if tensor.data_ptr() < end:
            apart[name] = tensor.clone()
        else:
            end = tensor.data_ptr() + tensor.nbytes
    return apart


def read_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file; as `load_file`, which cannot open a path that is no UTF-8."""
    need_file(path)
    return load_file(path) if readable(str(path)) == str(path) else load(path.read_bytes())


def write_tensors(path: Path, tensors: dict[str, Tensor]) -> str:
    """As `save_tensors`; returns the SHA-256 of the file."""
    save_tensors(path, tensors)
    return sha256_of(path)


def save_tensors(path: Path, tensors: dict[str, Tensor]) -> None:
    """Write a safetensors file atomically, without a copy of the tensors that are on the CPU, unless one is there twice."""
    if readable(str(path)) != str(path):  # which `save_file` cannot write to
        write_bytes(path, tensors_to_bytes(tensors))
        return
    with written_whole(path) as temporary:
        try:
            save_file(_apart({name: tensor.contiguous() for name, tensor in to_host(tensors).items()}), temporary)
        except SafetensorError as error:  # what the system said is in its text alone
            code = re.search(r"os error (\d+)", str(error))
            number = int(code[1]) if code else errno.EIO
            raise OSError(number, os.strerror(number)) from None
        temporary.chmod(path.parent.stat().st_mode & 0o666)  # it is the user's alone, wherever it is


State = dict[str, Any]
"""What remembers something, as tensors, values that JSON can hold, and further states by name."""


def split_state(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], State]:
    """The tensors of a nested state, by their names joined with '/', and what is left of it."""
    tensors: dict[str, Tensor] = {}
    rest: State = {}
    for name, value in state.items():
        key = quote(name, safe="")
        if isinstance(value, Tensor):
            tensors[key] = value
        elif isinstance(value, Mapping):
            own, rest[name] = split_state(value)
            tensors.update({f"{key}/{inner}": tensor for inner, tensor in own.items()})
        else:
            rest[name] = value
    return tensors, rest


def join_state(tensors: Mapping[str, Tensor], rest: Mapping[str, Any] | None = None) -> State:
    """The inverse of `split_state`."""
    state: State = copy.deepcopy(dict(rest or {}))
    for key, tensor in tensors.items():
        *path, name = map(unquote, key.split("/"))
        inner = state
        for word in path:
            inner = inner.setdefault(word, {})
        inner[name] = tensor
    return state
