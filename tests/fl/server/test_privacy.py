"""`--dp`: its epsilon against closed forms and published figures, and its noise and norm against the papers' formulas."""

import math

import pytest
import torch
from scipy.optimize import brentq
from scipy.stats import norm as gaussian

from compression.spec import SpecError
from fl.server.privacy import Privacy, epsilon
from fl.server.privacy_spec import PrivacySpec, parse_dp

DELTA = 1e-5


def make_privacy(text: str, *, clients: int = 1000, expected: int = 100, seed: int = 1) -> Privacy:
    """That of a run with these options."""
    spec = parse_dp(text)
    assert spec is not None
    return Privacy(spec, clients=clients, expected=expected, seed=seed)


def gaussian_delta(wanted: float, noise: float) -> float:
    """delta(epsilon) of the Gaussian mechanism, exact: Balle and Wang 2018, Theorem 8."""
    return gaussian.cdf(0.5 / noise - wanted * noise) - math.exp(wanted) * gaussian.cdf(-0.5 / noise - wanted * noise)


def sampled_delta(wanted: float, noise: float, q: float) -> float:
    """delta(epsilon) of one sampled round: the integral of (1 - q) N(0, z) + q N(1, z) minus e^epsilon N(0, z) from where
    it is positive on."""
    start = noise**2 * math.log((math.exp(wanted) - 1 + q) / q) + 0.5
    of_sample = (1 - q) * gaussian.sf(start / noise) + q * gaussian.sf((start - 1) / noise)
    return of_sample - math.exp(wanted) * gaussian.sf(start / noise)


@pytest.mark.parametrize(("noise", "rounds"), [(1.0, 1), (4.0, 30), (0.5, 3)])
def test_with_everybody_in_every_round_it_is_that_of_one_gaussian(noise: float, rounds: int) -> None:
    """T Gaussian mechanisms are one with noise z / sqrt(T) (Dong, Roth and Su 2019, Corollary 3.3)."""
    exact = brentq(lambda wanted: gaussian_delta(wanted, noise / math.sqrt(rounds)) - DELTA, 0, 200)
    assert exact <= epsilon(noise, 1.0, rounds, DELTA) <= 1.01 * exact


@pytest.mark.parametrize(("noise", "q"), [(1.0, 0.1), (0.7, 0.5), (2.0, 0.01)])
def test_one_sampled_round_is_the_integral(noise: float, q: float) -> None:
    """A bound from above, and close."""
    exact = brentq(lambda wanted: sampled_delta(wanted, noise, q) - DELTA, 1e-6, 50)
    assert exact <= epsilon(noise, q, 1, DELTA) <= 1.03 * exact


def test_many_sampled_rounds_against_published_figures() -> None:
    """q = 0.01, z = 4, T = 10,000, delta = 1e-5: the moments accountant's epsilon of 1.26 (Abadi et al. 2016, section 3) is
    an upper bound; the central limit of Bu et al. 2020 (Theorem 5: mu = q sqrt(T (exp(1 / z^2) - 1))) is close."""
    found = epsilon(4, 0.01, 10_000, DELTA)
    mu = 0.01 * math.sqrt(10_000 * (math.exp(1 / 16) - 1))
    limit = brentq(lambda wanted: gaussian_delta(wanted, 1 / mu) - DELTA, 0, 10)
    assert found < 1.26
    assert found == pytest.approx(limit, rel=0.05)


def test_no_round_costs_nothing_and_every_round_something() -> None:
    """From round to round, beyond any number that was planned."""
    spent = [epsilon(1, 0.1, rounds, DELTA) for rounds in range(4)]
    assert spent[0] == 0
    assert spent == sorted(set(spent))


