"""Shared server links: by hand, and against the same fluid in exact fractions."""

from fractions import Fraction

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fl.clock.bandwidth import fair_level
from fl.clock.simulator import Simulator
from fl.common.errors import ConfigError

RATES = st.floats(0.1, 1e3)


def uploads(transfers: dict[int, tuple[float, int, float]], limit: float | None) -> dict[int, float]:
    """When each client's upload ends: {client: (begin, bytes, seconds over its own link)}."""
    simulator = Simulator(
        lambda client, direction, number, size: transfers[client][2] if direction == "up" else 0.0,
        lambda client: transfers[client][1],
        up_limit=limit,
    )
    for client, (begin, _, _) in transfers.items():
        simulator.start(client, begin, 0, 0.0)
    ends = {}
    while (arrival := simulator.next_arrival()) is not None:
        ends[arrival.client] = arrival.time
    return ends


def exact_ends(transfers: dict[int, tuple[float, int, float]], limit: float) -> dict[int, Fraction]:
    """The same by stepping from one begin or end to the next in fractions, rates filled up one by one."""
    waiting = sorted((Fraction(begin), client) for client, (begin, _, _) in transfers.items())
    left: dict[int, Fraction] = {}
    ends: dict[int, Fraction] = {}
    now = Fraction(0)
    while waiting or left:
        rates: dict[int, Fraction] = {}
        rest = Fraction(limit)
        for cap, client in sorted((transfers[c][1] / Fraction(transfers[c][2]), c) for c in left):
            rates[client] = min(cap, rest / (len(left) - len(rates)))
            rest -= rates[client]
        moments = [now + left[c] / rates[c] for c in left] + [begin for begin, _ in waiting[:1]]
        step = min(moments) - now
        now += step
        left = {client: rest - rates[client] * step for client, rest in left.items()}
        for client in [c for c in left if left[c] == 0]:
            ends[client] = now
            del left[client]
        while waiting and waiting[0][0] == now:
            client = waiting.pop(0)[1]
            left[client] = Fraction(transfers[client][1])
    return ends


def test_two_equal_transfers_take_twice_as_long():
    """100 bytes over own links of 10 B/s: 10 s alone; two over a limit of 10 B/s: 5 B/s each, 20 s, the lower id first."""
    assert uploads({0: (0, 100, 10)}, 10) == {0: 10.0}
    ends = uploads({1: (0, 100, 10), 0: (0, 100, 10)}, 10)
    assert ends == {0: 20.0, 1: 20.0}
    assert list(ends) == [0, 1]
    assert uploads({0: (0, 100, 10), 1: (0, 100, 10)}, None) == {0: 10.0, 1: 10.0}


def test_a_slow_link_leaves_its_share_to_the_others():
    """Limit 10 B/s. C's own link gives 2 B/s: 20 bytes in 10 s, never slowed. A and B have 4 B/s each, not 10/3: at 10 s
    40 of their 100 bytes are sent. Then 5 B/s each: the 60 left take 12 s."""
    assert uploads({0: (0, 100, 10), 1: (0, 100, 10), 2: (0, 20, 10)}, 10) == {2: 10.0, 0: 22.0, 1: 22.0}


def test_rates_change_when_a_transfer_begins_or_ends():
    """Limit 10 B/s, 100 bytes each. A alone for 5 s: 50 bytes. B joins, 5 B/s each: A's last 50 take until 15 s. B has
    50 left and the limit for itself: 20 s."""
    assert uploads({0: (0, 100, 10), 1: (5, 100, 10)}, 10) == {0: 15.0, 1: 20.0}


def test_downloads_share_their_own_limit_and_may_start_later():
    """Downloads of 40 bytes at 0 and 2 s, limit 10 B/s, own links without end. A: 20 bytes until 2 s, then 5 B/s: 6 s.
    B: 20 bytes until 6 s, then 10 B/s: 8 s. Uploads of 30 bytes take 3 s, for nothing limits them."""
    simulator = Simulator(lambda c, way, n, size: 0.0 if way == "down" else size / 10, lambda c: 30, down_limit=10)
    simulator.start(0, 0, 40, 0)
    simulator.start(1, 2, 40, 1)
    first, second = simulator.next_arrival(), simulator.next_arrival()
    assert first is not None
    assert second is not None
    assert (first.download_end_s, first.time, second.download_end_s, second.time) == (6, 9, 8, 12)


def test_a_client_that_is_lost_frees_its_share():
    """Limit 10 B/s, two of 100 bytes: at 4 s 20 bytes are sent of each. One is lost: the other's 80 take 8 s more."""
    simulator = Simulator(lambda *_: 10.0, lambda client: 100, up_limit=10)
    simulator.start(0, 0, 0, 0)
    simulator.start(1, 0, 0, 0)
    # With no bytes to fetch the link's 10 s pass as they are: uploads begin at 10 s.
    assert simulator.next_arrival(until=14) is None
    simulator.never(0)
    arrival = simulator.next_arrival()
    assert arrival is not None
    assert (arrival.client, arrival.time) == (1, 22)
    assert simulator.next_arrival() is None
    assert simulator.in_flight == [0]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 20), st.integers(1, 1000), st.integers(1, 50)), min_size=1, max_size=8),
    st.integers(1, 300),
)
def test_ends_agree_with_exact_fractions(transfers, limit):
    """To 1e-9 of the time, for any begins, sizes and links."""
    by_client = dict(enumerate(transfers))
    ends, exact = uploads(by_client, limit), exact_ends(by_client, limit)
    assert ends == pytest.approx({client: float(end) for client, end in exact.items()}, rel=1e-9)


def test_what_ends_later_by_less_than_the_clock_resolves_still_comes_after():
    """At 2^40 s a double resolves u = 2^-12 s. Limit 2^21 B/s for two: client 5's 2^20 bytes end after 1 s; client 2 has
    204 bytes left, 0.8 u at the shared rate and 0.4 u at the whole, which rounds to the same second. It comes next, u
    later: order by (time, client) would be broken if it came at that second."""
    start = 2.0**40
    ends = uploads({5: (start, 2**20, 0), 2: (start, 2**20 + 204, 0)}, 2**21)
    assert list(ends.items()) == [(5, start + 1), (2, start + 1 + 2**-12)]


@settings(max_examples=100, deadline=None)
@example([(0.0, 3, 0.7)])
@given(st.lists(st.tuples(st.floats(0, 50), st.integers(0, 1000), st.floats(0.1, 50)), min_size=1, max_size=8))
def test_a_limit_that_is_never_reached_changes_no_bit(transfers):
    """The limit is above the sum of all rates, so nothing is slowed. In the example 3 / (3 / 0.7) is not 0.7."""
    by_client = dict(enumerate(transfers))
    assert uploads(by_client, 1e6) == uploads(by_client, None)


@settings(max_examples=100, deadline=None)
@given(st.lists(RATES, min_size=1, max_size=20), RATES)
def test_fair_level_fills_the_limit(caps, limit):
    """sum(min(cap, L)) is the limit, or all caps stay within it."""
    level = fair_level(sorted(caps), limit)
    used = sum(min(cap, level) for cap in caps)
    assert used == pytest.approx(min(limit, sum(caps)))


@pytest.mark.parametrize("limit", [0, -1.0, float("inf"), float("nan")])
def test_wrong_limits_are_refused(limit):
    """A limit is a positive number."""
    with pytest.raises(ConfigError, match="up_limit"):
        Simulator(lambda *_: 0.0, lambda client: 0, up_limit=limit)
