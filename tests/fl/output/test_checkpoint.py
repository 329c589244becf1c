"""Checkpoints on disk, without a run."""

import errno
import hashlib
import json
import os
import threading
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest
import torch

from fl.common.errors import DataError
from fl.common.files import Beginning, write_bytes, write_json
from fl.common.ranks import Ranks
from fl.output.checkpoint import Checkpoints, saved_rounds
from fl.output.client_states import ClientStates
from fl.output.stored import Stored, client_file, load_tensors

CPU = torch.device("cpu")
ONE = Ranks(
    rank=0, world_size=1, local_rank=0, local_world_size=1, device=CPU, wire_device=CPU, launcher="python", threads=1
)


def opened(folder: Path, budget: int = 1000) -> Checkpoints:
    """Checkpoints of a run that begins, or goes on, in this folder."""
    checkpoints = Checkpoints(folder, ONE, ClientStates(ONE, budget=budget))
    checkpoints.states.open(checkpoints.folder)
    return checkpoints


def train(states: ClientStates, clients: Iterable[int], value: float) -> None:
    """A round of these clients, each of which adds `value` and its number to its state of two numbers."""
    for client in clients:
        old = states.get(client).get("residual", torch.zeros(2))
        states.put(client, {"residual": old + torch.tensor([value, client])})
    states.commit()


def save(checkpoints: Checkpoints, next_round: int) -> None:
    """A checkpoint, complete when this returns."""
    checkpoints.save(
        next_round,
        state={"model": {"parameters": torch.full((3,), float(next_round))}, "seen": [[0, next_round]]},
        record=lambda waited_s: ({"metrics.csv": Beginning(next_round * 10, "")}, {}),
    )
    checkpoints.finish()


def residual(checkpoints: Checkpoints, stored: Stored, client: int) -> list[float]:
    path = checkpoints.folder / client_file(client, stored.number)
    found: list[float] = load_tensors(path, stored.sha256)["residual"].tolist()
    return found


def test_client_files_are_written_only_when_changed_and_the_last_two_checkpoints_are_kept(tmp_path):
    """Client 0 changes in every round, client 1 only in round 1: its file from then stays as long as it is named."""
    checkpoints = opened(tmp_path)
    for next_round, trained in ((1, (0, 1)), (2, (0,)), (3, (0,)), (4, (0,))):
        train(checkpoints.states, trained, 1)
        save(checkpoints, next_round)
    checkpoints.close()
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == [
        "client-000000-000003.safetensors",
        "client-000000-000004.safetensors",
        "client-000001-000001.safetensors",
        "manifest-000003.json",
        "manifest-000004.json",
        "server-000003.safetensors",
        "server-000004.safetensors",
        "states.csv",
    ]
    again = opened(tmp_path)
    manifest, _ = again.latest()
    assert (manifest.next_round, manifest.record) == (4, {"metrics.csv": Beginning(40, "")})
    files = again.client_files(manifest)
    assert residual(again, files[1], 1) == [1.0, 1.0]
    state = again.load(manifest)
    assert again.states.get(0)["residual"].tolist() == [4.0, 0.0]
    assert state["seen"] == [[0, 4]]
    assert state["model"]["parameters"].tolist() == [4.0] * 3


def test_a_run_that_goes_on_keeps_the_files_of_clients_that_did_not_change(tmp_path):
    """Client 1's state is still found after a restart and two more checkpoints without it."""
    first = opened(tmp_path)
    train(first.states, (0, 1), 1)
    save(first, 1)
    first.close()
    again = opened(tmp_path)
    again.load(again.latest()[0])
    for next_round in (2, 3, 4):
        train(again.states, (0,), 1)
        save(again, next_round)
    again.close()
    last = opened(tmp_path)
    last.load(last.latest()[0])
    assert last.states.get(1)["residual"].tolist() == [1.0, 1.0]


def test_a_checkpoint_holds_what_was_when_it_began(tmp_path, monkeypatch):
    """The thread comes to write only when the next round has changed everything: what it writes is the round before. Tensors
    are replaced; `tests.support` sees to it that no run writes over them."""
    go_on, changing = threading.Event(), {"model": torch.zeros(3), "seen": [1]}

    def late(path: Path, data: bytes) -> None:
        go_on.wait()
        write_bytes(path, data)

    monkeypatch.setattr("fl.output.checkpoint.write_bytes", late)
    checkpoints = opened(tmp_path)
    train(checkpoints.states, (0, 1), 1)
    checkpoints.save(1, state=changing, record=lambda waited_s: ({}, {}))
    changing["model"] = torch.ones(3)
    changing["seen"] += [2]
    train(checkpoints.states, (0, 1), 5)
    assert saved_rounds(tmp_path) == []
    go_on.set()
    checkpoints.finish()
    checkpoints.close()
    again = opened(tmp_path)
    state = again.load(again.latest()[0])
    assert state["model"].tolist() == [0.0] * 3
    assert state["seen"] == [1]
    assert [again.states.get(client)["residual"].tolist() for client in (0, 1)] == [[1.0, 0.0], [1.0, 1.0]]


