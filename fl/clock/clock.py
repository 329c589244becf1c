"""Virtual time: of rounds that wait for their slowest client, and of clients that come and go as they are ready."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from fl.common.config import Config
from fl.common.errors import RoundError
from fl.common.seeds import numpy_generator

from .links import DOWN, jitter, transfer_s
from .profiles import Profile, profiles
from .simulator import Arrival, Simulator


@dataclass(frozen=True)
class Work:
    """What a client does in a round: bytes down, bytes up, and floating-point operations of its training."""

    client: int
    download_bytes: int
    upload_bytes: int
    flops: float


def make_link(known: Sequence[Profile], seed: int) -> Any:
    """The simulator's `link` of clients with these profiles."""

    def link(client: int, direction: str, number: int, size: int) -> float:
        profile = known[client]
        bandwidth = profile.down_bytes if direction == DOWN else profile.up_bytes
        return transfer_s(size, bandwidth, profile, jitter(profile, seed, client, number, direction))

    return link


class RoundClock:
    """Virtual seconds since the beginning of a run of synchronous rounds; evaluation takes none."""

    def __init__(
        self,
        known: Sequence[Profile],
        seed: int,
        *,
        up_limit: float | None = None,
        down_limit: float | None = None,
        wait_s: Callable[[int, float], float] = lambda client, now: 0.0,
    ) -> None:
        """`wait_s(client, now)`: virtual seconds until a client can start."""
        self._profiles = known
        self._wait_s = wait_s
        self._uploads: dict[int, int] = {}
        link = make_link(known, seed)
        self._simulator = Simulator(link, self._uploads.__getitem__, up_limit=up_limit, down_limit=down_limit)

    @property
    def now(self) -> float:
        """When the last round ended."""
        return self._simulator.now

    def round(self, works: Sequence[Work]) -> list[dict[str, float]]:
        """A round of these clients begins now and ends with the last arrival: for each, in this order, the columns
        start_s, ready_s (it has downloaded), sent_s (it begins to upload) and arrive_s, in virtual seconds."""
        begins = self.now
        for work in works:
            self._uploads[work.client] = work.upload_bytes
            compute_s = work.flops / self._profiles[work.client].compute_flops
            starts = begins + self._wait_s(work.client, begins)
            self._simulator.start(work.client, starts, work.download_bytes, compute_s)
        arrivals: dict[int, Arrival] = {}
        while (arrival := self._simulator.next_arrival()) is not None:
            arrivals[arrival.client] = arrival
        return [columns(arrivals[work.client]) for work in works]

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on, ready for JSON."""
        return {"simulator": self._simulator.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self._simulator.load_state_dict(state["simulator"])


def columns(arrival: Arrival) -> dict[str, float]:
    """The times of an update as clients.csv has them."""
    return {
        "start_s": arrival.download_begin_s,
        "ready_s": arrival.compute_begin_s,
        "sent_s": arrival.upload_begin_s,
        "arrive_s": arrival.time,
    }


_IN_VAIN = 100  # times the number of clients


class Job(NamedTuple):
    """A client at work: the version that it started from, when, what it downloaded, the coordinates it holds, the cost.

    `noted`: what the ledger had noted of it before.
    """

    begun: int
    begun_s: float
    download_bytes: int
    held: int
    flops: int
    memory_bytes: int
    shares: dict[str, float]  # columns of clients.csv
    noted: Sequence[Any]


class AtWork:
    """The same on every rank; all of it goes into a checkpoint.

    `works`: of the clients at work; `starts`: of all clients so far.
    """

    def __init__(self, config: Config, upload_bytes: Callable[[int], int]) -> None:
        """`upload_bytes`: as in `Simulator`."""
        assert config.clients is not None
        self._seed, self._lost = config.seed, config.lost
        self._timeout = config.timeout or math.inf
        self._profiles = profiles(config.profiles, config.clients, config.seed)
        limits = {"up_limit": config.server_up_limit or None, "down_limit": config.server_down_limit or None}
        self.simulator = Simulator(make_link(self._profiles, config.seed), upload_bytes, **limits)
        self.works: dict[int, Job] = {}
        self.starts = 0
        self._ready: list[Arrival] = []  # at this moment, and not yet taken
        self._in_vain = 0  # clients that were given up on since the last arrival
        self._patient = _IN_VAIN * config.clients

    @property
    def now(self) -> float:
        """Virtual seconds."""
        return self.simulator.now

    @property
    def waits(self) -> bool:
        """Whether more arrivals of this moment are still to be taken."""
        return bool(self._ready)

    def start(self, client: int, work: Job) -> bool:
        """A client starts; False if it will never come back, which only `--lost` knows and the server does not."""
        self.starts += 1
        self.works[client] = work
        compute_s = work.flops / self._profiles[client].compute_flops
        self.simulator.start(client, work.begun_s, work.download_bytes, compute_s)
        lost = self._lost and numpy_generator(self._seed, "lost", client, self.starts).random() < self._lost
        if lost:
            self.simulator.never(client)
        return not lost

    def number(self, client: int) -> int:
        """How many starts of a client came before its present one."""
        return self.simulator.number(client)

    def next(self) -> Arrival | None:
        """The next arrival. All of a moment come, in the order of the clients' numbers, before anyone may start again.

        None if before that the time is up for somebody, who is then `overdue`. RoundError if nobody will arrive.
        """
        if not self._ready:
            first = self.next_until(self.patience())
            if first is None:
                if not self.overdue():
                    raise RoundError("no client is on its way any more, and the server still waits")
                return None
            self._ready = [first]
            while (another := self.next_until(first.time)) is not None:
                self._ready.append(another)
        return self._ready.pop(0)

    def next_until(self, until: float | None) -> Arrival | None:
        """As `Simulator.next_arrival`."""
        arrival = self.simulator.next_arrival(until)
        if arrival is not None:
            self._in_vain = 0
        return arrival

    def patience(self) -> float | None:
        """When the server gives up on the client that has been at work longest; None: never."""
        ends = min((work.begun_s for work in self.works.values()), default=math.inf) + self._timeout
        return ends if ends < math.inf else None

    def overdue(self) -> list[int]:
        """Clients for whom the time is up."""
        return [client for client, work in self.works.items() if work.begun_s + self._timeout <= self.now]

    def uploads(self, client: int) -> bool:
        """Whether a client has begun to upload; its update may have arrived, and not been taken."""
        return self.simulator.uploads(client) or any(arrival.client == client for arrival in self._ready)

    def give_up(self, client: int) -> None:
        """The server no longer waits for a client.

        RoundError when it has given up so often, and nobody arrived, that nobody will.
        """
        self._in_vain += 1
        if self._in_vain > self._patient:
            raise RoundError(
                f"the server has given up on {self._in_vain - 1} clients in a row, and none arrived: --timeout "
                f"{self._timeout:g} is too short for their --profiles, or --lost {self._lost:g} too high"
            )
        self.simulator.abandon(client)
        del self.works[client]

    def state_dict(self) -> dict[str, Any]:
        """Everything needed to go on, ready for JSON."""
        return {
            "simulator": self.simulator.state_dict(),
            "starts": self.starts,
            "works": [[client, *work] for client, work in sorted(self.works.items())],
            "ready": [list(arrival) for arrival in self._ready],
            "in_vain": self._in_vain,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from `state_dict()`."""
        self.simulator.load_state_dict(state["simulator"])
        self.starts = state["starts"]
        self.works = {client: Job(*values) for client, *values in state["works"]}
        self._ready = [Arrival(*values) for values in state["ready"]]
        self._in_vain = state["in_vain"]
