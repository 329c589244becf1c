"""Checkpoints: a manifest, one file for the server and one for each client's state, all replaced atomically.

A client's file is written again only when its state changed (`ClientStates`). The manifest is written last, by rank 0,
after every rank has its files on disk: a checkpoint without a manifest does not exist. It holds the SHA-256 of all that it
names, and of itself: what is damaged is not gone on with.
"""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from fl.common.errors import DataError
from fl.common.files import Beginning, sha256, write_bytes
from fl.common.ranks import Ranks
from fl.common.tensor_files import State, join_state, split_state, write_tensors

_FORMAT = 8
_KEPT = 2
_MANIFEST = re.compile(r"manifest-(\d{6,})\.json")
_SERVER = re.compile(r"server-\d{6,}\.safetensors")
_CLIENT = re.compile(r"client-(\d{6,})-(\d{6,}|waiting)\.safetensors")
_PART = re.compile(r"\.\d+\.part")  # what a process that was killed had half written


@dataclass(frozen=True)
class Stored:
    """A file of a checkpoint: its name in the folder, and its SHA-256."""

    name: str
    sha256: str


@dataclass
class Manifest:
    """What a checkpoint consists of. `next_round` is the first round that is still to be run."""

    next_round: int
    server_file: Stored
    client_files: dict[int, Stored]
    record: dict[str, Beginning]  # how far each file of the record is the checkpoint's
    state: dict[str, Any]  # what JSON can hold of the server's state; the tensors are in `server_file`
    last_round: dict[str, Any] = field(default_factory=dict)  # `Record.last_round`, at the end of a run
    format: int = field(default=_FORMAT)

    @property
    def files(self) -> set[str]:
        """The names of all files of the checkpoint, its own among them."""
        return {
            _manifest_name(self.next_round),
            self.server_file.name,
            *(each.name for each in self.client_files.values()),
        }


class Checkpoints:
    """The checkpoints of one run folder; the last two are kept."""

    def __init__(self, folder: Path, ranks: Ranks) -> None:
        self.folder = folder / "checkpoints"
        self.ranks = ranks
        self._kept: list[set[str]] = []  # the files of the checkpoints that stay, the newest last

    def save(
        self,
        next_round: int,
        *,
        state: Mapping[str, Any],
        client_files: dict[int, Stored],
        record: Callable[[], tuple[dict[str, Beginning], dict[str, Any]]],
    ) -> None:
        """Write a checkpoint; collective, and if rank 0 fails, every rank raises. `state`, nested, and `record` are used on
        rank 0 alone.

        `client_files`: the file of each client that has a state; this rank's own are written already. `record`: adds the
        round to the csv files and returns how far they are the checkpoint's, and the last round; called when only the
        manifest is still to be written, so that the time of a round holds its checkpoint.
        """
        server_file = f"server-{next_round:06d}.safetensors"
        manifest = Manifest(next_round, Stored(server_file, ""), client_files, {}, {})

        def write() -> None:
            make_folder(self.folder, self.ranks)
            tensors, manifest.state = split_state(state)
            manifest.server_file = Stored(server_file, write_tensors(self.folder / server_file, tensors))
            manifest.record, manifest.last_round = record()
            write_bytes(self.folder / _manifest_name(next_round), _to_json(asdict(manifest)).encode())

        self.ranks.wait_for_all()  # until every rank has its files on disk
        self.ranks.share_json(write)
        self._kept = [*self._kept, manifest.files][-_KEPT:]
        # A rank that does not see the manifest writes to a folder of its own; what is there may be needed, and stays.
        if (self.folder / _manifest_name(next_round)).exists():
            self._forget_old()

    def next_round(self) -> int:
        """The round that the newest checkpoint goes on with; -1 without one."""
        return max(saved_rounds(self.folder.parent), default=-1)

    def latest(self) -> tuple[Manifest, str]:
        """The newest checkpoint that is whole, and what is wrong with newer ones, if any, in one sentence. Collective, and
        the same on every rank; DataError if none is whole.
        """
        wrong: list[str] = []
        numbers = self.ranks.share_json(lambda: saved_rounds(self.folder.parent))
        for number in reversed(numbers):
            problem = self.ranks.first_text(self._problem(number))
            if not problem:
                manifest = _read(self.folder, number)
                self._kept = [manifest.files]
                return manifest, _what_is_lost(wrong, numbers[-1], number)
            wrong.append(problem)
        none = f"there is no checkpoint in {self.folder}"
        raise DataError((wrong or [none])[0] + ("; no older checkpoint is whole either" if len(wrong) > 1 else ""))

    def drop_newer(self, manifest: Manifest) -> None:
        """Delete the manifests after this one, from which the run did not go on: their files are to be written again."""
        for number in saved_rounds(self.folder.parent):
            if number > manifest.next_round:
                (self.folder / _manifest_name(number)).unlink(missing_ok=True)

    def load(self, manifest: Manifest) -> State:
        """The state that was saved, its tensors on the CPU."""
        return join_state(load_tensors(self.folder, manifest.server_file), manifest.state)

    def _problem(self, number: int) -> str:
        """What is wrong with a checkpoint, as far as this rank needs it."""
        try:
            manifest = _read(self.folder, number)
            own = [each for client, each in manifest.client_files.items() if self.ranks.hosts(client)]
            for each in (manifest.server_file, *own):
                _read_whole(self.folder, each)
        except DataError as error:
            return str(error)
        return ""

    def _forget_old(self) -> None:
        """Each rank deletes its own clients' files that no kept checkpoint has; rank 0 also the rest. What does not have a
        name of these kinds is the user's."""
        named = set().union(*self._kept)
        for path in self.folder.iterdir():
            name = _PART.sub("", path.name)
            client = _CLIENT.fullmatch(name)
            ours = client or _SERVER.fullmatch(name) or _MANIFEST.fullmatch(name)
            mine = self.ranks.hosts(int(client[1])) if client else self.ranks.is_server
            if ours and mine and path.name not in named and path.is_file():
                path.unlink(missing_ok=True)


