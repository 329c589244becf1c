"""Checkpoints on disk, without a run."""

import errno
import json
import os
from collections.abc import Iterable
from typing import cast

import pytest
import torch

from fl.common.errors import DataError
from fl.common.files import write_bytes, write_json
from fl.common.ranks import Ranks
from fl.output.checkpoint import Checkpoints, load_tensors
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
        record=lambda: ({"metrics": next_round * 10}, {}),
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
    manifest = Checkpoints(tmp_path, ONE).latest()
    assert manifest is not None
    assert (manifest.next_round, manifest.record) == (4, {"metrics": 40})
    assert load_tensors(checkpoints.folder / manifest.client_files[1])["residual"].tolist() == [1.0, 1.0]
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
    manifest = again.latest()
    assert manifest is not None
    states = states_of(again, clients)
    states.load(manifest.client_files)
    for next_round in (2, 3, 4):
        clients.train(states, (0,), 1)
        save(again, next_round, states)
    manifest = Checkpoints(tmp_path, ONE).latest()
    assert manifest is not None
    assert load_tensors(again.folder / manifest.client_files[1])["residual"].tolist() == [1.0, 1.0]


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
    manifest = checkpoints.latest()
    named = set() if manifest is None else set(manifest.client_files.values())
    assert len(named) == (7 if every else 0)
    assert not list(tmp_path.glob("**/*waiting*"))
    for client, name in ({} if manifest is None else manifest.client_files).items():
        assert torch.equal(load_tensors(checkpoints.folder / name)["residual"], expected[client])


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


def test_without_a_manifest_there_is_no_checkpoint(tmp_path):
    """A process killed before the manifest was renamed leaves the older checkpoint in force."""
    checkpoints = Checkpoints(tmp_path, ONE)
    assert checkpoints.latest() is None
    states = states_of(checkpoints)
    save(checkpoints, 1, states)
    save(checkpoints, 2, states)
    (tmp_path / "checkpoints" / "manifest-000002.json").unlink()
    manifest = checkpoints.latest()
    assert manifest is not None
    assert manifest.next_round == 1


def test_damaged_files_are_named(tmp_path):
    """A torn manifest or a torn tensor file is a DataError that says which file."""
    checkpoints = Checkpoints(tmp_path, ONE)
    save(checkpoints, 1, states_of(checkpoints))
    server = tmp_path / "checkpoints" / "server-000001.safetensors"
    server.write_bytes(server.read_bytes()[:20])
    with pytest.raises(DataError, match="server-000001"):
        load_tensors(checkpoints.folder / "server-000001.safetensors")
    (tmp_path / "checkpoints" / "manifest-000001.json").write_text('{"next_round": 1')
    with pytest.raises(DataError, match="manifest-000001"):
        checkpoints.latest()


def test_a_newer_format_is_refused(tmp_path):
    """By its number, also where it names what this program does not know."""
    checkpoints = Checkpoints(tmp_path, ONE)
    save(checkpoints, 1, states_of(checkpoints))
    path = tmp_path / "checkpoints" / "manifest-000001.json"
    write_json(path, {**json.loads(path.read_text()), "format": 99, "plan": {}})
    with pytest.raises(DataError, match="format 99"):
        checkpoints.latest()


def test_a_file_that_cannot_be_written_leaves_no_part(tmp_path, monkeypatch):
    """The disk is full when the bytes are forced there: the old file stays, and nothing beside it."""
    write_bytes(tmp_path / "a.json", b"old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_bytes(tmp_path / "a.json", b"new")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [("a.json", b"old")]