def test_the_noise_is_gaussian_and_of_its_round() -> None:
    """Standard deviation Z C over 200,000 numbers; other numbers in the next round and for another seed, the same again
    after a round that failed and after a checkpoint."""
    privacy = make_privacy("clip:0.5,noise=2,delta=1e-5")
    first = privacy.add_noise(torch.zeros(200_000))
    assert float(first.mean()) == pytest.approx(0, abs=0.01)
    assert float(first.std()) == pytest.approx(2 * 0.5, rel=0.01)
    assert float((first.abs() < 1).float().mean()) == pytest.approx(0.6827, abs=0.005)
    privacy.rollback()
    assert torch.equal(privacy.add_noise(torch.zeros(200_000)), first)
    privacy.commit()
    second = privacy.add_noise(torch.zeros(200_000))
    assert abs(float(torch.corrcoef(torch.stack([first, second]))[0, 1])) < 0.01
    again = make_privacy("clip:0.5,noise=2,delta=1e-5")
    again.load_state_dict(privacy.state_dict())
    assert torch.equal(again.add_noise(torch.zeros(200_000)), second)
    assert not torch.equal(make_privacy("clip:0.5,noise=2,delta=1e-5", seed=2).add_noise(torch.zeros(200_000)), first)


@pytest.mark.parametrize("expected", [4, 400])
def test_an_adaptive_norm_splits_the_noise(expected: int) -> None:
    """Theorem 1 of Andrew et al.: a round of both parts, whose sensitivities are C and 1/2, is worth noise Z; the count's
    noise is that of the formula of the norm (Algorithm 1), looked at over 2000 rounds."""
    privacy = make_privacy("clip:1,noise=1.5,delta=1e-5,adaptive=0.5", clients=1000, expected=expected)
    of_sum = float(privacy.add_noise(torch.zeros(400_000)).std())
    moved = []
    for _ in range(2000):
        before = privacy.norm
        privacy.observe(0.0)
        privacy.commit()
        moved.append(math.log(privacy.norm / before) / -0.2 * expected)
    of_count = float(torch.tensor(moved).std())
    assert of_sum**-2 + (2 * of_count) ** -2 == pytest.approx(1.5**-2, rel=0.03)
    assert sum(moved) / len(moved) == pytest.approx(0, abs=4 * of_count / math.sqrt(2000))


def test_an_adaptive_norm_finds_the_quantile() -> None:
    """1000 updates with norms 0.001, 0.002, ..., 1, the first norm 30 times too large: it settles at the quantile 0.3."""
    privacy = make_privacy("clip:30,noise=0.5,delta=1e-5,adaptive=0.3", clients=1000, expected=1000)
    tail = []
    for round_ in range(150):
        within = sum(at / 1000 <= privacy.norm for at in range(1, 1001))
        privacy.observe(within - 500)
        privacy.commit()
        if round_ >= 100:
            tail.append(privacy.norm)
    assert sum(tail) / len(tail) == pytest.approx(0.3, abs=0.02)


def test_a_round_that_fails_leaves_the_norm() -> None:
    """As every participant of the transaction."""
    privacy = make_privacy("clip:1,noise=0.5,delta=1e-5,adaptive=0.9")
    privacy.observe(-50)
    privacy.rollback()
    privacy.commit()
    assert privacy.norm == 1


def test_the_option_is_read() -> None:
    """What each word means."""
    assert parse_dp("none") is None
    assert parse_dp("clip:2,noise=0.8,delta=1e-6") == PrivacySpec(2.0, 0.8, 1e-6, None)
    assert parse_dp("clip:2,noise=0.8,delta=1e-6,adaptive=0.5") == PrivacySpec(2.0, 0.8, 1e-6, 0.5)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("clip", "takes 1 argument"),
        ("clip:1", "noise is missing, as in clip:1,noise=0.8,delta=1e-5"),
        ("clip:1,noise=1", "delta is missing"),
        ("clip:0,noise=1,delta=1e-5", "C must lie between"),
        ("clip:1,noise=0,delta=1e-5", "noise must lie between 0.1 and 1000"),
        ("clip:1,noise=1,delta=1", "delta must lie between"),
        ("clip:1,noise=1,delta=1e-5,adaptive=1.5", "adaptive must lie between"),
        ("clip:1,nose=1,delta=1e-5", "did you mean 'noise'"),
        ("clip:1,noise=nan,delta=1e-5", "noise must be a number"),
        ("clop:1,noise=1,delta=1e-5", "did you mean 'clip'"),
        ("none:1", "takes 0"),
    ],
)
def test_what_cannot_be_meant_is_refused(text: str, words: str) -> None:
    """One sentence with what would be right."""
    with pytest.raises(SpecError, match=words):
        parse_dp(text)