@pytest.mark.parametrize(
    "where",
    ["fl.output.checkpoint.write_bytes", "fl.output.checkpoint.write_tensors", "fl.output.client_states.write_tensors"],
)
def test_an_error_of_the_disk_is_raised_at_the_next_checkpoint(tmp_path, monkeypatch, where):
    """In the thread it would be lost; the checkpoint before stays."""
    checkpoints = opened(tmp_path)
    train(checkpoints.states, (0,), 1)
    save(checkpoints, 1)

    def full(path: Path, data: Any) -> str:
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    train(checkpoints.states, (0,), 1)
    with monkeypatch.context() as patch:
        patch.setattr(where, full)
        checkpoints.save(2, state={}, record=lambda waited_s: ({}, {}))
        with pytest.raises(OSError, match="No space left"):
            checkpoints.finish()
    checkpoints.close()
    assert opened(tmp_path).latest()[0].next_round == 1


@pytest.fixture
def folder(tmp_path) -> Path:
    """A run folder with the checkpoints 1 and 2, and two clients."""
    checkpoints = opened(tmp_path)
    for next_round in (1, 2):
        train(checkpoints.states, (0, 1), 1)
        save(checkpoints, next_round)
    checkpoints.close()
    return tmp_path


MANIFEST, SERVER = "manifest-000002.json", "server-000002.safetensors"
KINDS = (("manifest", "json"), ("server", "safetensors"))
CLIENTS = "client-000000-000002.safetensors", "client-000001-000002.safetensors"


def edited(**fields: Any) -> Callable[[Path], None]:
    """An edit by hand of some fields of the newest manifest."""

    def edit(folder: Path) -> None:
        path = folder / MANIFEST
        path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))

    return edit


def written(name: str, change: Callable[[bytes], bytes]) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_bytes(change((folder / name).read_bytes())) and None


def swapped(folder: Path) -> None:
    one, other = ((folder / name).read_bytes() for name in CLIENTS)
    (folder / CLIENTS[0]).write_bytes(other)
    (folder / CLIENTS[1]).write_bytes(one)


def linked(folder: Path) -> None:
    """The same bytes, outside the folder."""
    (folder / SERVER).rename(folder.parent / SERVER)
    (folder / SERVER).symlink_to(folder.parent / SERVER)


def a_fifo(folder: Path) -> None:
    (folder / SERVER).unlink()
    os.mkfifo(folder / SERVER)


def forged(**fields: Any) -> Callable[[Path], None]:
    """A manifest with a right digest of its own."""

    def forge(folder: Path) -> None:
        values = {**json.loads((folder / MANIFEST).read_text()), **fields}
        values.pop("sha256")
        digest = hashlib.sha256(json.dumps(values).encode()).hexdigest()
        (folder / MANIFEST).write_text(json.dumps({**values, "sha256": digest}))

    return forge


