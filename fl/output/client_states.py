"""What clients keep between rounds (residuals, control variates): a few in memory, all in files of the checkpoint.

A state is as large as the model, and every client that ever took part has one. So only the states used last stay in
memory; a client that takes part again has its own read from its file before it trains.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import torch

from fl.common.ranks import Ranks
from fl.common.tensor_files import State, join_state, split_state, write_tensors

from .checkpoint import Stored, load_tensors, make_folder

IN_MEMORY = 64_000_000
"""Bytes of idle clients' states that a rank keeps in memory; a round's own are there besides."""


class HasClientStates(Protocol):
    """Whatever clients' states are part of."""

    def client_state(self, client: int) -> State:
        """What `client`, hosted here, keeps between rounds: tensors, nested."""

    def load_client_state(self, client: int, state: State) -> None:
        """Continue from `client_state`."""

    def attach_states(self, states: "ClientStates") -> bool:
        """Ask `states` for a client's state before it trains; False where all states stay in memory anyway."""


class ClientStates:
    """The states of the clients that this rank hosts, and the names of everybody's files.

    A state that changed and has to leave memory between two checkpoints waits in a file of its own, which the next
    checkpoint renames: a checkpoint never names a file that is written again.
    """

    def __init__(self, folder: Path, ranks: Ranks, rounds: HasClientStates) -> None:
        self.folder = folder
        self._ranks = ranks
        self._rounds = rounds
        self._bytes_each = 0  # all states are of about one size
        self._here: dict[int, None] = {}  # clients whose state is in memory, the least recently used first
        self._busy: set[int] = set()  # trained in the round that is not over yet
        self._changed: set[int] = set()  # since the last checkpoint, on any rank
        self._waiting: dict[int, Stored] = {}  # changed, and in a file that no checkpoint names yet
        self._files: dict[int, Stored] = {}
        self._parks = rounds.attach_states(self)

    def fetch(self, client: int) -> None:
        """Have the state of `client`, hosted here, in memory before it trains."""
        self._busy.add(client)
        if client not in self._here:
            stored = self._waiting.get(client, self._files.get(client))
            if stored is not None:
                self._rounds.load_client_state(client, join_state(load_tensors(self.folder, stored)))
        self._here.pop(client, None)
        self._here[client] = None
        self._make_room()

    def end_round(self, changed: Iterable[int]) -> None:
        """The round is over, and the states of these clients, on any rank, are new."""
        for client in changed:
            self._changed.add(client)
            if self._ranks.hosts(client):
                self._waiting.pop(client, None)
                self._here.setdefault(client, None)
        self._busy = set()
        self._make_room()

    def save(self, next_round: int) -> dict[int, Stored]:
        """Write the states that changed since the last call; the file of every client, the same on every rank. Collective;
        the OSError of one rank is raised on all.
        """
        changed = sorted(self._changed)
        names = [f"client-{client:06d}-{next_round:06d}.safetensors" for client in changed]
        digests = torch.zeros(len(changed), 32, dtype=torch.uint8)
        problem = ""
        try:
            for row, client in enumerate(changed):
                if self._ranks.hosts(client):
                    digests[row] = torch.tensor([*bytes.fromhex(self._write(client, names[row]))])
        except OSError as error:
            problem = json.dumps([error.errno, error.strerror, error.filename])
        if problem := self._ranks.first_text(problem):
            raise OSError(*json.loads(problem))
        self._ranks.sum(digests)
        for row, client in enumerate(changed):
            self._files[client] = Stored(names[row], bytes(digests[row].tolist()).hex())
        self._changed, self._waiting = set(), {}
        return dict(self._files)

    def _write(self, client: int, name: str) -> str:
        """Write the client's state to this file; returns its SHA-256."""
        waiting = self._waiting.get(client)
        if waiting is not None:
            os.replace(self.folder / waiting.name, self.folder / name)
            return waiting.sha256
        make_folder(self.folder, self._ranks)
        return write_tensors(self.folder / name, split_state(self._rounds.client_state(client))[0])

    def close(self) -> None:
        """The run is over: states that no checkpoint is to name are needed no more."""
        for waiting in self._waiting.values():
            (self.folder / waiting.name).unlink(missing_ok=True)

    def load(self, files: dict[int, Stored]) -> None:
        """Go on from a checkpoint's files."""
        self._files = dict(files)
        for client in filter(self._ranks.hosts, files):
            self.fetch(client)
            self._busy = set()

    def _make_room(self) -> None:
        if not self._parks or not self._here:
            return
        if not self._bytes_each:
            state = self._rounds.client_state(next(iter(self._here)))
            self._bytes_each = sum(tensor.nbytes for tensor in split_state(state)[0].values())
        room = IN_MEMORY // max(1, self._bytes_each)
        idle = [client for client in self._here if client not in self._busy]
        for client in idle[: max(0, len(self._here) - room)]:
            if client in self._changed and client not in self._waiting:
                name = f"client-{client:06d}-waiting.safetensors"
                self._waiting[client] = Stored(name, self._write(client, name))
            self._rounds.load_client_state(client, {})
            del self._here[client]
