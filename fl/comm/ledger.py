"""Every byte, counted where it is made: per client, per round, both directions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from compression.wire import dense_bytes


@dataclass(frozen=True)
class Closing:
    """What one client sends and receives because a run ends: a run that goes on takes it back."""

    uplink_bytes: int = 0
    downlink_bytes: int = 0
    downlink_dense_bytes: int = 0


@dataclass(frozen=True)
class ClientBytes:
    """What one client sent and received in one round."""

    client: int
    uplink_bytes: int
    downlink_bytes: int
    uplink_dense_bytes: int
    downlink_dense_bytes: int
    begin_bytes: int = 0  # of downlink_bytes: what it downloads before it can train

    def __add__(self, closing: Closing) -> "ClientBytes":
        """With what ends the run."""
        return replace(
            self,
            uplink_bytes=self.uplink_bytes + closing.uplink_bytes,
            downlink_bytes=self.downlink_bytes + closing.downlink_bytes,
            downlink_dense_bytes=self.downlink_dense_bytes + closing.downlink_dense_bytes,
        )


@dataclass(frozen=True)
class Holding:
    """What a client downloads of a model whose clients hold different parts.

    `held`, `buffers`: how many numbers of each. `ranking`: parts of the same ranking are nested, so a client whose part
    grew needs only what is new in it. `mask_bytes`: the payload that says which numbers; 0 where that is known.
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

    A client's first download is the whole model in fp32. Later it downloads, when its round begins, what it missed:
    the changes since its last download with the newest buffers, or the whole model if that is smaller. After the last
    round the same is delivered to the clients of that round (`closing`). The dense baseline replaces each of these messages
    by the whole model in fp32. A pruned model is downloaded as its newest mask and the weights inside it; a new mask is a
    change like any other, downloaded before the round that it begins. Where clients hold different parts (`Holding`), each
    downloads the changes it missed, and its mask and what is new in its part if that has changed, or all of its part if
    that is smaller. Where clients exchange among themselves (a hook, or
    step mode), the baseline is that of plain DDP: an all-reduce of the parameters at each exchange and of the buffers once
    a round, its tensors counted once each way.
    """

    def __init__(self, *, parameters: int, buffers: int) -> None:
        self._parameters = parameters
        self._buffers = buffers
        self.model_bytes = dense_bytes(parameters) + (dense_bytes(buffers) if buffers else 0)
        self._changes_bytes = 0  # of all changes so far, masks included
        self._mask_bytes = 0  # of the newest mask
        self._whole_bytes = self.model_bytes  # of a download of everything that is not pruned
        self._buffers_bytes = 0  # of the newest buffers
        self._told_bytes = 0  # of the newest of what clients need besides
        self._seen: dict[int, int] = {}  # client -> _changes_bytes at its last download
        self._parts: dict[int, tuple[int, int]] = {}  # client -> ranking and held of its part at its last download

    def close_round(
        self,
        uplinks: dict[int, int],
        *,
        change_bytes: int,
        buffers_bytes: int,
        from_peers: dict[int, int] | None = None,
        exchanges: int = 0,
        mask_bytes: int = 0,
        held: float | None = None,
        holdings: Mapping[int, Holding] | None = None,
        told_bytes: int = 0,
        rewound_bytes: int = 0,
        held_buffers: int | None = None,
        told_by: tuple[int, int] | None = None,
        is_last: bool = False,
    ) -> list[ClientBytes]:
        """Charge a round that succeeded.

        `uplinks`: client -> bytes sent. `change_bytes`, `buffers_bytes`: what the server broadcast. `from_peers`:
        client -> bytes received from other clients, where a hook exchanges updates between them; `exchanges`: how often.
        `told_bytes`: what clients of the next rounds need besides the model, of which only the newest counts.
        `mask_bytes`: the payload of a mask that began this round (0: none did); `held`, `held_buffers`: numbers inside the
        mask. `rewound_bytes`: the payload of weights that this round began with. `told_by`: the client that chose the mask
        from what it had before, and the bytes that it told the server for that. `holdings`: the part of each of these
        clients, where they differ. `is_last`: with `closing`.
        """
        chooser, told = (None, 0) if told_by is None else told_by
        before = (0, 0) if chooser is None else self._catch_up(chooser)
        if mask_bytes:
            self._mask_bytes = mask_bytes
            self._changes_bytes += mask_bytes
        if chooser is not None:
            self._seen[chooser] = self._changes_bytes  # it knows the mask
        self._changes_bytes += rewound_bytes
        if held is not None:
            buffers = self._buffers if held_buffers is None else held_buffers
            self._whole_bytes = dense_bytes(int(held)) + (dense_bytes(buffers) if buffers else 0) + self._mask_bytes
        reduced = 4 * (self._parameters * exchanges + self._buffers)
        rows = []
        for client, sent in uplinks.items():
            part = None if holdings is None else holdings[client]
            received, downloads = self._catch_up(client) if part is None else self._catch_up_part(client, part)
            if client == chooser:
                received, downloads = received + before[0], max(downloads, before[1])
            rows.append(
                ClientBytes(
                    client=client,
                    uplink_bytes=sent + (told if client == chooser else 0),
                    downlink_bytes=received + (from_peers or {}).get(client, 0),
                    uplink_dense_bytes=reduced if exchanges else self.model_bytes,
                    downlink_dense_bytes=self.model_bytes * downloads + (reduced if exchanges else 0),
                    begin_bytes=received,
                )
            )
        self._changes_bytes += change_bytes
        self._buffers_bytes, self._told_bytes = buffers_bytes, told_bytes
        return [row + self.closing(row.client) for row in rows] if is_last else rows

    def closing(self, client: int, query_bytes: tuple[int, int] = (0, 0)) -> Closing:
        """What a client of the last round is charged at the end: the final model, and what it is asked besides.

        It is the smaller of what the client missed and all that it holds; nothing if it is lost. `query_bytes`: what it
        then sends and receives. Nothing is noted, so a run that goes on is charged as if it had not ended.
        """
        missed = self._changes_bytes - self._seen.get(client, self._changes_bytes)
        whole = self._whole_bytes
        if client in self._parts:
            whole = dense_bytes(self._parts[client][1]) + self._buffers_bytes
        last = min(missed + self._buffers_bytes, whole) if missed else 0
        return Closing(query_bytes[0], last + query_bytes[1], self.model_bytes if missed else 0)

    def start(self, client: int, part: Holding | None = None) -> int:
        """A client, which holds this part, starts apart from the others: the bytes that it downloads."""
        return (self._catch_up(client) if part is None else self._catch_up_part(client, part))[0]

    def forget(self, client: int) -> None:
        """A client has lost what it downloaded."""
        self._seen.pop(client, None)
        self._parts.pop(client, None)

    def noted(self, client: int) -> tuple[int | None, tuple[int, int] | None]:
        """What was noted when a client began its last download, for `restore`."""
        return self._seen.get(client), self._parts.get(client)

    def restore(self, client: int, noted: Sequence[Any]) -> None:
        """A download that was to begin never did: the client has what it had before."""
        self.forget(client)
        seen, part = noted
        if seen is not None:
            self._seen[client] = seen
        if part is not None:
            self._parts[client] = (part[0], part[1])

    def step(self, change_bytes: int, buffers_bytes: int) -> None:
        """The server stepped, and broadcast so much, for whoever starts from now on."""
        self._changes_bytes += change_bytes
        self._buffers_bytes = buffers_bytes

    def _catch_up(self, client: int) -> tuple[int, int]:
        """Bytes of the download that begins a client's round, and whether there is one (1 or 0)."""
        seen = self._seen.get(client)
        self._seen[client] = self._changes_bytes
        if seen is None:
            return self._whole_bytes + self._told_bytes, 1
        missed = self._changes_bytes - seen
        return (min(missed + self._buffers_bytes, self._whole_bytes) + self._told_bytes, 1) if missed else (0, 0)

    def _catch_up_part(self, client: int, part: Holding) -> tuple[int, int]:
        """The same for a client that holds a part of its own."""
        seen, before = self._seen.get(client), self._parts.get(client)
        self._seen[client], self._parts[client] = self._changes_bytes, (part.ranking, part.held)
        if seen is None or before is None:
            return part.whole_bytes + part.mask_bytes, 1
        ranking, held = before
        if ranking != part.ranking and not held == part.held == self._parameters:
            return part.whole_bytes + part.mask_bytes, 1
        missed = self._changes_bytes - seen
        missed += self._buffers_bytes if missed else 0
        if held != part.held:
            missed += part.mask_bytes + (dense_bytes(part.held - held) if held < part.held else 0)
            return (min(missed, part.whole_bytes + part.mask_bytes), 1) if missed else (0, 0)
        return (min(missed, part.whole_bytes), 1) if missed else (0, 0)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on, ready for JSON."""
        return {
            "changes_bytes": self._changes_bytes,
            "buffers_bytes": self._buffers_bytes,
            "told_bytes": self._told_bytes,
            "mask_bytes": self._mask_bytes,
            "whole_bytes": self._whole_bytes,
            "seen": sorted(self._seen.items()),
            "parts": sorted(self._parts.items()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._changes_bytes = state["changes_bytes"]
        self._buffers_bytes, self._told_bytes = state["buffers_bytes"], state["told_bytes"]
        self._mask_bytes = state["mask_bytes"]
        self._whole_bytes = state["whole_bytes"]
        self._seen = dict(state["seen"])
        self._parts = {client: (ranking, held) for client, (ranking, held) in state["parts"]}
