"""A federation on a virtual clock: clients download, compute, upload and arrive; nothing here knows of training."""

import heapq
import math
from array import array
from collections.abc import Callable
from typing import Any, NamedTuple

from .bandwidth import FairShareLink

Link = Callable[[int, str, int, int], float]
"""link(client, "down" or "up", how many starts of the client came before, bytes) -> seconds, always the same ones."""

# A client's row: phase, time of its next event (_NONE: a `FairShareLink` knows it, or nobody), starts so far, bytes
# to download, seconds to compute, and when its download began, its download ended and its compute ends.
_PHASE, _DUE, _STARTS, _SIZE, _WORK, _BEGAN, _READY, _DONE = range(8)
_WIDTH = 8
_IDLE, _WAITS, _DOWNLOADS, _COMPUTES, _UPLOADS, _LOST = range(6)
_NONE = -1.0


class Arrival(NamedTuple):
    """A client's update is at the server, at `time`. All times are virtual seconds since the beginning of the run."""

    time: float
    client: int
    number: int  # how many starts of this client came before
    download_begin_s: float
    download_end_s: float
    compute_begin_s: float
    compute_end_s: float
    upload_begin_s: float
    upload_end_s: float


class Simulator:
    """Arrivals of clients, in order of (time, client id).

    A client that starts downloads, computes, and uploads; each begins at the moment the one before ends. Without limits
    transfers are independent, an event costs O(log n) for n clients in flight. Under a limit concurrent transfers share
    it max-min fairly, none faster than its own link (`fl/clock/bandwidth.py`), and an event costs O(n log n); a transfer
    that the limit never slows ends at the same time, to the bit, as without it.

    Clients are numbered from 0; memory goes with the largest number. The order of calls is a function of the arguments
    alone; the host's clock is never read.
    """

    def __init__(
        self,
        link: Link,
        upload_bytes: Callable[[int], int],
        *,
        up_limit: float | None = None,
        down_limit: float | None = None,
    ) -> None:
        """Begin at second 0 with nobody in flight.

        `upload_bytes(client)` is called at the moment the client's compute ends, never earlier, so that it may train the
        client then. If it raises, nothing has changed, and it will be asked again. `up_limit` is what the server
        receives of all clients together, `down_limit` what it sends them, bytes/s; None is no limit. ConfigError.
        """
        self._link = link
        self._upload_bytes = upload_bytes
        self._up = None if up_limit is None else FairShareLink(up_limit, "up_limit")
        self._down = None if down_limit is None else FairShareLink(down_limit, "down_limit")
        self._shares = [share for share in (self._up, self._down) if share is not None]
        self._now = 0.0
        # A row of numbers for each client, not an object: with 10,000 clients half of an event is waiting for memory, over
        # which an object and its numbers are scattered. Measured with objects: twice the time of 100 clients, not 1.5
        # times, and twice the memory.
        self._rows = array("d")
        # (time, client); an entry counts only while it is its client's _DUE, so nothing need be searched and removed.
        self._heap: list[tuple[float, int]] = []

    @property
    def now(self) -> float:
        """Virtual seconds."""
        return self._now

    @property
    def in_flight(self) -> list[int]:
        """Clients that started, or will, and have not arrived, those lost too: ascending, collected in O(clients)."""
        return [client for client, phase in enumerate(self._rows[_PHASE::_WIDTH]) if phase != _IDLE]

    def number(self, client: int) -> int:
        """How many starts of `client` came before its latest; -1 if it never started."""
        return int(self._rows[self._row(client) + _STARTS]) - 1

    def uploads(self, client: int) -> bool:
        """Whether `client` has begun to upload and has not arrived."""
        return self._rows[self._row(client)] == _UPLOADS

    def start(self, client: int, at: float, download_bytes: int, compute_s: float) -> None:
        """A client starts at second `at`, now or later: `download_bytes` first, then `compute_s` seconds of work.

        ValueError if it is in flight already, if `at` is past, or if a number is negative or not finite.
        """
        client, at, download_bytes = int(client), float(at), int(download_bytes)
        row, rows = self._row(client), self._rows
        if rows[row] != _IDLE:
            raise ValueError(f"client {client} cannot start at {at} s: it is in flight")
        if not self._now <= at < math.inf:
            raise ValueError(f"client {client} cannot start at {at} s: it is {self._now} s")
        if download_bytes < 0 or not 0 <= compute_s < math.inf:
            raise ValueError(f"client {client} cannot download {download_bytes} bytes and compute for {compute_s} s")
        unlimited = self._down is None or download_bytes == 0
        own_s = self._own_s(client, "down", int(rows[row + _STARTS]), download_bytes) if unlimited else 0.0
        rows[row + _STARTS] += 1
        rows[row + _SIZE], rows[row + _WORK], rows[row + _BEGAN] = download_bytes, compute_s, at
        if unlimited:
            self._compute(client, row, at + own_s)
        else:
            self._schedule(client, row, _WAITS, at)

    def next_arrival(self, until: float | None = None) -> Arrival | None:
        """Move on to the next arrival and return it; None if nobody will arrive.

        With `until`, None also if nobody arrives by that second (an arrival at it counts): the clock then stands there,
        and no client whose compute ends later has been asked for its bytes.
        """
        while (event := self._earliest()) is not None and (until is None or event[0] <= until):
            arrival = self._step(*event)
            if arrival is not None:
                return arrival
        if until is not None:
            self._now = max(self._now, float(until))
        return None

    def never(self, client: int) -> None:
        """A client does not come back: it stays in flight for ever, and nothing waits for it.

        Started or not; its transfer stops and its upload is not asked for.
        """
        row = self._row(client)
        self._withdraw(client, row)
        self._rows[row] = _LOST

    def abandon(self, client: int) -> None:
        """The server gives up on a client: if it is in flight, it no longer is and may start anew."""
        row = self._row(client)
        self._withdraw(client, row)
        self._rows[row] = _IDLE

    def _row(self, client: int) -> int:
        """Where the client's row begins; there is one from now on."""
        if client < 0:
            raise ValueError(f"clients are numbered from 0, {client} is none")
        row = client * _WIDTH
        missing = row + _WIDTH - len(self._rows)
        if missing > 0:
            self._rows.extend([_IDLE, _NONE, *[0] * (_WIDTH - 2)] * (missing // _WIDTH))
        return row

    def _earliest(self) -> tuple[float, int] | None:
        """The next event; rates are computed anew only when all that happens at this moment has happened."""
        event = self._peek()
        if self._shares and (event is None or event[0] > self._now):
            for share in self._shares:
                share.settle(self._now)
            event = self._peek()
        return event

    def _peek(self) -> tuple[float, int] | None:
        heap, rows = self._heap, self._rows
        while heap and rows[heap[0][1] * _WIDTH + _DUE] != heap[0][0]:
            heapq.heappop(heap)
        event = heap[0] if heap else None
        for share in self._shares:
            end = share.earliest()
            if end is not None and (event is None or end < event):
                event = end
        return event

    def _step(self, time: float, client: int) -> Arrival | None:
        """One event of one client; the arrival if it is that."""
        row, rows = client * _WIDTH, self._rows
        phase = rows[row]
        if phase == _COMPUTES:
            self._transfer(client, row, _UPLOADS, self._ask(time, client), self._up)
            return None
        self._now = time
        if phase == _WAITS:
            self._transfer(client, row, _DOWNLOADS, int(rows[row + _SIZE]), self._down)
            return None
        if self._shares:
            self._withdraw(client, row)
        if phase == _DOWNLOADS:
            self._compute(client, row, time)
            return None
        rows[row], rows[row + _DUE] = _IDLE, _NONE
        began, ready, done = rows[row + _BEGAN : row + _DONE + 1]
        return Arrival(time, client, int(rows[row + _STARTS]) - 1, began, ready, ready, done, done, time)

    def _ask(self, time: float, client: int) -> int:
        """What the client will upload; the clock shows the end of its compute while it is asked."""
        before, self._now = self._now, time
        try:
            return int(self._upload_bytes(client))
        except BaseException:
            self._now = before
            raise

    def _compute(self, client: int, row: int, begin: float) -> None:
        done = begin + self._rows[row + _WORK]
        self._rows[row + _READY], self._rows[row + _DONE] = begin, done
        self._schedule(client, row, _COMPUTES, done)

    def _transfer(self, client: int, row: int, phase: int, size: int, share: FairShareLink | None) -> None:
        direction = "down" if phase == _DOWNLOADS else "up"
        own_s = self._own_s(client, direction, int(self._rows[row + _STARTS]) - 1, size)
        if share is None or size == 0:
            self._schedule(client, row, phase, self._now + own_s)
        else:
            share.begin(client, size, own_s)
            self._rows[row], self._rows[row + _DUE] = phase, _NONE

    def _own_s(self, client: int, direction: str, number: int, size: int) -> float:
        seconds = float(self._link(client, direction, number, size)) if size >= 0 else math.nan
        if not 0 <= seconds < math.inf:
            raise ValueError(f"client {client}'s link cannot take {seconds} s for {size} bytes {direction}")
        return seconds

    def _schedule(self, client: int, row: int, phase: int, due: float) -> None:
        self._rows[row], self._rows[row + _DUE] = phase, due
        heapq.heappush(self._heap, (due, client))

    def _withdraw(self, client: int, row: int) -> None:
        """The client's event or transfer is over, or is not to come."""
        share = {_DOWNLOADS: self._down, _UPLOADS: self._up}.get(int(self._rows[row]))
        if share is not None and self._rows[row + _DUE] == _NONE:
            share.end(client)
        self._rows[row + _DUE] = _NONE

    def snapshot(self) -> Any:
        """All of it but the callables and limits, for `restore`: a copy."""
        return self._now, self._rows[:], list(self._heap), [share.state_dict() for share in self._shares]

    def restore(self, before: Any) -> None:
        """Be again as at a `snapshot`."""
        self._now, rows, heap, shares = before
        self._rows, self._heap = rows[:], list(heap)
        for share, own in zip(self._shares, shares, strict=True):
            share.load_state_dict(own)

    def state_dict(self) -> dict[str, Any]:
        """All of it but the callables and limits, for JSON: a simulator that loads it goes on to the same bits."""
        return {
            "now": self._now,
            "rows": self._rows.tolist(),
            "up": None if self._up is None else self._up.state_dict(),
            "down": None if self._down is None else self._down.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a `state_dict`; ValueError if that has a limit which this simulator has not, or the reverse."""
        for share, name in ((self._up, "up"), (self._down, "down")):
            if (share is None) != (state[name] is None):
                raise ValueError(f"{name}_limit must be set exactly if it was when the state was saved")
            if share is not None:
                share.load_state_dict(state[name])
        self._now = state["now"]
        self._rows = array("d", state["rows"])
        self._heap = [(due, client) for client, due in enumerate(self._rows[_DUE::_WIDTH]) if due != _NONE]
        heapq.heapify(self._heap)
