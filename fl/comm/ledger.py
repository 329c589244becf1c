"""Every byte, counted where it is made: per client, per round, both directions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from compression.wire import dense_bytes


@dataclass(frozen=True)
class Closing:
    """Bytes that one client sends and receives because the run ends; a run that goes on takes them back."""

    uplink_bytes: int = 0
    downlink_bytes: int = 0
    downlink_dense_bytes: int = 0


@dataclass(frozen=True)
class ClientBytes:
    """Bytes that one client sent and received in one round."""

    client: int
    uplink_bytes: int
    downlink_bytes: int
    uplink_dense_bytes: int
    downlink_dense_bytes: int
    begin_bytes: int = 0  # of downlink_bytes: what it downloads before it can train

    def __add__(self, closing: Closing) -> "ClientBytes":
        """The row with the bytes that end the run."""
        return replace(
            self,
            uplink_bytes=self.uplink_bytes + closing.uplink_bytes,
            downlink_bytes=self.downlink_bytes + closing.downlink_bytes,
            downlink_dense_bytes=self.downlink_dense_bytes + closing.downlink_dense_bytes,
        )


@dataclass(frozen=True)
class SubmodelSize:
    """The size of a client's download, where clients hold different submodels.

    `held`, `buffers`: how many numbers of each. `ranking`: submodels of the same ranking are nested, so a client whose
    submodel grew downloads only the new numbers. `mask_bytes`: of the mask's payload; 0 if the client knows the mask.
    """

    held: int
    buffers: int
    ranking: int
    mask_bytes: int

    @property
    def whole_bytes(self) -> int:
        """Bytes of all of it in fp32, without the mask."""
        return dense_bytes(self.held) + (dense_bytes(self.buffers) if self.buffers else 0)


class Ledger:
    """Charges every client as its own machine, whichever rank hosts it.

    A client's first download is the whole model in fp32. Later it downloads, when its round begins, what it missed: the
    changes since its last download with the newest buffers, or the whole model if that is smaller. After the last round
    the same is delivered to the clients of that round (`closing`). The dense baseline replaces each of these messages
    by the whole model in fp32. A pruned model is downloaded as its newest mask and the weights inside it; a new mask is
    a change like any other, downloaded before the round that it begins. Where clients hold different submodels
    (`SubmodelSize`), each downloads the changes it missed, and its mask and what is new in its submodel if that has
    changed, or all of its submodel if that is smaller. Where clients exchange among themselves (a hook, or step mode),
    the baseline is that of plain DDP: an all-reduce of the parameters at each exchange and of the buffers once a round,
    its tensors counted once each way.
    """

    def __init__(self, *, parameters: int, buffers: int) -> None:
        self._parameters = parameters
        self._buffers = buffers
        self.model_bytes = dense_bytes(parameters) + (dense_bytes(buffers) if buffers else 0)
        self._changes_bytes = 0  # of all changes so far, masks included
        self._mask_bytes = 0  # of the newest mask
        self._whole_bytes = self.model_bytes  # of a download of everything that is not pruned
        self._buffers_bytes = 0  # of the newest buffers
        self._variate_bytes = 0  # of the newest of what clients need besides
        self._seen: dict[int, int] = {}  # client -> _changes_bytes at its last download
        self._sizes: dict[int, tuple[int, int]] = {}  # client -> ranking and held of its submodel at its last download
        self.commit()

    def new_mask(self, mask_bytes: int, rewound_bytes: int = 0, chooser: int | None = None) -> tuple[int, int]:
        """All clients get a mask, and rewound weights with it. A client that chose the mask (`chooser`) first downloads
        what it missed. Returns the bytes of that download, and whether there is one (1 or 0)."""
        before = (0, 0) if chooser is None else self.download(chooser)
        self._mask_bytes = mask_bytes
        self._changes_bytes += mask_bytes
        if chooser is not None:
            self._seen[chooser] = self._changes_bytes  # it knows the mask
        self._changes_bytes += rewound_bytes
        return before

    def resize(self, held: int, buffers: int) -> None:
        """From now on a whole download has `held` coordinates, which all clients hold, and `buffers`, with the newest
        mask."""
        self._whole_bytes = dense_bytes(held) + (dense_bytes(buffers) if buffers else 0) + self._mask_bytes

    def download(self, client: int, size: SubmodelSize | None = None) -> tuple[int, int]:
        """A client with a submodel of this size begins. Returns the bytes of its download, and whether there is one (1 or
        0)."""
        return self._catch_up(client) if size is None else self._catch_up_submodel(client, size)

    def publish(self, sizes: Mapping[str, int]) -> None:
        """The server stepped: bytes of each section that it published, for whoever begins from now on."""
        self._changes_bytes += sizes.get("change", 0)
        self._buffers_bytes, self._variate_bytes = sizes.get("buffers", 0), sizes.get("variate", 0)

    def between_peers(self, row: ClientBytes, exchanges: int, received: int) -> ClientBytes:
        """The row of a client that took part in `exchanges` without a server, and received `received` bytes in them."""
        reduced = 4 * (self._parameters * exchanges + self._buffers)
        return replace(
            row,
            downlink_bytes=row.downlink_bytes + received,
            uplink_dense_bytes=reduced,
            downlink_dense_bytes=row.downlink_dense_bytes + reduced,
        )

    def closing(self, client: int, query_bytes: tuple[int, int] = (0, 0)) -> Closing:
        """The end of a run for a client of the last round: it is charged for the final model, and for a query of the
        server.

        The model's bytes are those of what the client missed, or of all that it holds if that is smaller; 0 if it is lost.
        `query_bytes`: sent and received for the query. Nothing is noted, so a run that goes on is charged as if it had not
        ended.
        """
        missed = self._changes_bytes - self._seen.get(client, self._changes_bytes)
        whole = self._whole_bytes
        if client in self._sizes:
            whole = dense_bytes(self._sizes[client][1]) + self._buffers_bytes
        last = min(missed + self._buffers_bytes, whole) if missed else 0
        return Closing(query_bytes[0], last + query_bytes[1], self.model_bytes if missed else 0)

    def forget(self, client: int) -> None:
        """A client has lost what it downloaded."""
        self._seen.pop(client, None)
        self._sizes.pop(client, None)

    def noted(self, client: int) -> tuple[int | None, tuple[int, int] | None]:
        """What was noted when a client began its last download, for `restore`."""
        return self._seen.get(client), self._sizes.get(client)

    def restore(self, client: int, noted: Sequence[Any]) -> None:
        """A download that was to begin never did: the client has what it had before."""
        self.forget(client)
        seen, size = noted
        if seen is not None:
            self._seen[client] = seen
        if size is not None:
            self._sizes[client] = (size[0], size[1])

    def commit(self) -> None:
        """The round has succeeded."""
        sums = self._changes_bytes, self._mask_bytes, self._whole_bytes, self._buffers_bytes, self._variate_bytes
        self._before = sums, dict(self._seen), dict(self._sizes)

    def rollback(self) -> None:
        """The round has failed: everything as it was at the last `commit`."""
        sums, seen, parts = self._before
        self._changes_bytes, self._mask_bytes, self._whole_bytes, self._buffers_bytes, self._variate_bytes = sums
        self._seen, self._sizes = dict(seen), dict(parts)

    def _catch_up(self, client: int) -> tuple[int, int]:
        """Bytes of the download that begins a client's round, and whether there is one (1 or 0)."""
        seen = self._seen.get(client)
        self._seen[client] = self._changes_bytes
        if seen is None:
            return self._whole_bytes + self._variate_bytes, 1
        missed = self._changes_bytes - seen
        return (min(missed + self._buffers_bytes, self._whole_bytes) + self._variate_bytes, 1) if missed else (0, 0)

    def _catch_up_submodel(self, client: int, size: SubmodelSize) -> tuple[int, int]:
        """The same for a client that holds a submodel of its own."""
        seen, before = self._seen.get(client), self._sizes.get(client)
        self._seen[client], self._sizes[client] = self._changes_bytes, (size.ranking, size.held)
        if seen is None or before is None:
            return size.whole_bytes + size.mask_bytes, 1
        ranking, held = before
        if ranking != size.ranking and not held == size.held == self._parameters:
            return size.whole_bytes + size.mask_bytes, 1
        missed = self._changes_bytes - seen
        missed += self._buffers_bytes if missed else 0
        if held != size.held:
            missed += size.mask_bytes + (dense_bytes(size.held - held) if held < size.held else 0)
            return (min(missed, size.whole_bytes + size.mask_bytes), 1) if missed else (0, 0)
        return (min(missed, size.whole_bytes), 1) if missed else (0, 0)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on: sums, and tables of all clients that have downloaded, int64 [clients, columns]."""
        return {
            "changes_bytes": self._changes_bytes,
            "buffers_bytes": self._buffers_bytes,
            "variate_bytes": self._variate_bytes,
            "mask_bytes": self._mask_bytes,
            "whole_bytes": self._whole_bytes,
            "seen": _table(self._seen),
            "sizes": _table(self._sizes),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._changes_bytes = state["changes_bytes"]
        self._buffers_bytes, self._variate_bytes = state["buffers_bytes"], state["variate_bytes"]
        self._mask_bytes = state["mask_bytes"]
        self._whole_bytes = state["whole_bytes"]
        self._seen = dict(state["seen"].tolist())
        self._sizes = {client: (ranking, held) for client, ranking, held in state["sizes"].tolist()}
        self.commit()


def _table(rows: Mapping[int, int | tuple[int, int]]) -> Tensor:
    """Each client and its numbers, by client. Not as JSON: every checkpoint writes it, whoever took part."""
    if not rows:
        return torch.empty(0, 1, dtype=torch.int64)
    clients, numbers = np.fromiter(rows, np.int64, len(rows)), np.array(list(rows.values()), np.int64)
    table = np.column_stack([clients, numbers])
    return torch.from_numpy(table[np.argsort(clients)])
