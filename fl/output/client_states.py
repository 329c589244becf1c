"""What clients keep between rounds (residuals, velocities, control variates): a few states in memory, the others on disk.

A state is as large as the model, and every client that ever took part has one. So the states used last stay in memory, up
to a budget. The others are in files that are mapped into memory when their clients take part again. These files are the
checkpoint: a state is written once, and only if it changed.
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from fl.common.config import RunOptions
from fl.common.generators import torch_generator
from fl.common.ranks import Ranks
from fl.common.sizes import free_memory, parse_size
from fl.common.tensor_files import State, join_state, split_state, write_tensors
from fl.common.tensors import to_host

from .stored import Stored, client_file, load_tensors, make_folder


@dataclass(eq=False, slots=True)
class _Kept:
    """A client's state. `number`: how often it has changed; `tensors`: None while it is only on disk; `sha256`: of its
    file, empty before there is one; `saved`: whether a checkpoint has it, or is to have it."""

    number: int
    tensors: dict[str, Tensor] | None = None
    sha256: str = ""
    saved: bool = False


@dataclass(frozen=True)
class Changed:
    """What a checkpoint adds: the states that are new since the last one, by client, and the files that they replace."""

    states: dict[int, _Kept]
    replaced: list[str]


class ClientStates:
    """The states of the clients that this rank hosts.

    A participant of the round's transaction: a state that is `put` counts from `keep` on, and stays from `commit` on. What
    was put is kept as it is, on the host, and must not be written over.
    """

    def __init__(self, ranks: Ranks, *, budget: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> None:
        """`budget`: bytes of memory. `dtype`: in which fp32 numbers are kept, in memory as on disk; `seed` is that of their
        rounding."""
        self._ranks = ranks
        self.budget = budget
        self._dtype = dtype
        self._seed = seed
        self._folder = Path()
        self._states: dict[int, _Kept] = {}
        self._counting: dict[int, _Kept] = {}  # in this round, from `keep` on
        self._put: dict[int, _Kept] = {}
        self._recent: dict[_Kept, int] = {}  # the client of each state in memory, the least recently used first
        self.bytes_in_memory = 0
        self._dirty: set[int] = set()  # changed since the last checkpoint
        self._replaced: list[str] = []  # files that the last checkpoint has, and the next one will not have
        self._writing = threading.Lock()

    def open(self, folder: Path, files: Mapping[int, Stored] | None = None) -> None:
        """Write to `folder` from now on, and go on from the `files` there, by client."""
        self._folder = folder
        self._states = {
            client: _Kept(stored.number, sha256=stored.sha256, saved=True)
            for client, stored in (files or {}).items()
            if self._ranks.hosts(client)
        }

    def get(self, client: int, *, put: bool = False) -> State:
        """What `client`, hosted here, keeps: nested, its tensors on the host and only to be read; empty if it has nothing.

        `put`: with what was put since `keep`, which may still be forgotten.
        DataError if its file cannot be read, or is not what was written.
        """
        kept = self._counting.get(client) or self._states.get(client)
        if put:
            kept = self._put.get(client, kept)
        if kept is None:
            return {}
        if kept.tensors is None:
            path = self._folder / client_file(client, kept.number)
            return join_state(load_tensors(path, kept.sha256))
        self._recent[kept] = self._recent.pop(kept)
        return join_state(kept.tensors)

    def put(self, client: int, state: State) -> None:
        """What `client`, hosted here, keeps from now on: tensors, nested. OSError if it must be written and cannot be."""
        before = self._counting.get(client) or self._states.get(client)
        tensors = to_host(split_state(state)[0])
        if not tensors and before is None:
            return
        kept = _Kept(1 if before is None else before.number + 1)
        if self._dtype != torch.float32:
            generator = torch_generator(self._seed, "client state", client, kept.number)
            # Sorted: a state that comes from its file has another order.
            tensors = {name: round_to_bf16(tensors[name], generator) for name in sorted(tensors)}
        kept.tensors = tensors
        self._drop(client, self._put.pop(client, None))
        self._put[client] = kept
        self._recent[kept] = client
        self.bytes_in_memory += _size(kept)
        self._make_room()

    def keep(self) -> None:
        """What was put counts: `get` returns it."""
        for client, kept in self._put.items():
            self._drop(client, self._counting.get(client))
            self._counting[client] = kept
        self._put = {}

    def forget(self, client: int) -> None:
        """What was put for `client` since `keep` does not count."""
        self._drop(client, self._put.pop(client, None))

    def commit(self) -> None:
        """The round has succeeded."""
        self.keep()
        for client, kept in self._counting.items():
            before = self._states.get(client)
            if before is not None and before.saved:
                self._replaced.append(client_file(client, before.number))
                self._leave_memory(before)
            else:
                self._drop(client, before)
            self._states[client] = kept
            self._dirty.add(client)
        self._counting = {}

    def rollback(self) -> None:
        """The round has failed: every state is as it was before."""
        for states in (self._put, self._counting):
            for client, kept in states.items():
                self._drop(client, kept)
        self._put, self._counting = {}, {}

    def take_changed(self) -> Changed:
        """What the next checkpoint adds; it is on disk when each of these states was written (`write`)."""
        changed = Changed({client: self._states[client] for client in sorted(self._dirty)}, self._replaced)
        for kept in changed.states.values():
            kept.saved = True
        self._dirty, self._replaced = set(), []
        return changed

    def write(self, client: int, kept: _Kept) -> Stored:
        """Have a state on disk; any thread may call this."""
        with self._writing:
            if not kept.sha256:
                assert kept.tensors is not None  # it leaves memory only when it is on disk
                make_folder(self._folder, self._ranks)
                path = self._folder / client_file(client, kept.number)
                kept.sha256 = write_tensors(path, kept.tensors)
        return Stored(kept.number, kept.sha256)

    @property
    def files(self) -> set[str]:
        """The names of all files that are still needed, between two rounds."""
        return {client_file(client, kept.number) for client, kept in self._states.items()} | set(self._replaced)

    def close(self) -> None:
        """The run is over: states that no checkpoint has are needed no more."""
        for client in self._dirty:
            self._drop(client, self._states[client])

    def _make_room(self) -> None:
        while self.bytes_in_memory > self.budget and self._recent:
            kept, client = next(iter(self._recent.items()))
            self.write(client, kept)
            self._leave_memory(kept)

    def _leave_memory(self, kept: _Kept) -> None:
        if self._recent.pop(kept, None) is not None:
            self.bytes_in_memory -= _size(kept)
        if kept.sha256:
            kept.tensors = None

    def _drop(self, client: int, kept: _Kept | None) -> None:
        """A state that no checkpoint has is needed no more."""
        if kept is None:
            return
        self._leave_memory(kept)
        if kept.sha256:
            (self._folder / client_file(client, kept.number)).unlink(missing_ok=True)


def _size(kept: _Kept) -> int:
    return sum(tensor.nbytes for tensor in (kept.tensors or {}).values())


def round_to_bf16(x: Tensor, generator: torch.Generator) -> Tensor:
    """fp32 of any shape as bf16, up or down at random with probabilities that make its expectation `x`: what is rounded
    away is not lost on average, where rounding to nearest would swallow every step below 1/512 of the number. Other types
    stay as they are.
    """
    if x.dtype != torch.float32:
        return x
    bits = torch.randint(1 << 16, x.shape, generator=generator, dtype=torch.int32, device="cpu")
    return bits.add_(x.view(torch.int32)).bitwise_right_shift_(16).to(torch.int16).view(torch.bfloat16)


def make_states(options: RunOptions, ranks: Ranks) -> ClientStates:
    """The store of `--state-budget`, which the ranks of a machine share, and `--state-dtype`."""
    auto = options.state_budget == "auto"
    budget = free_memory() // 4 if auto else parse_size(options.state_budget)
    dtype = torch.bfloat16 if options.state_dtype == "bf16" else torch.float32
    hosts = max(1, ranks.local_world_size // ranks.per_client)  # on this machine
    return ClientStates(ranks, budget=budget // hosts, dtype=dtype, seed=options.seed)
