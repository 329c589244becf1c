"""A server link of limited rate, shared by the transfers of the moment: max-min fair, as a fluid."""

import heapq
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from fl.common.errors import ConfigError


def fair_level(caps: Sequence[float], limit: float) -> float:
    """The rate L with sum(min(cap, L)) == limit; infinity if the caps together stay within the limit.

    `caps` are the transfers' own rates in ascending order, `limit` is what they share, all in bytes/s. With min(cap, L)
    for each no transfer can be given more without taking from one that has less: max-min fairness, by progressive
    filling (Bertsekas & Gallager 1992, section 6.5.2, for a single link).
    """
    rest = limit
    for served, cap in enumerate(caps):
        level = rest / (len(caps) - served)
        if cap > level:
            return level
        rest -= cap
    return math.inf


@dataclass(slots=True)
class _Transfer:
    """One transfer: `total` bytes, `own_s` seconds if alone, `left` bytes at `since_s`, `rate` bytes/s from then on."""

    total: int
    own_s: float
    left: float
    rate: float = 0.0
    since_s: float = 0.0

    @property
    def cap(self) -> float:
        """The rate of its own link, bytes/s; its latency is spread over the bytes."""
        return self.total / self.own_s if self.own_s > 0 else math.inf

    def end_s(self) -> float:
        """When it ends if no rate changes: after `since_s`, and infinity while it has no rate yet."""
        if self.rate == 0:
            return math.inf
        # Not total / cap, which rounds: what is never slowed must end exactly when it would without a limit.
        undisturbed = self.rate == self.cap and self.left == self.total
        seconds = self.own_s if undisturbed else self.left / self.rate
        # What has bytes left when rates change ends later than that moment, even by less than the clock resolves:
        # otherwise it would come before its turn among those that ended at that moment.
        return max(self.since_s + seconds, math.nextafter(self.since_s, math.inf))


class FairShareLink:
    """The transfers over one limit, at most one a client.

    Rates are constant between the moments at which a transfer begins or ends, so ends are computed, not stepped to.
    `settle` computes the rates anew, in O(n log n) for n transfers; everything that begins and ends at one moment is
    settled together.
    """

    def __init__(self, limit: float, name: str) -> None:
        """Share `limit` bytes/s; ConfigError, which calls it `name`, if that is not a positive number."""
        if not 0 < limit < math.inf:
            raise ConfigError(f"{name} must be a positive number of bytes per second, not {limit}")
        self._limit = float(limit)
        self._transfers: dict[int, _Transfer] = {}
        self._ends: list[tuple[float, int]] = []  # a heap; entries of transfers since removed stay until they surface
        self._unsettled = False

    def __len__(self) -> int:
        return len(self._transfers)

    def begin(self, client: int, total: int, own_s: float) -> None:
        """A client begins to transfer `total` > 0 bytes, which would take `own_s` seconds over its own link alone."""
        self._transfers[client] = _Transfer(total, own_s, float(total))
        self._unsettled = True

    def end(self, client: int) -> None:
        """A client's transfer has ended or was broken off: its bandwidth is free. KeyError if it has none."""
        del self._transfers[client]
        self._unsettled = True

    def settle(self, now: float) -> None:
        """New rates from `now` on; to be called before time moves on from a moment at which anything began or ended."""
        if not self._unsettled:
            return
        level = fair_level(sorted(transfer.cap for transfer in self._transfers.values()), self._limit)
        for transfer in self._transfers.values():
            rate = min(transfer.cap, level)
            if rate != transfer.rate:
                transfer.left = max(0.0, transfer.left - transfer.rate * (now - transfer.since_s))
                transfer.rate, transfer.since_s = rate, now
        self._rank()
        self._unsettled = False

    def earliest(self) -> tuple[float, int] | None:
        """(seconds, client) of the next end at the present rates, ties by client; None if nothing has a rate."""
        ends = self._ends
        while ends and (ends[0][1] not in self._transfers or self._transfers[ends[0][1]].end_s() != ends[0][0]):
            heapq.heappop(ends)
        return ends[0] if ends else None

    def _rank(self) -> None:
        self._ends = [(each.end_s(), client) for client, each in self._transfers.items() if each.rate > 0]
        heapq.heapify(self._ends)

    def state_dict(self) -> dict[str, Any]:
        """All that is under way, for JSON."""
        transfers = [{"client": client, **asdict(each)} for client, each in self._transfers.items()]
        return {"transfers": transfers, "unsettled": self._unsettled}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict` of a link of the same limit."""
        rows = [dict(row) for row in state["transfers"]]
        self._transfers = {row.pop("client"): _Transfer(**row) for row in rows}
        self._unsettled = state["unsettled"]
        self._rank()
