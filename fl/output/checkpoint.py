"""Checkpoints: a manifest, one file for the server and one for each client's state, all replaced atomically.

A client's file is written again only when its state changed (`ClientStates`). The manifest is written last, by rank 0,
after every rank has its files on disk: a checkpoint without a manifest does not exist.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from torch import Tensor

from fl.common.errors import DataError
from fl.common.files import State, join_state, read_tensors, split_state, write_bytes, write_tensors
from fl.common.ranks import Ranks

_FORMAT = 7
_KEPT = 2


@dataclass
class Manifest:
    """What a checkpoint consists of. `next_round` is the first round that is still to be run."""

    next_round: int
    server_file: str
    client_files: dict[int, str]
    record: dict[str, int]  # length in bytes of each csv file
    state: dict[str, Any]  # what JSON can hold of the server's state; the tensors are in `server_file`
    last_round: dict[str, Any] = field(default_factory=dict)  # `Record.last_round`, at the end of a run
    format: int = field(default=_FORMAT)


class Checkpoints:
    """The checkpoints of one run folder; the last two are kept."""

    def __init__(self, folder: Path, ranks: Ranks) -> None:
        self.folder = folder / "checkpoints"
        self.ranks = ranks

    def save(
        self,
        next_round: int,
        *,
        state: Mapping[str, Any],
        client_files: dict[int, str],
        record: Callable[[], tuple[dict[str, int], dict[str, Any]]],
    ) -> None:
        """Write a checkpoint; collective. `state`, nested, and `record` are used on rank 0 alone.

        `client_files`: the file of each client that has a state; this rank's own are written already. `record`: adds the
        round to the csv files and returns their lengths and the last round; called when only the manifest is still to be
        written, so that the time of a round holds its checkpoint.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        stamp = f"{next_round:06d}"
        server_file = f"server-{stamp}.safetensors"
        tensors, rest = split_state(state)
        if self.ranks.is_server:
            write_tensors(self.folder / server_file, tensors)
        self.ranks.wait_for_all()
        if self.ranks.is_server:
            lengths, last_round = record()
            manifest = Manifest(next_round, server_file, client_files, lengths, rest, last_round)
            write_bytes(self.folder / f"manifest-{stamp}.json", json.dumps(asdict(manifest), indent=1).encode())
        self.ranks.wait_for_all()
        self._forget_old()

    def next_round(self) -> int:
        """The round that the newest complete checkpoint goes on with; -1 without one."""
        manifests = self._manifests()
        return int(manifests[-1].stem.partition("-")[2]) if manifests else -1

    def latest(self) -> Manifest | None:
        """The newest complete checkpoint, or None."""
        manifests = self._manifests()
        if not manifests:
            return None
        path = manifests[-1]
        try:
            values = json.loads(path.read_text())
            if values["format"] != _FORMAT:
                raise DataError(f"{path} has format {values['format']}; this program reads format {_FORMAT}")
            manifest = Manifest(**values)
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"{path} is not a manifest of this program: {error}") from None
        manifest.client_files = {int(client): name for client, name in manifest.client_files.items()}
        return manifest

    def load(self, manifest: Manifest) -> State:
        """The state that was saved, its tensors on the CPU."""
        return join_state(load_tensors(self.folder / manifest.server_file), manifest.state)

    def _manifests(self) -> list[Path]:
        return sorted(self.folder.glob("manifest-*.json"))

    def _forget_old(self) -> None:
        """Each rank deletes its own clients' files that no kept manifest names; rank 0 also the rest.

        A rank that sees no manifest writes to a folder of its own; what is there may be needed, and stays.
        """
        kept = self._manifests()[-_KEPT:]
        named: set[str] = {path.name for path in kept}
        for path in kept:
            values = json.loads(path.read_text())
            named |= {values["server_file"], *values["client_files"].values()}
        self.ranks.wait_for_all()
        for path in self.folder.iterdir():
            kind, _, rest = path.name.partition("-")
            owner = int(rest.split("-")[0]) if kind == "client" else 0
            mine = self.ranks.hosts(owner) if kind == "client" else self.ranks.is_server
            if kept and mine and path.name not in named:
                path.unlink(missing_ok=True)


def load_tensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint's file, on the CPU; DataError if it cannot be read."""
    try:
        return read_tensors(path)
    except (OSError, SafetensorError) as error:
        raise DataError(
            f"checkpoint file {path} cannot be read ({error}); with several machines, "
            "--output-dir must be a folder that all of them share"
        ) from None