def make_folder(folder: Path, ranks: Ranks) -> None:
    """Make the folder of the checkpoints. FileNotFoundError if rank 0's run folder is gone; a rank of a machine that does
    not share it has one of its own."""
    folder.mkdir(parents=not ranks.is_server, exist_ok=True)


def saved_rounds(folder: Path) -> list[int]:
    """The rounds with which the checkpoints in a run folder go on, whole ones or not, ascending."""
    names = [_MANIFEST.fullmatch(path.name) for path in (folder / "checkpoints").glob("manifest-*.json")]
    return sorted(int(name[1]) for name in names if name)


def load_tensors(folder: Path, stored: Stored) -> dict[str, Tensor]:
    """The tensors of a checkpoint's file, on the CPU; DataError if it cannot be read, or is not what was written."""
    data = _read_whole(folder, stored)
    try:
        return load(data)
    except SafetensorError as error:
        raise DataError(f"checkpoint file {folder / stored.name} cannot be read ({error})") from None


def _read_whole(folder: Path, stored: Stored) -> bytes:
    path = folder / stored.name
    data = _read_plain(path)
    if sha256(data) != stored.sha256:
        raise DataError(f"checkpoint file {path} is damaged: its SHA-256 is not the one in its manifest")
    return data


def _read_plain(path: Path) -> bytes:
    """The bytes of a plain file that lies in its folder and nowhere else."""
    try:
        if path.exists() and not (path.is_file() and path.resolve().parent == path.parent.resolve()):
            raise DataError(f"checkpoint file {path} is no plain file in this folder")
        return path.read_bytes()
    except OSError as error:
        raise DataError(
            f"checkpoint file {path} cannot be read ({error.strerror}); with several machines, "
            "--output-dir must be a folder that all of them share"
        ) from None


def _manifest_name(next_round: int) -> str:
    return f"manifest-{next_round:06d}.json"


def _to_json(manifest: dict[str, Any]) -> str:
    """A manifest as JSON, with the SHA-256 of all that it says."""
    values = json.loads(json.dumps(manifest))  # keys as JSON has them
    return json.dumps({**values, "sha256": sha256(json.dumps(values).encode())}, indent=1)


def _read(folder: Path, number: int) -> Manifest:
    path = folder / _manifest_name(number)
    data = _read_plain(path)
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
    return Manifest(
        **{
            **values,
            "server_file": Stored(**values["server_file"]),
            "client_files": {int(client): Stored(**each) for client, each in values["client_files"].items()},
            "record": {name: Beginning(**each) for name, each in values["record"].items()},
        }
    )


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_stored(value: Any, name: re.Pattern[str]) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"name", "sha256"}
        and all(isinstance(text, str) for text in value.values())
        and name.fullmatch(value["name"]) is not None
    )


def _are_client_files(value: Any) -> bool:
    return isinstance(value, dict) and all(
        re.fullmatch("[0-9]{1,18}", client) and _is_stored(each, _CLIENT) for client, each in value.items()
    )


def _is_record(value: Any) -> bool:
    return isinstance(value, dict) and all(
        Path(name).name == name
        and isinstance(each, dict)
        and each.keys() == {"bytes", "sha256"}
        and _is_count(each["bytes"])
        and isinstance(each["sha256"], str)
        for name, each in value.items()
    )


_FIELDS: dict[str, Callable[[Any], bool]] = {
    "next_round": _is_count,
    "server_file": lambda value: _is_stored(value, _SERVER),
    "client_files": _are_client_files,
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
