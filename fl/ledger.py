"""Every byte, counted where it is made: per client, per round, both directions."""

from dataclasses import dataclass
from typing import Any

from compression.wire import dense_bytes


@dataclass(frozen=True)
class ClientBytes:
    """What one client sent and received in one round."""

    client: int
    uplink_bytes: int
    downlink_bytes: int
    uplink_dense_bytes: int
    downlink_dense_bytes: int


class Ledger:
    """Charges every client as its own machine, whichever rank hosts it.

    A client's first download is the whole model in fp32. Later it downloads, when its round begins, what it missed:
    the changes since its last download with the newest buffers, or the whole model if that is smaller. After the last
    round the final change is delivered to the clients of that round. The dense baseline replaces each of these messages by
    the whole model in fp32. A pruned model is downloaded as its newest mask and the weights inside it; a new mask is a
    change like any other, downloaded before the round that it begins. Where clients exchange among themselves (a hook, or
    step mode), the baseline is that of plain DDP: an all-reduce of the parameters at each exchange and of the buffers once
    a round, its tensors counted once each way.
    """

    def __init__(self, *, parameters: int, buffers: int) -> None:
        self._parameters = parameters
        self._buffers = buffers
        self.model_bytes = dense_bytes(parameters) + (dense_bytes(buffers) if buffers else 0)
        self.uplink_bytes = 0
        self.downlink_bytes = 0
        self._changes_bytes = 0  # of all changes so far, masks included
        self._mask_bytes = 0  # of the newest mask
        self._whole_bytes = self.model_bytes  # of a download of everything that is not pruned
        self._buffers_bytes = 0  # of the newest buffers
        self._seen: dict[int, int] = {}  # client -> _changes_bytes at its last download

    def close_round(
        self,
        uplinks: dict[int, int],
        *,
        change_bytes: int,
        buffers_bytes: int,
        from_peers: dict[int, int] | None = None,
        exchanges: int = 0,
        mask_bytes: int = 0,
        held: int | None = None,
        is_last: bool = False,
    ) -> list[ClientBytes]:
        """Charge a round that succeeded.

        `uplinks`: client -> bytes sent. `change_bytes`, `buffers_bytes`: what the server broadcast. `from_peers`:
        client -> bytes received from other clients, where a hook exchanges updates between them; `exchanges`: how often.
        `mask_bytes`: the payload of a mask that began this round (0: none did); `held`: coordinates inside the mask.
        """
        if mask_bytes:
            self._mask_bytes = mask_bytes
            self._changes_bytes += mask_bytes
        if held is not None:
            self._whole_bytes = self.model_bytes - 4 * (self._parameters - held) + self._mask_bytes
        reduced = 4 * (self._parameters * exchanges + self._buffers)
        rows = []
        for client, sent in uplinks.items():
            received, downloads = self._catch_up(client)
            if is_last and change_bytes:
                received += change_bytes + buffers_bytes
                downloads += 1
            rows.append(
                ClientBytes(
                    client=client,
                    uplink_bytes=sent,
                    downlink_bytes=received + (from_peers or {}).get(client, 0),
                    uplink_dense_bytes=reduced if exchanges else self.model_bytes,
                    downlink_dense_bytes=self.model_bytes * downloads + (reduced if exchanges else 0),
                )
            )
        self._changes_bytes += change_bytes
        self._buffers_bytes = buffers_bytes
        if is_last:
            self._seen.update(dict.fromkeys(uplinks, self._changes_bytes))
        self.uplink_bytes += sum(row.uplink_bytes for row in rows)
        self.downlink_bytes += sum(row.downlink_bytes for row in rows)
        return rows

    def _catch_up(self, client: int) -> tuple[int, int]:
        """Bytes of the download that begins a client's round, and whether there is one (1 or 0)."""
        seen = self._seen.get(client)
        self._seen[client] = self._changes_bytes
        if seen is None:
            return self._whole_bytes, 1
        missed = self._changes_bytes - seen
        return (min(missed + self._buffers_bytes, self._whole_bytes), 1) if missed else (0, 0)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on, ready for JSON."""
        return {
            "uplink_bytes": self.uplink_bytes,
            "downlink_bytes": self.downlink_bytes,
            "changes_bytes": self._changes_bytes,
            "buffers_bytes": self._buffers_bytes,
            "mask_bytes": self._mask_bytes,
            "whole_bytes": self._whole_bytes,
            "seen": sorted(self._seen.items()),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.uplink_bytes = state["uplink_bytes"]
        self.downlink_bytes = state["downlink_bytes"]
        self._changes_bytes = state["changes_bytes"]
        self._buffers_bytes = state["buffers_bytes"]
        self._mask_bytes = state["mask_bytes"]
        self._whole_bytes = state["whole_bytes"]
        self._seen = dict(state["seen"])
