"""The order and times of events, by hand; saving in the middle; memory."""

import json
from array import array

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fl.clock.simulator import Arrival, Simulator


def second_a_byte(client: int, direction: str, number: int, size: int) -> float:
    """A link of 1 byte/s."""
    return float(size)


def arrive(simulator: Simulator) -> Arrival:
    """The next arrival, which there is."""
    arrival = simulator.next_arrival()
    assert arrival is not None
    return arrival


def test_six_events_of_four_clients_by_hand():
    """Links of 1 byte/s; (download bytes, compute seconds, upload bytes); all but client 3, which starts at 6 s, start
    at 0 and again whenever they arrive:

        client 0: (1, 2, 1)    fetches 0-1, computes 1-3, sends 3-4, arrives at 4; again at 8
        client 1: (1, 4, 3)    0-1, 1-5, 5-8: arrives at 8
        client 2: (1, 1.5, 0)  0-1, 1-2.5, at once: arrives at 2.5; again at 5, 7.5
        client 3: (0, 0.5, 1)  starts at 6: 6-6, 6-6.5, 6.5-7.5: arrives at 7.5

    In order of (time, client): 2 at 2.5, 0 at 4, 2 at 5, 2 at 7.5 before 3 at 7.5, 0 at 8 before 1 at 8. Uploads are asked
    for when computing ends: 2 (2.5), 0 (3), 1 (5) before 2 (5), 3 (6.5), 0 (7), 2 (7.5).
    """
    work = {0: (1, 2.0, 1), 1: (1, 4.0, 3), 2: (1, 1.5, 0), 3: (0, 0.5, 1)}
    asked: list[tuple[float, int]] = []

    def upload_bytes(client: int) -> int:
        asked.append((simulator.now, client))
        return work[client][2]

    simulator = Simulator(second_a_byte, upload_bytes)
    for client in (3, 2, 1, 0):
        simulator.start(client, 6 if client == 3 else 0, *work[client][:2])
    arrivals = []
    for _ in range(6):
        arrival = arrive(simulator)
        assert simulator.now == arrival.time
        arrivals.append(arrival)
        simulator.start(arrival.client, simulator.now, *work[arrival.client][:2])
    assert [(a.time, a.client) for a in arrivals] == [(2.5, 2), (4, 0), (5, 2), (7.5, 2), (7.5, 3), (8, 0)]
    assert asked == [(2.5, 2), (3, 0), (5, 1), (5, 2), (6.5, 3), (7, 0), (7.5, 2)]
    assert arrivals[-1] == Arrival(8, 0, 1, 4, 5, 5, 7, 7, 8)
    assert arrive(simulator) == Arrival(8, 1, 0, 0, 1, 1, 5, 5, 8)


def test_a_client_that_never_returns_blocks_nothing():
    """Client 0 is lost in the middle of its compute, client 2 before it starts: neither is asked or arrives."""
    asked: list[int] = []

    def upload_bytes(client: int) -> int:
        asked.append(client)
        return 1

    simulator = Simulator(second_a_byte, upload_bytes)
    simulator.start(0, 0, 1, 1)
    simulator.start(1, 0, 1, 5)
    simulator.never(2)
    assert simulator.next_arrival(until=1.5) is None
    simulator.never(0)
    arrival = arrive(simulator)
    assert (arrival.time, arrival.client) == (7, 1)
    assert simulator.next_arrival() is None
    assert asked == [1]
    assert simulator.in_flight == [0, 2]
    with pytest.raises(ValueError, match="in flight"):
        simulator.start(0, 8, 1, 1)


def test_until_stops_the_clock_before_anything_later():
    """Arrival at 4 (upload asked at 3): by 2.5 nobody is asked; at 4 exactly it counts; then the clock goes on alone."""
    asked: list[int] = []

    def upload_bytes(client: int) -> int:
        asked.append(client)
        return 1

    simulator = Simulator(second_a_byte, upload_bytes)
    simulator.start(0, 0, 1, 2)
    assert simulator.next_arrival(until=2.5) is None
    assert (simulator.now, asked) == (2.5, [])
    with pytest.raises(ValueError, match="it is 2"):
        simulator.start(1, 2, 1, 1)
    arrival = simulator.next_arrival(until=4)
    assert arrival is not None
    assert arrival.time == 4
    assert simulator.next_arrival(until=9) is None
    assert simulator.now == 9


