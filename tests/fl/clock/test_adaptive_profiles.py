"""Capabilities at which clients take equally long, by hand."""

from dataclasses import replace

from fl.clock.adaptive import equal_time, equal_upload_fractions
from fl.clock.profiles import Profile

FAST = Profile(compute_flops=100.0, up_bytes=400.0, down_bytes=400.0, latency_s=0.5, loss=0.0, jitter=0.0)
SLOW = Profile(compute_flops=25.0, up_bytes=100.0, down_bytes=100.0, latency_s=0.5, loss=0.0, jitter=0.0)


def test_smaller_models() -> None:
    """Fast, 100 weights and 200 operations: 1 s of latency, 1 + 1 s of transfers, 2 s of work: 5 s. Slow: 1 s and 16 s of
    what grows with the model: 4 of these 16 are left, a quarter of the weights, so half of the channels."""
    assert equal_time([FAST, SLOW], [200.0, 200.0], 100, smaller=True, floor=0.1) == (1.0, 0.5)


def test_masks() -> None:
    """Work takes as long as ever: the slow client has 1 + 8 s whatever it holds, more than the fast one's 5: the floor.
    With 20 operations there are 3.2 s in all, 1.8 fixed, and 1.4 of 8 s of transfers are left."""
    assert equal_time([FAST, SLOW], [200.0, 200.0], 100, smaller=False, floor=0.1) == (1.0, 0.1)
    assert equal_time([FAST, SLOW], [20.0, 20.0], 100, smaller=False, floor=0.1) == (1.0, 0.17)


def test_equal_clients_hold_everything() -> None:
    """Whatever their samples: who has fewer is not slower."""
    assert equal_time([SLOW, SLOW], [100.0, 100.0], 50, smaller=True, floor=0.05) == (1.0, 1.0)


def test_uploads() -> None:
    """400 and 100 bytes/s: a quarter of the coordinates, or the floor; a loss of a half halves what a link carries."""
    assert equal_upload_fractions([FAST, SLOW], floor=0.1) == (1.0, 0.25)
    assert equal_upload_fractions([FAST, SLOW], floor=0.3) == (1.0, 0.3)
    assert equal_upload_fractions([replace(FAST, loss=0.5), SLOW], floor=0.1) == (1.0, 0.5)
