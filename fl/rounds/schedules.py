"""When the server steps, and what becomes of late clients: the modes of rounds in virtual time.

buffered:K      a step for every K arrivals (FedBuff, Nguyen et al. 2022, Algorithm 1)
async:ALPHA     a step for every arrival, which mixes the client's model into the global one: x <- (1 - a) x + a x_client,
                a = ALPHA times the weight of its staleness (FedAsync, Xie, Koyejo and Gupta 2019, Algorithm 1)
sync, with --deadline or --over-select: a step when as many have arrived as were asked for, or at the deadline
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from fl.clock.clock import Start
from fl.clock.simulator import Arrival
from fl.comm.message import ClientReport
from fl.common.config import Config
from fl.common.errors import ConfigError, RoundError
from fl.common.mode import mode_of

from .sampling import asked

if TYPE_CHECKING:
    from .timed import TimedRounds


@dataclass(frozen=True)
class Arrived:
    """An update that has arrived."""

    arrival: Arrival
    start: Start
    report: ClientReport


class Schedule(ABC):
    """The part of a round in virtual time in which the modes differ."""

    size: int
    """How many arrivals make a step."""
    drops = False
    """Whether a client that is late for a step is dropped, as if it had not been asked. Otherwise it arrives in a later
    step."""
    mixes_models = False
    """Whether the server mixes in clients' models instead of their updates."""
    alpha = 1.0
    """How far, in (0, 1], the server's buffers move towards a client's."""

    def open(self) -> None:
        """A round begins."""

    @abstractmethod
    def draw(self, rounds: "TimedRounds", arrived: Sequence[Arrived]) -> Iterator[int]:
        """The clients that start now, each drawn when the one before has started."""

    @abstractmethod
    def next(self, rounds: "TimedRounds", arrived: Sequence[Arrived]) -> Arrival | None:
        """The next arrival; None if the server gave up on somebody, or has waited long enough."""

    def is_over(self, rounds: "TimedRounds", arrived: Sequence[Arrived]) -> bool:
        """Asked when `next` has returned None: whether the server steps on the updates that have arrived."""
        return False

    def add(self, rounds: "TimedRounds", arrived: list[Arrived], new: Arrived) -> list[Arrived]:
        """The arrived updates with another one."""
        return [*arrived, new]


class Buffered(Schedule):
    """Free places are filled at once with clients that are not in flight. With `latest` a client's update replaces its
    earlier one in the buffer, and clients without an update there start first."""

    def __init__(self, size: int, places: int, *, latest: bool = False) -> None:
        self.size = size
        self._places = places
        self._latest = latest

    def draw(self, rounds: "TimedRounds", arrived: Sequence[Arrived]) -> Iterator[int]:
        flight = rounds.in_flight
        if self._latest and len(rounds.present()) < self.size:
            raise RoundError(f"a buffer of {self.size} clients can no longer be filled: {rounds.left_out} are left out")
        while not flight.waits and len(flight.starts) < self._places:
            free = rounds.free()
            if self._latest:
                taken = {each.arrival.client for each in arrived}
                free = [client for client in free if client not in taken] or free
            drawn = rounds.draw(free, 1, purpose="start", number=flight.count)
            if not drawn:
                break  # nobody is up any more
            yield from drawn

    def next(self, rounds: "TimedRounds", arrived: Sequence[Arrived]) -> Arrival | None:
        arrival = rounds.in_flight.next()
        if arrival is None:
            rounds.give_up(rounds.in_flight.overdue())
        return arrival

    def add(self, rounds: "TimedRounds", arrived: list[Arrived], new: Arrived) -> list[Arrived]:
        client = new.arrival.client
        for old in arrived if self._latest else []:
            if old.arrival.client == client:
                rounds.replace(old)
                return [*(each for each in arrived if each is not old), new]
        return [*arrived, new]


class Async(Buffered):
    """A step for every arrival."""

    mixes_models = True

    def __init__(self, alpha: float, places: int) -> None:
        super().__init__(1, places)
        self.alpha = alpha


class Deadline(Schedule):
    """A round ends when `size` clients have arrived, at its deadline, or when nobody is on the way; `count` are started.

    A late client arrives in a later round and counts by its age, as in PR-FL's and FedFix's time windows; until then it
    is not asked again. If the schedule `drops`, its update is lost and its error feedback stays as it was, as if it had
    not been asked. A round waits for its first arrival, however late that is; if nobody comes back, it begins anew.
    """

    def __init__(self, size: int, count: int, seconds: float, *, drops: bool, sampling: str) -> None:
        self.size = size
        self.drops = drops
        self._count = count
        self._seconds = seconds
        self._sampling = sampling
        self._until: float | None = None
        self._attempts = 0

    def open(self) -> None:
        self._until, self._attempts = None, 0

    def draw(self, rounds: "TimedRounds", arrived: Sequence[Arrived]) -> Iterator[int]:
        if self._until is not None:
            return
        flight, again = rounds.in_flight, self._attempts > 0
        begins = flight.now
        purpose, number = ("again", flight.count) if again else ("cohort", rounds.version)
        yield from rounds.draw(rounds.free(), self._count, purpose=purpose, number=number)
        if not flight.starts:
            raise RoundError(f"no client is up at second {begins:g}, or later: --sampling {self._sampling}")
        self._until = begins + self._seconds
        self._attempts += 1

    def next(self, rounds: "TimedRounds", arrived: Sequence[Arrived]) -> Arrival | None:
        """The next arrival by the deadline, or, if it is the first, however late; None if there is none."""
        flight, until, first = rounds.in_flight, self._until, not arrived
        assert until is not None
        while flight.starts:
            waits = math.inf if first and flight.now >= until else until
            limit = min(waits, flight.patience() or math.inf)
            arrival = flight.next_until(limit if limit < math.inf else None)
            if arrival is not None:
                return arrival
            late = flight.overdue()
            rounds.give_up(late)
            if not late and not (first and waits < math.inf):
                return None
        return None

    def is_over(self, rounds: "TimedRounds", arrived: Sequence[Arrived]) -> bool:
        if arrived:
            return True
        rounds.close()
        self._until = None
        return False


def make_schedule(config: Config) -> Schedule:
    """The schedule that the options ask for, whose numbers of clients are known; ConfigError where nothing takes time."""
    assert config.clients_per_round is not None
    places, mode = config.clients_per_round, mode_of(config)
    if mode.name == "buffered":
        return Buffered(mode.buffer_size, places, latest=mode.latest)
    if mode.name == "async":
        return Async(mode.alpha, places)
    if config.profiles == "none":
        early = f"--deadline {config.deadline:g}" if config.deadline else f"--over-select {config.over_select:g}"
        raise ConfigError(f"{early} needs clients that differ in time: --profiles must not be none")
    seconds = config.deadline or math.inf
    return Deadline(places, asked(config), seconds, drops=mode.drops_late, sampling=config.sampling)
