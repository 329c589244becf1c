"""Checkpoints: a manifest, one file for the server, one for each client's state, and a table of these.

A thread writes them while the next round runs. Every rank writes its own clients' files, each of which is written once
(`ClientStates`). When all are on disk, rank 0 adds them to the table, and writes the manifest last: a checkpoint without a
manifest does not exist. It holds the SHA-256 of all that it names, of the table so far, and of itself: what is damaged is
not gone on with.
"""

import contextlib
import json
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from fl.common.errors import DataError, RoundError
from fl.common.files import Beginning, sha256, write_bytes
from fl.common.ranks import Ranks
from fl.common.tensor_files import State, join_state, split_state, write_tensors
from fl.common.tensors import to_host

from .client_states import Changed, ClientStates
from .record import Table
from .stored import Stored, check_whole, client_file, load_tensors, make_folder, reading

_FORMAT = 9
_STATES = "states.csv"
_COLUMNS = ("client", "number", "sha256")
_ROW = re.compile(rb"(\d{1,18}),(\d{1,18}),([0-9a-f]{64})")
_MANIFEST = re.compile(r"manifest-(\d{6,})\.json")
_SERVER = re.compile(r"server-(\d{6,})\.safetensors")
_CLIENT = re.compile(r"client-(\d{6,})-\d{6,}\.safetensors")
_PART = re.compile(r"\.\d+\.part")  # what a process that was killed had half written
_PAUSE_S = 0.005
_PATIENCE_S = 10.0  # with ranks that may be gone, when a run has failed


@dataclass
class Manifest:
    """What a checkpoint consists of. `next_round` is the first round that is still to be run."""

    next_round: int
    server_sha256: str
    states: Beginning | None  # how far the table of the clients' files is the checkpoint's; None: there is none
    record: dict[str, Beginning]  # the same of each file of the record
    state: dict[str, Any]  # what JSON can hold of the server's state; the tensors are in the server's file
    last_round: dict[str, Any] = field(default_factory=dict)  # `Record.last_round`, at the end of a run
    format: int = field(default=_FORMAT)


@dataclass
class _Begun:
    """A checkpoint that is being written: this rank's clients' files, and then, by rank 0, the rest."""

    next_round: int
    changed: Changed
    written: Future[Any]
    complete: Future[Any]