def test_an_abandoned_client_can_start_anew():
    """Given up at 2 s and started again: only the second job arrives, as number 1."""
    simulator = Simulator(second_a_byte, lambda client: 1)
    simulator.start(0, 0, 1, 2)
    assert simulator.next_arrival(until=2) is None
    simulator.abandon(0)
    assert not simulator.in_flight
    simulator.start(0, 2, 1, 2)
    arrival = arrive(simulator)
    assert (arrival.time, arrival.number) == (6, 1)
    assert simulator.next_arrival() is None


def test_a_failed_training_changes_nothing():
    """The callback raises once: the same call again goes on as if it had not."""
    answers: list[int | Exception] = [RuntimeError("training failed"), 1]

    def upload_bytes(client: int) -> int:
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    simulator = Simulator(second_a_byte, upload_bytes)
    simulator.start(0, 0, 1, 2)
    before = simulator.state_dict()
    with pytest.raises(RuntimeError, match="training failed"):
        simulator.next_arrival()
    assert simulator.state_dict() == before
    arrival = arrive(simulator)
    assert arrival.time == 4


def test_wrong_numbers_are_refused():
    """Negative or endless times and bytes, from the caller, the link and the callback."""
    simulator = Simulator(lambda *_: float("inf"), lambda client: -1)
    for wrong in [(0, float("nan"), 1, 1), (0, float("inf"), 1, 1), (0, 0, -1, 1), (0, 0, 1, float("inf"))]:
        with pytest.raises(ValueError, match="client 0 cannot"):
            simulator.start(*wrong)
    with pytest.raises(ValueError, match="link"):
        simulator.start(0, 0, 1, 1)
    assert not simulator.in_flight
    simulator = Simulator(second_a_byte, lambda client: -1)
    simulator.start(0, 0, 1, 1)
    with pytest.raises(ValueError, match="-1 bytes"):
        simulator.next_arrival()
    with pytest.raises(ValueError, match="down_limit"):
        Simulator(second_a_byte, lambda client: 1, down_limit=1).load_state_dict(simulator.state_dict())


def some_link(client: int, direction: str, number: int, size: int) -> float:
    """Unequal links, some without end, that change from start to start."""
    return size / (3 + client) * (1 + number % 3 / 7) if client % 3 else 0.0


Sizes = dict[tuple[int, str, int], int]


def run(starts, limits, steps: int, save_at: int) -> tuple[list[Arrival], list[tuple[float, int]], Sizes]:
    """Arrivals, moments of asking and bytes of each transfer by (client, direction, number).

    Clients start again whenever they arrive, and `save_at` steps on a new simulator goes on from JSON.
    """
    asked: list[tuple[float, int]] = []
    sizes: Sizes = {}

    def link(client: int, direction: str, number: int, size: int) -> float:
        assert sizes.setdefault((client, direction, number), size) == size
        return some_link(client, direction, number, size)

    def build() -> Simulator:
        def upload_bytes(client: int) -> int:
            asked.append((simulator.now, client))
            return (len(asked) * 13 + client * 7) % 50

        return Simulator(link, upload_bytes, up_limit=limits[0], down_limit=limits[1])

    simulator = build()
    for client, (at, size, compute_s) in enumerate(starts):
        simulator.start(client, at, size, compute_s)
    simulator.never(len(starts))
    arrivals: list[Arrival] = []
    for step in range(steps):
        if step == save_at:
            state = json.loads(json.dumps(simulator.state_dict(), allow_nan=False))
            simulator = build()
            simulator.load_state_dict(state)
            assert simulator.state_dict() == state
        arrival = simulator.next_arrival(until=None if step % 3 else simulator.now + 2)
        if arrival is not None:
            arrivals.append(arrival)
            simulator.start(arrival.client, arrival.time, arrival.number * 5 % 40, arrival.client % 4)
    return arrivals, asked, sizes


LIMIT = st.one_of(st.none(), st.floats(0.5, 50))
STARTS = st.lists(
    st.tuples(st.sampled_from([0.0, 0.0, 1.0, 2.5]), st.integers(0, 60), st.sampled_from([0.0, 1.0, 1.7, 30.0])),
    min_size=1,
    max_size=7,
)


