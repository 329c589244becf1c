"""When the server steps, by hand: a simulator of arrivals at given seconds in place of clients that train."""

import math
from collections.abc import Sequence
from typing import Any

import pytest

from fl.clock.clock import Start
from fl.clock.simulator import Arrival
from fl.comm.message import ClientReport
from fl.common.config import Config
from fl.common.errors import ConfigError, RoundError
from fl.rounds.schedules import Arrived, Async, Buffered, Deadline, make_schedule


def _arrival(client: int, time: float = 0.0) -> Arrival:
    return Arrival(time, client, 0, *[0.0] * 6)


def _arrived(client: int) -> Arrived:
    start = Start(0, 0.0, 0, 0, 0, 0, {}, (None, None))
    return Arrived(_arrival(client), start, ClientReport(client, 1, 0.0, 0.0, 1))


class _Rounds:
    """What schedules ask of rounds, `in_flight` included. `due`: client -> second at which it arrives; `up`: who can be
    drawn; `patience_s`: after which second the server gives up on a client."""

    def __init__(self, clients: int = 6, *, patience_s: float | None = None) -> None:
        self.in_flight = self
        self.version, self.count, self.now, self.waits = 7, 0, 0.0, False
        self.starts: dict[int, float] = {}
        self.up = list(range(clients))
        self.due: dict[int, float] = {}
        self.patience_s = patience_s
        self.told: list[Any] = []

    def begin(self, schedule: Any, arrived: Sequence[Arrived] = ()) -> list[int]:
        """Start whom the schedule draws, each before the next is drawn."""
        begun = []
        for client in schedule.draw(self, arrived):
            self.starts[client] = self.now
            self.count += 1
            begun.append(client)
        return begun

    def present(self) -> list[int]:
        return self.up

    def free(self) -> list[int]:
        return [client for client in self.up if client not in self.starts]

    def draw(self, free: Sequence[int], count: int, *, purpose: str, number: int) -> list[int]:
        self.told.append((purpose, number))
        return sorted(free)[:count]

    def patience(self) -> float | None:
        return None if self.patience_s is None else min(self.starts.values(), default=0.0) + self.patience_s

    def overdue(self) -> list[int]:
        return [client for client, begun in self.starts.items() if begun + (self.patience_s or math.inf) <= self.now]

    def next_until(self, until: float | None) -> Arrival | None:
        limit = math.inf if until is None else until
        coming = sorted((self.due.get(client, math.inf), client) for client in self.starts)
        if coming and coming[0][0] <= limit and coming[0][0] < math.inf:
            self.now, client = coming[0]
            del self.starts[client]
            return _arrival(client, self.now)
        self.now = max(self.now, limit) if limit < math.inf else self.now
        return None

    def next(self) -> Arrival | None:
        return self.next_until(self.patience())

    def give_up(self, late: Sequence[int]) -> None:
        self.told += [("give up", list(late))] if late else []
        for client in late:
            del self.starts[client]

    def replace(self, old: Arrived) -> None:
        self.told.append(("replace", old))

    def close(self) -> None:
        self.told.append("close")
        self.starts = {}


def test_free_places_are_filled_at_once() -> None:
    """Three places, one taken: two clients start, drawn one by one, each with the number of starts so far."""
    rounds, schedule = _Rounds(), Buffered(2, 3)
    rounds.starts[0] = 0.0
    assert rounds.begin(schedule) == [1, 2]
    assert rounds.told == [("start", 0), ("start", 1)]
    assert rounds.begin(schedule) == []


def test_nobody_starts_while_others_of_this_moment_arrive() -> None:
    """The places are free, and stay so."""
    rounds, schedule = _Rounds(), Buffered(2, 3)
    rounds.waits = True
    assert rounds.begin(schedule) == []
    assert rounds.told == []


def test_places_stay_free_where_nobody_is_up() -> None:
    """Two are up: they start, and the third place stays free."""
    rounds = _Rounds(2)
    assert rounds.begin(Buffered(2, 3)) == [0, 1]


def test_with_latest_those_that_are_not_in_the_buffer_start_first() -> None:
    """0 and 1 have arrived: 2 and 3 start, then, when all are in the buffer or on the way, 0."""
    rounds, schedule = _Rounds(4), Buffered(4, 3, latest=True)
    assert rounds.begin(schedule, [_arrived(0), _arrived(1)]) == [2, 3, 0]
    assert _Rounds(4).begin(Buffered(4, 3), [_arrived(0), _arrived(1)]) == [0, 1, 2]


def test_with_latest_an_update_replaces_its_client_s_earlier_one() -> None:
    """At the end of the buffer, as it arrived; without `latest` both count."""
    rounds, old, other, new = _Rounds(), _arrived(1), _arrived(2), _arrived(1)
    assert Buffered(3, 3, latest=True).add(rounds, [old, other], new) == [other, new]
    assert rounds.told == [("replace", old)]
    assert rounds.told[0][1] is old
    rounds.told.clear()
    both = Buffered(3, 3).add(rounds, [old, other], new)
    assert [id(each) for each in both] == [id(old), id(other), id(new)]
    assert rounds.told == []


def test_the_server_gives_up_on_who_is_overdue() -> None:
    """Client 0 never comes back: after 5 seconds its place is free, and client 1 arrives at second 6."""
    rounds, schedule = _Rounds(2, patience_s=5.0), Buffered(1, 2)
    rounds.begin(schedule)
    rounds.starts[1] = 3.0
    rounds.due[1] = 6.0
    assert schedule.next(rounds, []) is None
    assert rounds.told[-1] == ("give up", [0])
    assert not schedule.is_over(rounds, [])
    assert schedule.next(rounds, []) == _arrival(1, 6.0)


