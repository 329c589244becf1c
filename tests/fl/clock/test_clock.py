"""The virtual time of synchronous rounds, by hand."""

import json

import pytest

from fl.clock.clock import RoundClock, VirtualClock, Work
from fl.clock.profiles import Profile

FAST = Profile(compute_flops=100.0, up_bytes=10.0, down_bytes=20.0, latency_s=1.0, loss=0.0, jitter=0.0)
SLOW = Profile(compute_flops=50.0, up_bytes=5.0, down_bytes=20.0, latency_s=0.0, loss=0.5, jitter=0.0)


def clock_of(known: list[Profile], **limits: float) -> RoundClock:
    return RoundClock(lambda upload_bytes: VirtualClock(known, 5, upload_bytes, **limits))


def test_a_round_takes_as_long_as_its_slowest_client() -> None:
    """Client 0: 1 + 40/20 s down, 500/100 s of work, 1 + 30/10 s up: 12 s. Client 1, of whose packets half are lost:
    40/(20/2) s, 500/50 s, 30/(5/2) s: 26 s. The next round begins at 26 s; client 0 alone needs 5 + 4 s."""
    clock = clock_of([FAST, SLOW])
    times = clock.round([Work(0, 40, 30, 500.0), Work(1, 40, 30, 500.0)])
    assert times == [
        {"start_s": 0.0, "ready_s": 3.0, "sent_s": 8.0, "arrive_s": 12.0},
        {"start_s": 0.0, "ready_s": 4.0, "sent_s": 14.0, "arrive_s": 26.0},
    ]
    assert clock.now == 26.0
    assert clock.round([Work(0, 0, 30, 500.0)])[0]["arrive_s"] == 26.0 + 5.0 + 4.0


def test_transfers_beside_training() -> None:
    """Client 0: 3 s down and 4 s up beside 5 s of work: 7 s. Client 1: 4 s and 12 s beside 10 s. The round ends at 16 s. In
    the next one client 0 works for 20 s, longer than its 4 s up, and the third begins when it is done."""
    known = [FAST, SLOW]
    clock = RoundClock(lambda upload_bytes: VirtualClock(known, 5, upload_bytes), overlap=True)
    times = clock.round([Work(0, 40, 30, 500.0), Work(1, 40, 30, 500.0)])
    assert [each["arrive_s"] for each in times] == [7.0, 16.0]
    assert clock.now == 16.0
    assert clock.round([Work(0, 0, 30, 2000.0)])[0]["arrive_s"] == 36.0
    assert clock.now == 36.0
    assert clock.round([Work(0, 0, 30, 0.0)])[0]["arrive_s"] == 40.0


def test_a_limit_of_the_server_is_shared() -> None:
    """Two clients download 40 bytes each from a server that sends 20 a second: 4 s instead of 2, and no latency."""
    profile = Profile(compute_flops=1.0, up_bytes=1e9, down_bytes=20.0, latency_s=0.0, loss=0.0, jitter=0.0)
    clock = clock_of([profile, profile], down_limit=20.0)
    times = clock.round([Work(0, 40, 0, 0.0), Work(1, 40, 0, 0.0)])
    assert [each["ready_s"] for each in times] == pytest.approx([4.0, 4.0])


def test_it_goes_on_to_the_bit() -> None:
    """With jitter, whose draws depend on how often each client has started."""
    profile = Profile(compute_flops=7.0, up_bytes=11.0, down_bytes=13.0, latency_s=0.1, loss=0.1, jitter=0.4)
    one, other = (clock_of([profile] * 3) for _ in range(2))
    works = [Work(client, 100 + client, 50, 1000.0) for client in range(3)]
    one.round(works)
    other.clock.load_state_dict(json.loads(json.dumps(one.clock.state_dict())))
    assert one.round(works) == other.round(works)
