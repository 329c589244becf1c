"""Checkpoints on disk, without a run."""

import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

import pytest
import torch

from fl.common.errors import DataError
from fl.common.files import Beginning, write_bytes, write_json
from fl.common.ranks import Ranks
from fl.output.checkpoint import Checkpoints, load_tensors, saved_rounds
from fl.output.client_states import ClientStates
from fl.rounds.base import Rounds

CPU = torch.device("cpu")
ONE = Ranks(
    rank=0, world_size=1, local_rank=0, local_world_size=1, device=CPU, wire_device=CPU, launcher="python", threads=1
)


class Clients:
    """Rounds as far as their clients' states matter: two numbers each, all in memory or on file (`parks`)."""

    def __init__(self, parks: bool = True) -> None:
        self.parks = parks
        self.states: dict[int, dict[str, torch.Tensor]] = {}

    def attach_states(self, states: ClientStates) -> bool:
        return self.parks

    def client_state(self, client: int) -> dict[str, torch.Tensor]:
        return self.states.get(client, {})

    def load_client_state(self, client: int, state: dict[str, torch.Tensor]) -> None:
        self.states[client] = state

    def train(self, states: ClientStates, clients: Iterable[int], value: float) -> None:
        """A round of these clients, each of which adds `value` to its state."""
        for client in clients:
            states.fetch(client)
            old = self.states.get(client, {}).get("residual", torch.zeros(2))
            self.states[client] = {"residual": old + torch.tensor([value, client])}
        states.end_round(clients)

    @property
    def here(self) -> set[int]:
        """The clients whose state is in memory."""
        return {client for client, state in self.states.items() if state}


def states_of(checkpoints: Checkpoints, clients: Clients | None = None) -> ClientStates:
    return ClientStates(checkpoints.folder, ONE, cast(Rounds, clients or Clients()))


def save(checkpoints: Checkpoints, next_round: int, states: ClientStates) -> None:
    checkpoints.save(
        next_round,
        state={"model": {"parameters": torch.full((3,), float(next_round))}, "seen": [[0, next_round]]},
        client_files=states.save(next_round),
        record=lambda: ({"metrics.csv": Beginning(next_round * 10, "")}, {}),
    )


def test_client_files_are_written_only_when_changed_and_the_last_two_checkpoints_are_kept(tmp_path):
    """Client 0 changes in every round, client 1 only in round 1: its file from then stays as long as it is named."""
    checkpoints, clients = Checkpoints(tmp_path, ONE), Clients()
    states = states_of(checkpoints, clients)
    for next_round, trained in ((1, (0, 1)), (2, (0,)), (3, (0,)), (4, (0,))):
        clients.train(states, trained, 1)
        save(checkpoints, next_round, states)
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert names == [
        "client-000000-000003.safetensors",
        "client-000000-000004.safetensors",
        "client-000001-000001.safetensors",
        "manifest-000003.json",
        "manifest-000004.json",
        "server-000003.safetensors",
        "server-000004.safetensors",
    ]
    manifest, _ = Checkpoints(tmp_path, ONE).latest()
    assert (manifest.next_round, manifest.record) == (4, {"metrics.csv": Beginning(40, "")})
    assert load_tensors(checkpoints.folder, manifest.client_files[1])["residual"].tolist() == [1.0, 1.0]
    state = checkpoints.load(manifest)
    assert state["seen"] == [[0, 4]]
    assert state["model"]["parameters"].tolist() == [4.0] * 3


