"""Counter-based random numbers. Oracles: SplitMix64 as published, in plain Python, and its published first outputs."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compression import draws
from tests.compression.cases import EXAMPLES

MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15
KEYS = st.one_of(st.integers(0, (1 << 63) - 1), st.sampled_from([0, 1, (1 << 63) - 1]))
PUBLISHED = {
    0: (0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F, 0xF88BB8A8724C81EC, 0x1B39896A51A8749B),
    1234567: (
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ),
}


def mix(z: int) -> int:
    """The finaliser that Steele, Lea and Flood give (variant 13 of Stafford)."""
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def splitmix(seed: int, count: int) -> list[int]:
    """The generator with its state."""
    numbers = []
    for _ in range(count):
        seed = (seed + GOLDEN) & MASK
        numbers.append(mix(seed))
    return numbers


def by_torch(key: int, n: int, start: int = 0) -> torch.Tensor:
    """The part for other devices, on the CPU."""
    out = torch.empty(n)
    draws._uniform_torch(key, start, out)
    return out


@pytest.mark.parametrize("seed", PUBLISHED)
def test_published_outputs(seed: int) -> None:
    """Both paths and the oracle give them, all 64 bits."""
    expected = PUBLISHED[seed]
    assert tuple(splitmix(seed, 5)) == expected
    found: list[int] = []
    draws._chunks_numpy(seed, 0, 5, lambda _, z: found.extend(z.tolist()))
    draws._chunks_torch(seed, 0, 5, torch.device("cpu"), lambda _, z: found.extend(x & MASK for x in z.tolist()))
    assert tuple(found) == expected * 2


@EXAMPLES
@given(key=KEYS, n=st.integers(0, 40), start=st.integers(0, 40))
def test_uniform_is_the_top_24_bits(key: int, n: int, start: int) -> None:
    """Any stretch of positions, on both paths; exact, so compared with ==."""
    expected = [(z >> 40) / 2**24 for z in splitmix(key, start + n)[start:]]
    assert draws.uniform(key, n, "cpu", start).tolist() == expected
    assert by_torch(key, n, start).tolist() == expected
    out = torch.empty(n)
    assert draws.uniform(key, n, "cpu", start, out=out) is out
    assert out.tolist() == expected


def test_chunks_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    """Longer than a CPU chunk, from far along; short device chunks."""
    n, start = 2 * draws._CPU_CHUNK + 7, 5 << 33
    found = draws.uniform(9, n, "cpu", start)
    assert torch.equal(found, by_torch(9, n, start))
    monkeypatch.setattr(draws, "_DEVICE_CHUNK", 1000)
    assert torch.equal(found, by_torch(9, n, start))
    assert torch.equal(found[n - 50 :], draws.uniform(9, 50, "cpu", start + n - 50))


def test_uniform_moments() -> None:
    """Mean 1/2 and variance 1/12 within five standard errors, and no correlation of neighbours or of nearby keys."""
    n = 100_000
    u = draws.uniform(draws.derive_key(3), n, "cpu").double() - 0.5
    other = draws.uniform(draws.derive_key(4), n, "cpu").double() - 0.5
    assert abs(u.mean()) < 5 * (1 / 12 / n) ** 0.5
    assert abs(u.var() - 1 / 12) < 5 * (1 / 180 / n) ** 0.5
    for pair in (u[1:] * u[:-1], u * other):
        assert abs(pair.mean()) < 5 / 12 / n**0.5


def test_derived_keys() -> None:
    """In [0, 2^63), all different for different parts, their order and number included; never to change."""
    parts = [(), (0,), (0, 0), (1,), (1, 2), (2, 1), (1, 2, 0), (-1,), (1 << 63,), ((1 << 64) - 2,)]
    keys = [draws.derive_key(*part) for part in parts]
    assert len(set(keys)) == len(keys)
    assert all(0 <= key < 1 << 63 for key in keys)
    state = 0
    for part in (1, 2):
        state = mix(((state + GOLDEN) & MASK) ^ mix(part))
    assert draws.derive_key(1, 2) == state >> 1


@st.composite
def counts(draw: st.DrawFn) -> tuple[int, int]:
    n = draw(st.one_of(st.integers(0, 300), st.sampled_from([(1 << 32) - 1, (1 << 31) + 1, 11_173_962])))
    return n, draw(st.integers(0, min(n, 60)))


@EXAMPLES
@given(key=KEYS, nk=counts())
def test_random_positions(key: int, nk: tuple[int, int]) -> None:
    """Oracle: whole numbers of any size; one position in each stratum. Both paths."""
    n, k = nk
    expected = []
    for i, z in enumerate(splitmix(key, k)):
        low, high = i * n // k, (i + 1) * n // k
        expected.append(low + (((z >> 33) * (high - low)) >> 31))
    found = draws.random_positions(key, n, k, "cpu")
    assert found.dtype == torch.int64
    assert found.tolist() == expected
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(draws, "_top_bits_numpy", draws._top_bits_torch)
        assert torch.equal(draws.random_positions(key, n, k, "cpu"), found)


def test_every_position_is_equally_likely() -> None:
    """Over 4,000 keys each of 30 coordinates comes up 4,000 * 12 / 30 times (widths 2 and 3: within a third)."""
    n, k, keys = 30, 12, 4000
    hits = torch.zeros(n)
    for key in range(keys):
        hits[draws.random_positions(draws.derive_key(key), n, k, "cpu")] += 1
    widths = torch.tensor([(i + 1) * n // k - i * n // k for i in range(k)])
    expected = (keys / widths).repeat_interleave(widths)
    assert bool(((hits - expected).abs() < 5 * keys**0.5 / 2).all())


def test_all_positions_and_refusals() -> None:
    """k = n gives all; nothing else is possible than 0 <= k <= n < 2^32."""
    assert draws.random_positions(1, 1000, 1000, "cpu").tolist() == list(range(1000))
    for n, k in ((3, 4), (3, -1), (1 << 32, 1)):
        with pytest.raises(ValueError, match="0 <= k <= n < 2"):
            draws.random_positions(1, n, k, "cpu")