@settings(max_examples=120, deadline=None)
@given(STARTS, st.tuples(LIMIT, LIMIT), st.integers(0, 25))
def test_saved_in_the_middle_it_goes_on_to_the_same_bits(starts, limits, save_at):
    """Against the run that was not interrupted; and the order is that of (time, client), asking included."""
    arrivals, asked, sizes = run(starts, limits, 26, save_at)
    assert (arrivals, asked, sizes) == run(starts, limits, 26, save_at=-1)
    assert [a.time for a in arrivals] == sorted(a.time for a in arrivals)
    assert [time for time, _ in asked] == sorted(time for time, _ in asked)
    moments = {(a.client, a.compute_end_s) for a in arrivals}
    assert moments <= {(client, time) for time, client in asked}
    for a in arrivals:
        assert a.download_begin_s <= a.download_end_s == a.compute_begin_s <= a.compute_end_s
        assert a.compute_end_s == a.upload_begin_s <= a.upload_end_s == a.time


@settings(max_examples=120, deadline=None)
@given(STARTS, st.tuples(LIMIT, LIMIT))
def test_nothing_is_faster_than_its_link_or_the_limit(starts, limits):
    """Every transfer takes at least its own link's seconds, and all bytes sent at least bytes / limit."""
    arrivals, _, sizes = run(starts, limits, 40, save_at=-1)
    sent = {"up": 0, "down": 0}
    for a in arrivals:
        took = {"down": a.download_end_s - a.download_begin_s, "up": a.upload_end_s - a.upload_begin_s}
        for direction, seconds in took.items():
            size = sizes[a.client, direction, a.number]
            assert seconds >= some_link(a.client, direction, a.number, size) * (1 - 1e-9) - 1e-9
            sent[direction] += size
    for direction, limit in zip(("up", "down"), limits, strict=True):
        if limit is not None and arrivals:
            assert sent[direction] <= limit * arrivals[-1].time * (1 + 1e-9) + 1e-6


@settings(max_examples=60, deadline=None)
@given(STARTS)
def test_ties_go_to_the_lower_client_whatever_the_order_of_starting(starts):
    """Clients started in reverse order arrive in the same order, which is that of (time, client)."""
    orders = []
    for sign in (1, -1):
        simulator = Simulator(lambda *_: 1.0, lambda client: 1)
        for client, (at, size, compute_s) in list(enumerate(starts))[::sign]:
            simulator.start(client, at, size, compute_s)
        orders.append([(a.time, a.client) for a in iter(simulator.next_arrival, None)])
    assert orders[0] == orders[1] == sorted(orders[0])


def held_numbers(value: object) -> int:
    """How many numbers an object holds in its lists, arrays, dicts, tuples and the objects of its own module."""
    if isinstance(value, array):
        return len(value)
    if isinstance(value, dict):
        return sum(held_numbers(key) + held_numbers(each) for key, each in value.items())
    if isinstance(value, list | tuple | set):
        return sum(map(held_numbers, value))
    if not type(value).__module__.startswith("fl.clock"):
        return 1
    return sum(held_numbers(getattr(value, name)) for name in getattr(value, "__slots__", None) or vars(value))


def simulated(clients: int, arrivals: int, limit: float | None) -> int:
    """The numbers that a simulator holds with all clients in flight, after so many arrivals."""
    simulator = Simulator(second_a_byte, lambda client: 10, up_limit=limit, down_limit=limit)
    for client in range(clients):
        simulator.start(client, 0, 10, 1 + client % 17)
    for _ in range(arrivals):
        arrival = arrive(simulator)
        simulator.start(arrival.client, arrival.time, 10, 1 + arrival.client % 17)
    return held_numbers(simulator)


@pytest.mark.parametrize("limit", [None, 200.0])
def test_memory_grows_with_clients_and_not_with_events(limit: float | None) -> None:
    """At most 25 numbers a client at any number of clients, and no more after many arrivals than after few. (Numbers
    are counted, not bytes: what the interpreter takes for them depends on what ran before.)"""
    assert simulated(50, 0, limit) <= 50 * 25
    assert simulated(800, 0, limit) <= 800 * 25
    early, late = simulated(50, 200, limit), simulated(50, 2000, limit)
    assert late <= 1.1 * early