def test_a_run_that_goes_on_keeps_the_files_of_clients_that_did_not_change(tmp_path):
    """Client 1's state is still found after a restart and two more checkpoints without it."""
    first, clients = Checkpoints(tmp_path, ONE), Clients()
    states = states_of(first, clients)
    clients.train(states, (0, 1), 1)
    save(first, 1, states)
    again, clients = Checkpoints(tmp_path, ONE), Clients()
    manifest, _ = again.latest()
    states = states_of(again, clients)
    states.load(manifest.client_files)
    for next_round in (2, 3, 4):
        clients.train(states, (0,), 1)
        save(again, next_round, states)
    manifest, _ = Checkpoints(tmp_path, ONE).latest()
    assert load_tensors(again.folder, manifest.client_files[1])["residual"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("every", [1, 3, 0])
def test_idle_states_leave_memory_and_come_back(tmp_path, monkeypatch, every):
    """Room for two states of 8 bytes: after ten rounds of two clients among seven each state is the sum that a dict of
    all of them holds, and never more than two stay between rounds; a checkpoint names all of them, and at the end no
    file is left that none names."""
    checkpoints, clients = Checkpoints(tmp_path, ONE), Clients()
    monkeypatch.setattr("fl.output.client_states.IN_MEMORY", 16)
    states = states_of(checkpoints, clients)
    expected = {client: torch.zeros(2) for client in range(7)}
    for round_ in range(10):
        cohort = sorted({(3 * round_) % 7, (5 * round_ + 1) % 7})
        clients.train(states, cohort, round_)
        for client in cohort:
            expected[client] += torch.tensor([round_, client])
        assert len(clients.here) <= 2
        if (every and (round_ + 1) % every == 0) or (every and round_ == 9):
            save(checkpoints, round_ + 1, states)
    for client in range(7):
        states.fetch(client)
        assert torch.equal(clients.states[client]["residual"], expected[client])
    states.close()
    named = checkpoints.latest()[0].client_files if every else {}
    assert len(set(named.values())) == (7 if every else 0)
    assert not list(tmp_path.glob("**/*waiting*"))
    for client, stored in named.items():
        assert torch.equal(load_tensors(checkpoints.folder, stored)["residual"], expected[client])


def test_a_round_larger_than_the_room_keeps_its_states(tmp_path, monkeypatch):
    """Room for one state, five clients in a round: what trains now is not taken away before the round is over."""
    checkpoints, clients = Checkpoints(tmp_path, ONE), Clients()
    monkeypatch.setattr("fl.output.client_states.IN_MEMORY", 8)
    states = states_of(checkpoints, clients)
    clients.train(states, range(5), 1)
    for client in range(5):
        states.fetch(client)
    assert clients.here == set(range(5))
    states.end_round(())
    assert len(clients.here) == 1


def test_rounds_whose_states_stay_write_only_checkpoints(tmp_path, monkeypatch):
    """A rank with one client (hooks, step mode) keeps its state whatever its size."""
    checkpoints, clients = Checkpoints(tmp_path, ONE), Clients(parks=False)
    monkeypatch.setattr("fl.output.client_states.IN_MEMORY", 0)
    states = states_of(checkpoints, clients)
    clients.states[0] = {"residual": torch.ones(2)}
    states.end_round([0])
    assert clients.here == {0}
    assert not checkpoints.folder.exists()


@pytest.fixture
def folder(tmp_path) -> Path:
    """A run folder with the checkpoints 1 and 2, and two clients."""
    checkpoints, clients = Checkpoints(tmp_path, ONE), Clients()
    states = states_of(checkpoints, clients)
    for next_round in (1, 2):
        clients.train(states, (0, 1), 1)
        save(checkpoints, next_round, states)
    return tmp_path


MANIFEST, SERVER = "manifest-000002.json", "server-000002.safetensors"
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
        for text in ("{}", "[]", "null", "7", '"a"', "[" * 100_000, '{"format": 8}', '{"format": []}')
    },
    "clients swapped": (swapped, CLIENTS[0]),
    "server outside": (linked, SERVER),
    "server a pipe": (a_fifo, SERVER),
    **{
        f"{how.__name__} {name} {value}": (how(**{name: value}), MANIFEST)
        for how in (edited, forged)
        for name, value in [
            *(("next_round", value) for value in (3, "2", -3, 1.5, None, [], True)),
            *(("server_file", value) for value in (None, "x", {}, {"name": 1, "sha256": SHA})),
            *(("server_file", {"name": value, "sha256": SHA}) for value in ("/etc/passwd", "../a", "server-1", "")),
            *(("client_files", value) for value in (None, [], {"x": {}}, {"0": "a"}, {"-1": {}})),
            *(("client_files", {"0": {"name": value, "sha256": SHA}}) for value in ("/dev/zero", "..", SERVER)),
            *(
                ("record", value)
                for value in (None, [], {"metrics.csv": 3}, {"metrics.csv": {"bytes": -1, "sha256": SHA}})
            ),
            *(("state", value) for value in (None, [], 3)),
            *(("last_round", value) for value in (None, [], 3)),
            *(("format", value) for value in (7, 99, "8", None)),
            ("more", 1),
        ]
    },
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_gives_way_to_the_one_before(folder, damage):
    """It is told which file is damaged, and what is lost; the older checkpoint is whole, and is gone on from."""
    apply, name = DAMAGE[damage]
    apply(folder / "checkpoints")
    checkpoints = Checkpoints(folder, ONE)
    manifest, warning = checkpoints.latest()
    assert manifest.next_round == 1
    assert f"{name} " in warning
    assert warning.endswith("the run goes on from the checkpoint before, and round 1 is trained again")
    assert checkpoints.load(manifest)["model"]["parameters"].tolist() == [1.0] * 3


def test_without_a_manifest_there_is_no_checkpoint(folder):
    """A process killed before the manifest was renamed leaves the older checkpoint in force, without a word."""
    (folder / "checkpoints" / MANIFEST).unlink()
    manifest, warning = Checkpoints(folder, ONE).latest()
    assert (manifest.next_round, warning) == (1, "")


def test_where_none_is_whole_the_newest_is_named(folder):
    """In one sentence."""
    for name in (SERVER, "client-000001-000001.safetensors"):
        (folder / "checkpoints" / name).write_bytes(b"torn")
    with pytest.raises(DataError, match=rf"{SERVER} is damaged: .*; no older checkpoint is whole either"):
        Checkpoints(folder, ONE).latest()


def test_another_format_is_refused(folder):
    """By its number, also where it names what this program does not know."""
    for number in (1, 2):
        path = folder / "checkpoints" / f"manifest-{number:06d}.json"
        write_json(path, {**json.loads(path.read_text()), "format": 7, "plan": {}})
    with pytest.raises(DataError, match=rf"{MANIFEST} has format 7; this program reads format 8"):
        Checkpoints(folder, ONE).latest()


def test_what_comes_after_a_damaged_checkpoint(folder):
    """Its manifest goes before its files are written anew: a process killed in between must not take old for new."""
    (folder / "checkpoints" / SERVER).write_bytes(b"torn")
    checkpoints, clients = Checkpoints(folder, ONE), Clients()
    manifest, _ = checkpoints.latest()
    checkpoints.drop_newer(manifest)
    assert saved_rounds(folder) == [1]
    states = states_of(checkpoints, clients)
    states.load(manifest.client_files)
    clients.train(states, (0, 1), 1)
    save(checkpoints, 2, states)
    assert saved_rounds(folder) == [1, 2]
    assert Checkpoints(folder, ONE).latest()[1] == ""


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
    checkpoints = Checkpoints(folder, ONE)
    manifest, _ = checkpoints.latest()
    states = states_of(checkpoints)
    states.load(manifest.client_files)
    for next_round in (3, 4):
        save(checkpoints, next_round, states)
    stay = {"manifest-000003.json", "manifest-000004.json", "server-000003.safetensors", "server-000004.safetensors"}
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