def _deadline(size: int = 2, count: int = 3, seconds: float = 10.0, *, drops: bool = True) -> Deadline:
    schedule = Deadline(size, count, seconds, drops=drops, sampling="uniform")
    schedule.open()
    return schedule


def test_a_round_draws_its_cohort_once() -> None:
    """Three start, drawn by the number of the round; nobody else while it lasts, and again in the next."""
    rounds, schedule = _Rounds(), _deadline()
    assert rounds.begin(schedule) == [0, 1, 2]
    assert rounds.begin(schedule) == []
    schedule.open()
    assert rounds.begin(schedule) == [3, 4, 5]
    assert rounds.told == [("cohort", 7), ("cohort", 7)]


def test_a_round_ends_at_its_deadline() -> None:
    """Begun at second 100: arrivals at 103 and 110 are in time, one at 110.5 is not."""
    rounds, schedule = _Rounds(), _deadline(size=3)
    rounds.now = 100.0
    rounds.begin(schedule)
    rounds.due = {0: 110.0, 1: 103.0, 2: 110.5}
    arrived = []
    for client in (1, 0):
        arrival = schedule.next(rounds, arrived)
        assert arrival == _arrival(client, rounds.due[client])
        arrived = schedule.add(rounds, arrived, _arrived(client))
    assert schedule.next(rounds, arrived) is None
    assert rounds.now == 110.0
    assert schedule.is_over(rounds, arrived)


def test_a_round_waits_for_its_first_arrival() -> None:
    """However late: at second 500 with a deadline of 10. The second, at 501, is then too late."""
    rounds, schedule = _Rounds(), _deadline()
    rounds.begin(schedule)
    rounds.due = {0: 500.0, 1: 501.0}
    assert schedule.next(rounds, []) == _arrival(0, 500.0)
    assert schedule.next(rounds, [_arrived(0)]) is None
    assert rounds.now == 500.0


def test_a_round_in_which_nobody_comes_back_begins_anew() -> None:
    """Those on the way are closed, and others drawn by the number of starts so far, with the whole deadline before them."""
    rounds, schedule = _Rounds(), _deadline(size=1)
    rounds.begin(schedule)
    assert schedule.next(rounds, []) is None
    assert not schedule.is_over(rounds, [])
    assert rounds.told == [("cohort", 7), "close"]
    rounds.now, rounds.up = 50.0, [4, 5]
    assert rounds.begin(schedule) == [4, 5]
    assert rounds.told[-1] == ("again", 3)
    rounds.due[4] = 59.0
    assert schedule.next(rounds, []) == _arrival(4, 59.0)


def test_a_round_gives_up_on_lost_clients_while_it_waits() -> None:
    """With --timeout 4: client 0 has been away since second -1 and is given up on at 3, client 1 arrives at 3.5."""
    rounds, schedule = _Rounds(2, patience_s=4.0), _deadline(size=2, drops=False)
    rounds.starts[0] = -1.0
    rounds.begin(schedule)
    rounds.due[1] = 3.5
    assert schedule.next(rounds, []) == _arrival(1, 3.5)
    assert rounds.told[-1] == ("give up", [0])
    assert schedule.next(rounds, [_arrived(1)]) is None, "nobody is on the way any more"


def test_nobody_is_up() -> None:
    """One sentence with the second and the option."""
    rounds = _Rounds(0)
    with pytest.raises(RoundError, match=r"no client is up at second 0, or later: --sampling uniform"):
        rounds.begin(_deadline())


def test_who_is_still_on_the_way_is_not_drawn_again() -> None:
    """Carried from the round before: 0 is at work, so 1, 2 and 3 start."""
    rounds = _Rounds()
    rounds.starts[0] = -3.0
    assert rounds.begin(_deadline(drops=False)) == [1, 2, 3]


@pytest.mark.parametrize(
    ("options", "kind", "expected"),
    [
        ({"mode": "buffered:3"}, Buffered, {"size": 3, "drops": False, "mixes_models": False, "alpha": 1.0}),
        ({"mode": "async:0.4"}, Async, {"size": 1, "drops": False, "mixes_models": True, "alpha": 0.4}),
        ({"deadline": 9.0}, Deadline, {"size": 4, "drops": True, "mixes_models": False}),
        ({"deadline": 9.0, "late": "carry"}, Deadline, {"size": 4, "drops": False}),
        ({"over_select": 1.6}, Deadline, {"size": 4, "drops": True}),
    ],
)
def test_the_options_say_which(options: dict[str, Any], kind: type, expected: dict[str, Any]) -> None:
    """Of 10 clients 4 places or arrivals; 1.6 times as many, that is 7, start."""
    schedule = make_schedule(Config(clients=10, clients_per_round=4, profiles="good", **options))
    assert type(schedule) is kind
    assert {name: getattr(schedule, name) for name in expected} == expected
    rounds = _Rounds(10)
    schedule.open()
    assert len(rounds.begin(schedule)) == (7 if "over_select" in options else 4)


@pytest.mark.parametrize(
    ("options", "named"), [({"deadline": 9.0}, "--deadline 9"), ({"over_select": 2.0}, "--over-select 2")]
)
def test_nobody_is_late_where_nothing_takes_time(options: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=f"^{named} needs clients that differ in time: --profiles must not be none$"):
        make_schedule(Config(clients=10, clients_per_round=4, **options))
