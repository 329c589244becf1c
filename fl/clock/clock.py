"""Virtual time: the clock of a run, of rounds that wait for all of their clients, and of clients that come and go."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from fl.common.config import Config
from fl.common.errors import RoundError
from fl.common.seeds import numpy_generator

from .links import DOWN, jitter, transfer_s
from .profiles import Profile, profiles
from .simulator import Arrival, Simulator

_IN_VAIN = 100  # times the number of clients


def make_link(known: Sequence[Profile], seed: int) -> Any:
    """The simulator's `link` of clients with these profiles."""

    def link(client: int, direction: str, number: int, size: int) -> float:
        profile = known[client]
        bandwidth = profile.down_bytes if direction == DOWN else profile.up_bytes
        return transfer_s(size, bandwidth, profile, jitter(profile, seed, client, number, direction))

    return link


class VirtualClock(Simulator):
    """The simulator of clients with profiles: virtual seconds since the beginning of a run. Evaluation takes none."""

    def __init__(
        self,
        known: Sequence[Profile],
        seed: int,
        upload_bytes: Callable[[int], int],
        *,
        up_limit: float | None = None,
        down_limit: float | None = None,
    ) -> None:
        super().__init__(make_link(known, seed), upload_bytes, up_limit=up_limit, down_limit=down_limit)
        self._profiles = known

    @classmethod
    def of(cls, config: Config, upload_bytes: Callable[[int], int]) -> "VirtualClock":
        """The clock of a run's options, whose number of clients is known."""
        assert config.clients is not None
        known = profiles(config.profiles, config.clients, config.seed)
        limits = {"up_limit": config.server_up_limit or None, "down_limit": config.server_down_limit or None}
        return cls(known, config.seed, upload_bytes, **limits)

    def begin(self, client: int, at: float, download_bytes: int, flops: float) -> None:
        """A client starts at second `at`: it downloads `download_bytes`, then trains for `flops` operations."""
        self.start(client, at, download_bytes, self.compute_s(client, flops))

    def compute_s(self, client: int, flops: float) -> float:
        """Seconds in which a client does so many operations."""
        return flops / self._profiles[client].compute_flops


@dataclass(frozen=True)
class Work:
    """What a client does in a round: bytes down, bytes up, and floating-point operations of its training."""

    client: int
    download_bytes: int
    upload_bytes: int
    flops: float


class RoundClock:
    """The clock of synchronous rounds, each of which ends with the last arrival.

    With `overlap` a client transfers while it trains: what it made in the round before goes up, and what that round came to
    down. A round then ends when both are done. The bytes of the round itself stand for those of the one before.
    """

    def __init__(
        self,
        make_clock: Callable[[Callable[[int], int]], VirtualClock],
        wait_s: Callable[[int, float], float] = lambda client, now: 0.0,
        *,
        overlap: bool = False,
    ) -> None:
        """`make_clock(upload_bytes)` makes the clock. `wait_s(client, now)`: seconds until a client can start."""
        self._wait_s = wait_s
        self._overlap = overlap
        self._uploads: dict[int, int] = {}
        self.clock = make_clock(self._uploads.__getitem__)

    @property
    def now(self) -> float:
        """When the last round ended."""
        return self.clock.now

    def round(self, works: Sequence[Work]) -> list[dict[str, float]]:
        """A round of these clients begins now: for each, in this order, the columns start_s, ready_s (it has downloaded),
        sent_s (it begins to upload) and arrive_s, in virtual seconds."""
        begins, trained = self.now, {}
        for work in works:
            self._uploads[work.client] = work.upload_bytes
            starts = begins + self._wait_s(work.client, begins)
            trained[work.client] = starts + self.clock.compute_s(work.client, work.flops)
            self.clock.begin(work.client, starts, work.download_bytes, 0.0 if self._overlap else work.flops)
        arrivals: dict[int, Arrival] = {}
        while (arrival := self.clock.next_arrival()) is not None:
            arrivals[arrival.client] = arrival
        found = [columns(arrivals[work.client]) for work in works]
        if self._overlap and found:
            for each, work in zip(found, works, strict=True):
                each["arrive_s"] = max(each["arrive_s"], trained[work.client])
            self.clock.next_arrival(max(each["arrive_s"] for each in found))  # nobody arrives: the clock moves on
        return found


def columns(arrival: Arrival) -> dict[str, float]:
    """The times of an update as clients.csv has them."""
    return {
        "start_s": arrival.download_begin_s,
        "ready_s": arrival.compute_begin_s,
        "sent_s": arrival.upload_begin_s,
        "arrive_s": arrival.time,
    }


