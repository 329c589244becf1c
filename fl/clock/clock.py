"""The virtual time of synchronous rounds: a round takes as long as its slowest client."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .links import DOWN, jitter, transfer_s
from .profiles import Profile
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
