"""The fraction that each client takes: of the model (`--capabilities`), or of the uplink's coordinates (`--uplink-shares`).

Given, or learnt from the virtual times of rounds: every client's should take as long as the fastest client's with all of it.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, overload

_MEMORY = 0.5  # of the estimate before, when a new time comes
_LEAST = 0.1  # of a share: smaller changes are not worth a new part of the model


class Change(NamedTuple):
    """A client takes another share from now on."""

    client: int
    before: float
    after: float


class Time(NamedTuple):
    """A client took so many virtual seconds with this share."""

    client: int
    seconds: float
    share: float


class Shares(Sequence[float]):
    """The share in (0, 1] of each client. Those that are learnt begin at 1."""

    def __init__(self, values: Iterable[float]) -> None:
        self._values = list(values)

    @overload
    def __getitem__(self, client: int) -> float: ...
    @overload
    def __getitem__(self, client: slice) -> Sequence[float]: ...
    def __getitem__(self, client: int | slice) -> float | Sequence[float]:
        return self._values[client]

    def __len__(self) -> int:
        return len(self._values)

    @property
    def learns(self) -> bool:
        """Whether `observe` changes anything."""
        return False

    def observe(self, times: Iterable[Time], late: Iterable[Time] = ()) -> list[Change]:
        """A round is over: how long its clients took, in the order of their arrival, and since when others, whom the
        server no longer waits for, had been at work."""
        return []

    def state_dict(self) -> dict[str, Any]:
        """What was learnt, for JSON."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""


class OnlineShares(Shares):
    """A client that took T seconds with the share c needs T / c^power for all of it; the fastest sets what all may take.

    `power`: how the time grows with the share: 2 for the channels of a smaller model, 1 for single weights or coordinates.
    New estimates and old ones are averaged, half and half, because links jitter; who was given up on needs at least the
    time that it had. A share is rounded down to 1/100, is at least `floor`, and stays if it would change by less than a
    tenth. What takes the same time whatever the share (a latency) makes it fall until the client's *observed* time is the
    fastest's, or to the floor.
    """

    def __init__(self, clients: int, *, floor: float, power: int) -> None:
        super().__init__([1.0] * clients)
        self.floor = floor
        self.power = power
        self._whole: dict[int, float] = {}  # seconds that all of it takes each client, as far as known

    @property
    def learns(self) -> bool:
        """As in `Shares.learns`."""
        return True

    def observe(self, times: Iterable[Time], late: Iterable[Time] = ()) -> list[Change]:
        """As in `Shares.observe`; the changes in the order of the clients."""
        seen = set()
        for client, seconds, share in times:
            if seconds > 0:
                whole, before = seconds / share**self.power, self._whole.get(client)
                self._whole[client] = whole if before is None else _MEMORY * before + (1 - _MEMORY) * whole
                seen.add(client)
        for client, seconds, share in late:
            whole = seconds / share**self.power
            if whole > self._whole.get(client, 0.0):
                self._whole[client] = whole
                seen.add(client)
        fastest = min(self._whole.values(), default=0.0)
        changes = []
        for client in sorted(seen):
            before, after = self._values[client], self._fitting(fastest, self._whole[client])
            if abs(after - before) >= _LEAST * before:
                self._values[client] = after
                changes.append(Change(client, before, after))
        return changes

    def _fitting(self, fastest: float, whole: float) -> float:
        share = (fastest / whole) ** (1 / self.power)
        return max(self.floor, math.floor(100 * share + 1e-9) / 100)

    def state_dict(self) -> dict[str, Any]:
        """As in `Shares.state_dict`."""
        return {"values": self._values.copy(), "whole": sorted(self._whole.items())}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """As in `Shares.load_state_dict`."""
        self._values = list(state["values"])
        self._whole = dict(state["whole"])