class Checkpoints:
    """The checkpoints of one run folder; the last two are kept. `on_complete` is called, on the thread, when one is
    complete."""

    def __init__(self, folder: Path, ranks: Ranks, states: ClientStates) -> None:
        self.folder = folder / "checkpoints"
        self.ranks = ranks
        self.states = states
        self.on_complete: Callable[[], None] = lambda: None
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoints")
        self._is_over = threading.Event()
        self._begun: _Begun | None = None
        self._kept: list[int] = []  # the checkpoints that are there; empty until this process has completed one
        self._replaced: list[str] = []  # clients' files that the first of them has, and the second has not
        self._table: Table | None = None
        self._table_keeps: Beginning | None = None
        self._store = ranks.store() if ranks.world_size > 1 else None
        self._token = ranks.share_json(lambda: secrets.token_hex(8))

    def save(
        self,
        next_round: int,
        *,
        state: Mapping[str, Any],
        record: Callable[[float], tuple[dict[str, Beginning], dict[str, Any]]],
    ) -> None:
        """Begin a checkpoint, when the one before is complete. Collective; if that could not be written, every rank raises.

        `state` and `record` are used on rank 0 alone. `state`, nested: its tensors are written from where they are, and
        must not be written over. `record`: given the seconds that the round has waited here, adds it to the csv files and
        returns how far they are the checkpoint's, and the last round.
        """
        started = time.perf_counter()
        self.finish()
        changed = self.states.take_changed()
        prepared: list[tuple[Manifest, dict[str, Tensor]]] = []

        def prepare() -> None:
            tensors, rest = split_state(state)
            host, rest = to_host(tensors), json.loads(json.dumps(rest))
            files, last_round = record(time.perf_counter() - started)
            prepared.append((Manifest(next_round, "", None, files, rest, last_round), host))

        self.ranks.share_json(prepare)
        written = self._thread.submit(self._write_states, next_round, changed)
        if prepared:
            complete = self._thread.submit(self._complete, *prepared[0], written)
        else:
            complete = self._thread.submit(self._hear, next_round)
        self._begun = _Begun(next_round, changed, written, complete)

    def finish(self) -> None:
        """Return when the checkpoint that was begun last is complete. Collective; if it could not be written, every rank
        raises."""
        begun, self._begun = self._begun, None
        if begun is None:
            return
        problem = ""
        try:
            begun.written.result()
        except OSError as error:
            problem = json.dumps([error.errno, error.strerror, error.filename])
        if problem := self.ranks.first_text(problem):  # and this rank hears that another one is gone
            raise OSError(*json.loads(problem))

        self.ranks.share_json(begun.complete.result)
        begun.complete.result()
        # A rank that does not see the manifest writes to a folder of its own; what is there may be needed, and stays.
        if self._kept:
            self._forget_old(begun)
        elif (self.folder / _manifest_name(begun.next_round)).exists():
            self._forget_old(begun)
            self._sweep(begun)  # once: to look through the folder takes time in proportion to all clients

    def give_up(self) -> None:
        """A rank is gone: what it has not said by now it will not say."""
        self._is_over.set()

    def close(self) -> None:
        """The run is over, or has failed: a checkpoint that was begun is completed all the same, if no rank is missing."""
        if self._begun is not None:
            wait(
                [self._begun.complete if self.ranks.is_server else self._begun.written],
                timeout=_PATIENCE_S if self.ranks.world_size > 1 else None,
            )
        self.give_up()
        self._thread.shutdown()
        if self._table is not None:
            with contextlib.suppress(OSError):  # what is in no checkpoint by now will be in none
                self._table.close()

    def latest(self) -> tuple[Manifest, str]:
        """The newest checkpoint that is whole, and what is wrong with newer ones, if any, in one sentence. Collective, and
        the same on every rank; DataError if none is whole.
        """
        wrong: list[str] = []
        numbers = self.ranks.share_json(lambda: saved_rounds(self.folder.parent))
        for number in reversed(numbers):
            problem = self.ranks.first_text(self._problem(number))
            if not problem:
                return _read(self.folder, number), _what_is_lost(wrong, numbers[-1], number)
            wrong.append(problem)
        none = f"there is no checkpoint in {self.folder}"
        raise DataError((wrong or [none])[0] + ("; no older checkpoint is whole either" if len(wrong) > 1 else ""))

    def drop_newer(self, manifest: Manifest) -> None:
        """Delete the manifests after this one, from which the run did not go on: their files are to be written again."""
        for number in saved_rounds(self.folder.parent):
            if number > manifest.next_round:
                (self.folder / _manifest_name(number)).unlink(missing_ok=True)

    def load(self, manifest: Manifest) -> State:
        """Go on from a checkpoint: the state of the server that was saved, its tensors on the CPU. The clients' is in
        `states`."""
        self.states.open(self.folder, self.client_files(manifest))
        self._table_keeps = manifest.states
        tensors = load_tensors(self.folder / _server_name(manifest.next_round), manifest.server_sha256)
        return join_state(tensors, manifest.state)

    def client_files(self, manifest: Manifest) -> dict[int, Stored]:
        """The file of each client that has a state; DataError if the table of these is not what was written."""
        if manifest.states is None:
            return {}
        path = self.folder / _STATES
        with reading(path):
            data = path.read_bytes()[: manifest.states.bytes]
        _, *rows = data.splitlines() or [b""]
        found = [_ROW.fullmatch(row) for row in rows]
        if sha256(data) != manifest.states.sha256 or None in found:
            raise DataError(f"checkpoint file {path} is damaged: its SHA-256 is not the one in its manifest")
        return {
            int(row[1]): Stored(int(row[2]), row[3].decode()) for row in found if row
        }  # the last row of each counts

    def _write_states(self, next_round: int, changed: Changed) -> list[list[Any]]:
        """On the thread: have the clients' files on disk. Returns their rows of the table, of which rank 0 hears."""
        rows = [[client, *self.states.write(client, kept)] for client, kept in changed.states.items()]
        if self._store is not None and not self.ranks.is_server:
            self._store.set(self._key(f"{next_round}_{self.ranks.rank}"), json.dumps(rows))
        return rows

    def _complete(self, manifest: Manifest, tensors: dict[str, Tensor], written: Future[Any]) -> None:
        """On the thread of rank 0: write what is not the clients' when all of their files are on disk."""
        rows: list[list[Any]] = written.result()
        make_folder(self.folder, self.ranks)
        manifest.server_sha256 = write_tensors(self.folder / _server_name(manifest.next_round), tensors)
        for rank in range(1, self.ranks.world_size):
            rows += self._rows_of(rank, manifest.next_round)
        if rows and self._table is None:
            self._table = Table(self.folder / _STATES, _COLUMNS, self._table_keeps)
        if self._table is not None:
            for row in sorted(rows):
                self._table.append(dict(zip(_COLUMNS, row, strict=True)))
            self._table_keeps = self._table.so_far()
        manifest.states = self._table_keeps
        write_bytes(self.folder / _manifest_name(manifest.next_round), _to_json(asdict(manifest)).encode())
        if self._store is not None:
            self._store.set(self._key("complete"), str(manifest.next_round))
        self.on_complete()

    def _hear(self, next_round: int) -> None:
        """On the thread of the other ranks: wait until rank 0 has completed the checkpoint, or there is no hope of it."""
        assert self._store is not None
        key = self._key("complete")
        while not (self._store.check([key]) and int(self._store.get(key)) >= next_round):
            if self._is_over.wait(_PAUSE_S):
                return
        self.on_complete()

    def _rows_of(self, rank: int, next_round: int) -> list[list[Any]]:
        """What a rank says of its clients' files when they are on disk. No collective: those are the main thread's."""
        assert self._store is not None
        key = self._key(f"{next_round}_{rank}")
        while not self._store.check([key]):
            if self._is_over.wait(_PAUSE_S):
                raise RoundError(f"rank {rank} has not written its part of a checkpoint")
        rows: list[list[Any]] = json.loads(self._store.get(key))
        self._store.delete_key(key)
        return rows

    def _key(self, what: object) -> str:
        return f"checkpoint_{self._token}_{what}"

    def _problem(self, number: int) -> str:
        """What is wrong with a checkpoint, as far as this rank needs it."""
        try:
            manifest = _read(self.folder, number)
            check_whole(self.folder / _server_name(number), manifest.server_sha256)
            for client, stored in self.client_files(manifest).items():
                if self.ranks.hosts(client):
                    check_whole(self.folder / client_file(client, stored.number), stored.sha256)
        except DataError as error:
            return str(error)
        return ""

    def _forget_old(self, newest: _Begun) -> None:
        """Delete what does not belong to the last two checkpoints. Each rank deletes its own clients' files, rank 0 also the
        rest."""
        kept = self._kept or [number for number in saved_rounds(self.folder.parent) if number < newest.next_round]
        older, self._kept = kept[:-1], [*kept[-1:], newest.next_round]
        server = [name(number) for number in older for name in (_manifest_name, _server_name)]
        self._thread.submit(self._delete, [*self._replaced, *(server if self.ranks.is_server else [])])
        self._replaced = newest.changed.replaced

    def _delete(self, names: Iterable[str]) -> None:
        for name in names:
            (self.folder / name).unlink(missing_ok=True)

    def _sweep(self, newest: _Begun) -> None:
        """Delete what processes that were killed have left. What does not have a name of these kinds is the user's."""
        named = self.states.files.union(newest.changed.replaced)
        named |= {name(number) for number in self._kept for name in (_manifest_name, _server_name)}
        for path in self.folder.iterdir():
            name = _PART.sub("", path.name)
            client = _CLIENT.fullmatch(name)
            ours = client or _SERVER.fullmatch(name) or _MANIFEST.fullmatch(name)
            mine = self.ranks.hosts(int(client[1])) if client else self.ranks.is_server
            if ours and mine and path.name not in named and path.is_file():
                path.unlink(missing_ok=True)