def a_strange_table(folder: Path) -> None:
    """What follows the rows of the checkpoint before, with a manifest that fits."""
    kept = json.loads((folder / "manifest-000001.json").read_text())["states"]["bytes"]
    data = (folder / "states.csv").read_bytes()[:kept] + b"../0,1," + SHA.encode()
    (folder / "states.csv").write_bytes(data)
    forged(states={"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()})(folder)


SHA = "0" * 64
DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    **{
        f"{name} {what}": (written(name, change), name)
        for name in (MANIFEST, SERVER, *CLIENTS)
        for what, change in {
            "empty": lambda data: b"",
            "half": lambda data: data[: len(data) // 2],
            "without its last byte": lambda data: data[:-1],
            "with another bit": lambda data: data[:-9] + bytes([data[-9] ^ 1]) + data[-8:],
            "of zeros": lambda data: bytes(len(data)),
        }.items()
    },
    **{f"{name} missing": (lambda folder, name=name: (folder / name).unlink(), name) for name in (SERVER, *CLIENTS)},
    **{
        f"manifest {text[:9]}": (written(MANIFEST, lambda data, text=text: text.encode()), MANIFEST)
        for text in ("{}", "[]", "null", "7", '"a"', "[" * 100_000, '{"format": 9}', '{"format": []}')
    },
    "clients swapped": (swapped, CLIENTS[0]),
    "table outside the manifest": (forged(states={"bytes": 70, "sha256": SHA}), "states.csv"),
    "table of anything": (a_strange_table, "states.csv"),
    "server outside": (linked, SERVER),
    "server a pipe": (a_fifo, SERVER),
    **{
        f"{how.__name__} {name} {value}": (how(**{name: value}), MANIFEST)
        for how in (edited, forged)
        for name, value in [
            *(("next_round", value) for value in (3, "2", -3, 1.5, None, [], True)),
            *(("server_sha256", value) for value in (None, 1, {}, [])),
            *(
                ("states", value)
                for value in ([], "x", {}, {"bytes": -1, "sha256": SHA}, {"bytes": "1", "sha256": SHA})
            ),
            *(
                ("record", value)
                for value in (None, [], {"metrics.csv": 3}, {"metrics.csv": {"bytes": -1, "sha256": SHA}})
            ),
            *(("state", value) for value in (None, [], 3)),
            *(("last_round", value) for value in (None, [], 3)),
            *(("format", value) for value in (8, 99, "9", None)),
            ("more", 1),
        ]
    },
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_gives_way_to_the_one_before(folder, damage):
    """It is told which file is damaged, and what is lost; the older checkpoint is whole, and is gone on from."""
    apply, name = DAMAGE[damage]
    apply(folder / "checkpoints")
    checkpoints = opened(folder)
    manifest, warning = checkpoints.latest()
    assert manifest.next_round == 1
    assert f"{name} " in warning
    assert warning.endswith("the run goes on from the checkpoint before, and round 1 is trained again")
    assert checkpoints.load(manifest)["model"]["parameters"].tolist() == [1.0] * 3


def test_without_a_manifest_there_is_no_checkpoint(folder):
    """A process killed before the manifest was renamed leaves the older checkpoint in force, without a word."""
    (folder / "checkpoints" / MANIFEST).unlink()
    manifest, warning = opened(folder).latest()
    assert (manifest.next_round, warning) == (1, "")


def test_where_none_is_whole_the_newest_is_named(folder):
    """In one sentence."""
    for name in (SERVER, "client-000001-000001.safetensors"):
        (folder / "checkpoints" / name).write_bytes(b"torn")
    with pytest.raises(DataError, match=rf"{SERVER} is damaged: .*; no older checkpoint is whole either"):
        opened(folder).latest()


def test_another_format_is_refused(folder):
    """By its number, also where it names what this program does not know."""
    for number in (1, 2):
        path = folder / "checkpoints" / f"manifest-{number:06d}.json"
        write_json(path, {**json.loads(path.read_text()), "format": 8, "plan": {}})
    with pytest.raises(DataError, match=rf"{MANIFEST} has format 8; this program reads format 9"):
        opened(folder).latest()


def test_what_comes_after_a_damaged_checkpoint(folder):
    """Its manifest goes before its files are written anew: a process killed in between must not take old for new."""
    (folder / "checkpoints" / SERVER).write_bytes(b"torn")
    checkpoints = opened(folder)
    manifest, _ = checkpoints.latest()
    checkpoints.drop_newer(manifest)
    assert saved_rounds(folder) == [1]
    checkpoints.load(manifest)
    train(checkpoints.states, (0, 1), 1)
    save(checkpoints, 2)
    assert saved_rounds(folder) == [1, 2]
    assert opened(folder).latest()[1] == ""


def test_only_files_of_its_own_are_deleted(folder):
    """Whatever else lies there stays, and stops nothing; what a killed process left half-written goes."""
    inside = folder / "checkpoints"
    foreign = {"notes.txt", "client-notes", "manifest-abc.json", "manifest-3.json", "server.safetensors", "a.77.part"}
    for name in foreign:
        (inside / name).write_text("mine")
    for name in ("old", "client-000000-000001.safetensors.d", "server-000009.safetensors"):
        (inside / name).mkdir()
        (inside / name / "a").write_text("mine")
        foreign.add(name)
    for name in (f"{MANIFEST}.77.part", "client-000005-000003.safetensors.7.part", "server-000007.safetensors"):
        (inside / name).write_text("left")
    assert saved_rounds(folder) == [1, 2]
    checkpoints = opened(folder)
    checkpoints.load(checkpoints.latest()[0])
    for next_round in (3, 4):
        save(checkpoints, next_round)
    checkpoints.close()
    stay = {
        "states.csv",
        "manifest-000003.json",
        "manifest-000004.json",
        "server-000003.safetensors",
        "server-000004.safetensors",
    }
    assert {path.name for path in inside.iterdir()} == foreign | stay | set(CLIENTS)


def test_a_file_that_cannot_be_written_leaves_no_part(tmp_path, monkeypatch):
    """The disk is full when the bytes are forced there: the old file stays, and nothing beside it."""
    write_bytes(tmp_path / "a.json", b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_bytes(tmp_path / "a.json", b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.json", b"old")]
