"""Times of transfers. Oracles: seconds by hand; the moments of a log-normal; that a draw depends on its own arguments."""

import math

import numpy as np
import pytest

from fl.clock.links import DOWN, UP, jitter, transfer_s
from fl.clock.profiles import NAMED, NO_LIMITS, Profile
from fl.common.seeds import derive_seed

LINK = Profile(compute_flops=1e9, up_bytes=1000, down_bytes=4000, latency_s=0.5, loss=0.2, jitter=0.3)


def test_by_hand() -> None:
    """1,600 bytes up: 0.5 + 1600 / (1000 * 0.8) = 2.5 s; down: 0.5 + 1600 / (4000 * 0.8) = 1 s; twice as slow: 4.5 s."""
    assert transfer_s(1600, LINK.up_bytes, LINK, 1.0) == 2.5
    assert transfer_s(1600, LINK.down_bytes, LINK, 1.0) == 1.0
    assert transfer_s(1600, LINK.up_bytes, LINK, 2.0) == 4.5


def test_a_payload_over_two_g() -> None:
    """9,375 bytes/s lose 1 %: 928,125 bytes take 0.4 + 928125 / 9281.25 = 100.4 s."""
    link = NAMED["2g"]
    assert transfer_s(928_125, link.up_bytes, link, 1.0) == pytest.approx(100.4, rel=1e-12)


def test_no_bytes_cost_nothing() -> None:
    """Not even the latency; and without limits nothing does."""
    assert transfer_s(0, LINK.up_bytes, LINK, 1.0) == 0
    assert transfer_s(10**12, NO_LIMITS.up_bytes, NO_LIMITS, 1.0) == 0


@pytest.mark.parametrize(("size", "bandwidth", "draw"), [(-1, 1, 1), (1, 0, 1), (1, -2, 1), (1, 1, -1)])
def test_what_no_link_can_do(size: int, bandwidth: float, draw: float) -> None:
    """A mistake of the program, not of a user."""
    with pytest.raises(ValueError, match="is none"):
        transfer_s(size, bandwidth, LINK, draw)


def test_jitter_is_log_normal_with_mean_one() -> None:
    """Over 4,000 draws: the logarithm's mean is -sigma^2 / 2 and its deviation sigma; the factor's own mean is 1."""
    draws = np.array([jitter(LINK, 1, client, number, UP) for client in range(40) for number in range(100)])
    assert np.log(draws).mean() == pytest.approx(-0.045, abs=4 * 0.3 / math.sqrt(4000))
    assert np.log(draws).std() == pytest.approx(0.3, rel=0.05)
    assert draws.mean() == pytest.approx(1, abs=4 * 0.307 / math.sqrt(4000))


def test_jitter_by_its_formula() -> None:
    """From NumPy's own generator with the seed of the purpose."""
    normal = np.random.Generator(np.random.PCG64(derive_seed(7, "jitter down", 3, 5))).standard_normal()
    assert jitter(LINK, 7, 3, 5, DOWN) == pytest.approx(math.exp(0.3 * normal - 0.045), rel=1e-10)


def test_jitter_depends_on_each_of_its_arguments() -> None:
    """And on nothing that was drawn before."""
    first = jitter(LINK, 1, 2, 3, UP)
    others = (
        jitter(LINK, 0, 2, 3, UP),
        jitter(LINK, 1, 1, 3, UP),
        jitter(LINK, 1, 2, 4, UP),
        jitter(LINK, 1, 2, 3, DOWN),
    )
    assert len({first, *others}) == 5
    assert jitter(LINK, 1, 2, 3, UP) == first


def test_without_jitter_there_is_nothing_to_draw() -> None:
    """Exactly 1, so that a time can be compared exactly."""
    assert jitter(NAMED["lan"], 1, 2, 3, UP) == 1.0


def test_another_direction() -> None:
    """There are only two."""
    with pytest.raises(ValueError, match="a transfer goes 'up' or 'down', not 'sideways'"):
        jitter(LINK, 1, 2, 3, "sideways")