def saved_rounds(folder: Path) -> list[int]:
    """The rounds with which the checkpoints in a run folder go on, whole ones or not, ascending."""
    names = [_MANIFEST.fullmatch(path.name) for path in (folder / "checkpoints").glob("manifest-*.json")]
    return sorted(int(name[1]) for name in names if name)


def _manifest_name(next_round: int) -> str:
    return f"manifest-{next_round:06d}.json"


def _server_name(next_round: int) -> str:
    return f"server-{next_round:06d}.safetensors"


def _to_json(manifest: dict[str, Any]) -> str:
    """A manifest as JSON, with the SHA-256 of all that it says."""
    values = json.loads(json.dumps(manifest))  # keys as JSON has them
    return json.dumps({**values, "sha256": sha256(json.dumps(values).encode())}, indent=1)


def _read(folder: Path, number: int) -> Manifest:
    path = folder / _manifest_name(number)
    with reading(path):
        data = path.read_bytes()
    try:
        values = json.loads(data)
        kind, told = values["format"], values.pop("sha256", None)
        digest = sha256(json.dumps(values).encode())
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise DataError(f"{path} is not a manifest of this program: {error}") from None
    if kind != _FORMAT:
        raise DataError(f"{path} has format {kind!r}; this program reads format {_FORMAT}")
    if told != digest or values.get("next_round") != number:
        raise DataError(f"{path} is damaged: it is not what was written")
    wrong = [name for name, fits in _FIELDS.items() if not fits(values.get(name))]
    if wrong or values.keys() != _FIELDS.keys():
        raise DataError(f"{path} is not a manifest of this program: {', '.join(wrong) or 'it has other fields'}")
    states, record = values["states"], values["record"]
    return Manifest(
        **{
            **values,
            "states": None if states is None else Beginning(**states),
            "record": {name: Beginning(**each) for name, each in record.items()},
        }
    )


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_beginning(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"bytes", "sha256"}
        and _is_count(value["bytes"])
        and isinstance(value["sha256"], str)
    )


def _is_record(value: Any) -> bool:
    return isinstance(value, dict) and all(
        Path(name).name == name and _is_beginning(each) for name, each in value.items()
    )


_FIELDS: dict[str, Callable[[Any], bool]] = {
    "next_round": _is_count,
    "server_sha256": lambda value: isinstance(value, str),
    "states": lambda value: value is None or _is_beginning(value),
    "record": _is_record,
    "state": lambda value: isinstance(value, dict),
    "last_round": lambda value: isinstance(value, dict),
    "format": _is_count,
}
"""The fields of a manifest, and what may stand there."""


def _what_is_lost(wrong: list[str], newest: int, number: int) -> str:
    if not wrong:
        return ""
    rounds = f"round {number} is" if newest == number + 1 else f"rounds {number} to {newest - 1} are"
    return f"{'; '.join(wrong)}: the run goes on from the checkpoint before, and {rounds} trained again"