class Start(NamedTuple):
    """A client's start: its version of the model, its time, its download, the coordinates it holds, the cost of its
    training (`flops`: None where it is not known).

    `noted`: the ledger's entry of the client before (`Ledger.noted`).
    """

    version: int
    begun_s: float
    download_bytes: int
    held: int
    flops: int | None
    memory_bytes: int
    columns: dict[str, float]  # of clients.csv
    noted: Sequence[Any]


class InFlight:
    """The clients at work: when each started, which arrives next, which are overdue. The same on every rank.

    `starts`: of the clients at work; `count`: of all starts so far.
    """

    def __init__(self, config: Config, clock: VirtualClock) -> None:
        assert config.clients is not None
        self._seed, self._lost = config.seed, config.lost
        self._timeout = config.timeout or math.inf
        self.clock = clock
        self.starts: dict[int, Start] = {}
        self.count = 0
        self._ready: list[Arrival] = []  # at this moment, and not yet taken
        self._in_vain = 0  # clients that were given up on since the last arrival
        self._patient = _IN_VAIN * config.clients
        self.commit()

    @property
    def now(self) -> float:
        """Virtual seconds."""
        return self.clock.now

    @property
    def waits(self) -> bool:
        """Whether more arrivals of this moment are still to be taken."""
        return bool(self._ready)

    def start(self, client: int, start: Start) -> bool:
        """A client starts; False if it will never come back, which only `--lost` knows and the server does not."""
        self.count += 1
        self.starts[client] = start
        self.clock.begin(client, start.begun_s, start.download_bytes, start.flops or 0)
        lost = self._lost and numpy_generator(self._seed, "lost", client, self.count).random() < self._lost
        if lost:
            self.clock.never(client)
        return not lost

    def number(self, client: int) -> int:
        """The number of a client's starts before its present one."""
        return self.clock.number(client)

    def next(self) -> Arrival | None:
        """The next arrival. All of a moment come, in the order of the clients' numbers, before anyone may start again.

        None if before that the time is up for somebody, who is then `overdue`, or if the clock says that nobody has arrived
        for a while. RoundError if nobody is at work.
        """
        if not self._ready:
            first = self.next_until(self.patience())
            if first is None:
                if not self.starts:
                    raise RoundError("no client is on its way any more, and the server still waits")
                return None
            self._ready = [first]
            while (another := self.next_until(first.time)) is not None:
                self._ready.append(another)
        return self._ready.pop(0)

    def next_until(self, until: float | None) -> Arrival | None:
        """The next arrival by second `until` (`Simulator.next_arrival`)."""
        arrival = self.clock.next_arrival(until)
        if arrival is not None:
            self._in_vain = 0
        return arrival

    def patience(self) -> float | None:
        """When the server gives up on the client that has been at work longest; None: never."""
        ends = min((start.begun_s for start in self.starts.values()), default=math.inf) + self._timeout
        return ends if ends < math.inf else None

    def overdue(self) -> list[int]:
        """Clients for whom the time is up."""
        return [client for client, start in self.starts.items() if start.begun_s + self._timeout <= self.now]

    def uploads(self, client: int) -> bool:
        """Whether a client has begun to upload; its update may have arrived, and not been taken."""
        return self.clock.uploads(client) or any(arrival.client == client for arrival in self._ready)

    def give_up(self, client: int) -> None:
        """The server no longer waits for a client.

        RoundError after many of these without any arrival: nobody will arrive.
        """
        self._in_vain += 1
        if self._in_vain > self._patient:
            raise RoundError(
                f"the server has given up on {self._in_vain - 1} clients in a row, and none arrived: --timeout "
                f"{self._timeout:g} is too short for their --profiles, or --lost {self._lost:g} too high"
            )
        self.clock.abandon(client)
        del self.starts[client]

    def commit(self) -> None:
        """The round has succeeded."""
        own = dict(self.starts), self.count, list(self._ready), self._in_vain
        self._before = self.clock.snapshot(), own

    def rollback(self) -> None:
        """The round has failed: everyone is where they were at the last `commit`."""
        clock, (starts, self.count, ready, self._in_vain) = self._before
        self.clock.restore(clock)
        self.starts, self._ready = dict(starts), list(ready)

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on, ready for JSON."""
        return {
            "clock": self.clock.state_dict(),
            "count": self.count,
            "starts": [[client, *start] for client, start in sorted(self.starts.items())],
            "ready": [list(arrival) for arrival in self._ready],
            "in_vain": self._in_vain,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.clock.load_state_dict(state["clock"])
        self.count = state["count"]
        self.starts = {client: Start(*values) for client, *values in state["starts"]}
        self._ready = [Arrival(*values) for values in state["ready"]]
        self._in_vain = state["in_vain"]
        self.commit()
