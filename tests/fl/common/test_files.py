"""Nested states as tensors and JSON. Oracle: what goes in comes out again, whatever its names."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from fl.common.files import read_bytes, read_json, write_bytes
from fl.common.tensor_files import join_state, read_tensors, split_state, write_tensors

_NAMES = st.text(max_size=4) | st.sampled_from(["", "/", "a/b", "%", "%2F", ".", "..", "a.b", "é"])
_JSON = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=3)
_TENSORS = st.lists(st.integers(-9, 9), max_size=3).map(lambda values: torch.tensor(values, dtype=torch.int64))
_STATES = st.recursive(
    st.dictionaries(_NAMES, _TENSORS | _JSON | st.lists(_JSON, max_size=3), max_size=4),
    lambda states: st.dictionaries(_NAMES, states | _TENSORS | _JSON, max_size=4),
    max_leaves=12,
)


def _plain(state: Any) -> Any:
    """With lists for tensors, so that states can be compared."""
    if isinstance(state, Tensor):
        return ("tensor", state.tolist())
    return {name: _plain(value) for name, value in state.items()} if isinstance(state, dict) else state


@given(_STATES)
def test_a_state_comes_back_from_tensors_and_json(state: dict[str, Any]) -> None:
    """No two tensors get one name, and what is left is JSON; the parts can be used again."""
    tensors, rest = split_state(state)
    text = json.dumps(rest)
    for _ in range(2):
        assert _plain(join_state(tensors, json.loads(text))) == _plain(state)
        assert _plain(join_state(tensors, rest)) == _plain(state)
    assert json.dumps(rest) == text


@given(_STATES)
def test_tensors_alone_come_back_too(state: dict[str, Any]) -> None:
    """Without the rest: all tensors at their places, and nothing else."""

    def only_tensors(state: dict[str, Any]) -> dict[str, Any]:
        inner = {name: only_tensors(value) for name, value in state.items() if isinstance(value, dict)}
        return {
            **{name: value for name, value in state.items() if isinstance(value, Tensor)},
            **{name: value for name, value in inner.items() if value},
        }

    assert _plain(join_state(split_state(state)[0])) == _plain(only_tensors(state))


def test_names_are_told_by_slashes() -> None:
    """By hand: a slash in a name is %2F, as in an address."""
    tensors, rest = split_state({"a": {"b": torch.ones(1), "c": 1}, "a/b": torch.zeros(1), "": {"": torch.ones(2)}})
    assert list(tensors) == ["a/b", "a%2Fb", "/"]
    assert rest == {"a": {"c": 1}, "": {}}


def test_odd_names_on_disk(tmp_path: Path) -> None:
    """safetensors takes them all."""
    state = {"%/.": {"": torch.ones(1)}, "": torch.zeros(2, dtype=torch.uint8), "é\n": torch.ones(0)}
    write_tensors(tmp_path / "state", split_state(state)[0])
    assert _plain(join_state(read_tensors(tmp_path / "state"))) == _plain(state)


@pytest.mark.parametrize("name", ["tensors.safetensors", "\udcff.safetensors"])
def test_tensors_that_share_memory(tmp_path: Path, name: str) -> None:
    """A vector, itself again, its beginning and its end: all of them come back."""
    x = torch.arange(5.0)
    given = {"whole": x, "again": x, "beginning": x[:2], "end": x[2:]}
    write_tensors(tmp_path / name, given)
    found = read_tensors(tmp_path / name)
    assert found.keys() == given.keys()
    for each, tensor in given.items():
        assert found[each].equal(tensor)


def test_only_files_are_read(tmp_path: Path) -> None:
    """A pipe that nobody writes to, a device without an end, a folder, and nothing at all: all OSError, at once."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero"), tmp_path, tmp_path / "none"):
        for read in (read_bytes, read_json, read_tensors):
            with pytest.raises(OSError, match=r"pipe or a device|Is a directory|No such file"):
                read(path)


@pytest.mark.parametrize("content", [b"[" * 100_000, b"{", b"\xff", b"", b'{"a": ' + b"9" * 5000 + b"}"])
def test_json_that_is_none(tmp_path: Path, content: bytes) -> None:
    """ValueError, whatever is wrong; nested without end too."""
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"."):
        read_json(tmp_path / "a.json")


def test_a_file_is_on_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the order of calls: the whole part is forced to disk, then renamed, then the folder, which holds the name."""
    done: list[tuple[str, str]] = []
    replace = os.replace

    def forced(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        done.append(("forced", "folder" if path.is_dir() else path.read_text()))

    def renamed(old: Path, new: Path) -> None:
        done.append(("renamed", new.name))
        replace(old, new)

    monkeypatch.setattr(os, "fsync", forced)
    monkeypatch.setattr(os, "replace", renamed)
    write_bytes(tmp_path / "a", b"new")
    assert done == [("forced", "new"), ("renamed", "a"), ("forced", "folder")]
