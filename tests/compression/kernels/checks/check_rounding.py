"""Random numbers and rounding. Oracles: `draws.uniform` in NumPy, and the formula of stochastic rounding in torch on the
CPU, one operation at a time."""

import pytest
import torch

import compression.kernels as kernels
from compression.draws import derive_key, uniform
from tests.compression.kernels.checks.common import DEVICE, SIZES, awkward

KEYS = (0, 1, (1 << 31) - 1, 1 << 31, (1 << 32) + 5, (1 << 63) - 1, derive_key(3, 5))


def expected_uniform(key: int, n: int, start: int = 0) -> torch.Tensor:
    with kernels.switched_off():
        return uniform(key, n, "cpu", start)


@pytest.mark.parametrize("key", KEYS)
def test_uniform(key: int) -> None:
    """Any key, any start, sizes around a block."""
    for n in (0, 1, 5, 1023, 1025):
        for start in (0, 1, 77, (1 << 31) - 3, 1 << 40):
            assert torch.equal(kernels.uniform(key, n, DEVICE, start).cpu(), expected_uniform(key, n, start))


def test_uniform_into_a_buffer() -> None:
    """`out` is filled and returned."""
    out = torch.empty(9, device=DEVICE)
    assert kernels.uniform(7, 9, DEVICE, out=out) is out
    assert torch.equal(out.cpu(), expected_uniform(7, 9))


@pytest.mark.parametrize("n", SIZES)
@pytest.mark.parametrize("levels", [1, 7, 127])
def test_round(n: int, levels: int) -> None:
    """Blocks of 256, the last one shorter; scales that are zero, denormal and the largest number."""
    key, start = derive_key(n, levels), 256
    for x in awkward(n).values():
        rows = torch.nn.functional.pad(x, (0, -n % 256)).view(-1, 256)
        scales = rows.abs().amax(1) if n else torch.empty(0)
        of_each = scales.repeat_interleave(256)[:n]
        exact = (x / torch.where(of_each == 0, 1.0, of_each)) * levels
        low = exact.floor()
        expected = (low + levels + (expected_uniform(key, n, start) < exact - low)).to(torch.uint8)
        codes = torch.empty(n, dtype=torch.uint8, device=DEVICE)
        kernels.round_stochastic(x.to(DEVICE), scales.to(DEVICE), key, levels, 256, start, codes)
        assert torch.equal(codes.cpu(), expected)


def test_sizes_must_fit() -> None:
    """Too few scales or codes are an error, not a read beyond the end."""
    values, codes = torch.ones(300, device=DEVICE), torch.empty(300, dtype=torch.uint8, device=DEVICE)
    for scales, target in ((1, codes), (2, codes[:299])):
        with pytest.raises(ValueError, match="do not fit"):
            kernels.round_stochastic(values, torch.ones(scales, device=DEVICE), 1, 7, 256, 0, target)
