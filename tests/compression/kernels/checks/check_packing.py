"""Packing kernels. Oracle: `compression.bits` on the CPU with no kernel in use, itself tested against Python's integers."""

import pytest
import torch

import compression.kernels as kernels
from compression import bits
from tests.compression.kernels.checks.common import DEVICE, SIZES


@pytest.mark.parametrize("n", SIZES)
def test_bits(n: int) -> None:
    """Same bytes; back to the same bits; bits beyond the count are ignored."""
    flags = torch.rand(n, generator=torch.Generator().manual_seed(n)) < 0.4
    packed = kernels.pack_bits(flags.to(DEVICE))
    with kernels.switched_off():
        assert torch.equal(packed.cpu(), bits.pack_bits(flags))
    assert torch.equal(kernels.unpack_bits(packed, n).cpu(), flags)
    count = max(0, n - 3)
    assert torch.equal(kernels.unpack_bits(packed, count).cpu(), flags[:count])


@pytest.mark.parametrize("width", range(33))
def test_fixed(width: int) -> None:
    """Same bytes and the same values for every width, int64 and uint8; all zeros and all ones among them."""
    for n in (0, 1, 9, 1025) if width in (0, 1, 7, 8, 9, 31, 32) else (1025,):
        generator = torch.Generator().manual_seed(n)
        values = torch.randint(0, 1 << width, (n,), generator=generator)
        values[: n // 4] = (1 << width) - 1
        values[n // 4 : n // 3] = 0
        packed = kernels.pack_fixed(values.to(DEVICE), width)
        with kernels.switched_off():
            assert torch.equal(packed.cpu(), bits.pack_fixed(values, width))
        assert torch.equal(kernels.unpack_fixed(packed, width, n).cpu(), values)
        if width <= 8:
            narrow = values.to(torch.uint8)
            assert torch.equal(kernels.pack_fixed(narrow.to(DEVICE), width), packed)
            assert torch.equal(kernels.unpack_fixed(packed, width, n, torch.uint8).cpu(), narrow)


def test_several_programs() -> None:
    """Values beyond the first block of a wide and a narrow packing."""
    for width in (3, 17):
        values = torch.arange(5000) % (1 << width)
        packed = kernels.pack_fixed(values.to(DEVICE), width)
        with kernels.switched_off():
            assert torch.equal(packed.cpu(), bits.pack_fixed(values, width))
        assert torch.equal(kernels.unpack_fixed(packed, width, 5000).cpu(), values)


def test_views() -> None:
    """A slice with a step packs like its copy; a slice off alignment unpacks like its copy."""
    flags = torch.rand(99, generator=torch.Generator().manual_seed(0)) < 0.5
    packed = kernels.pack_bits(flags.to(DEVICE)[::3])
    assert torch.equal(packed, kernels.pack_bits(flags[::3].clone().to(DEVICE)))
    values = torch.arange(64, device=DEVICE)
    assert torch.equal(kernels.pack_fixed(values[::2], 7), kernels.pack_fixed(values[::2].clone(), 7))
    data = torch.arange(40, dtype=torch.uint8, device=DEVICE)
    assert torch.equal(kernels.unpack_fixed(data[5:], 11, 20), kernels.unpack_fixed(data[5:].clone(), 11, 20))


def test_nothing_is_read_beyond_the_end() -> None:
    """What cannot be is a ValueError: too few bytes, a width over 32."""
    data = torch.zeros(4, dtype=torch.uint8, device=DEVICE)
    with pytest.raises(ValueError, match="too few"):
        kernels.unpack_fixed(data, 11, 3)
    with pytest.raises(ValueError, match="too few"):
        kernels.unpack_bits(data, 33)
    with pytest.raises(ValueError, match="width"):
        kernels.pack_fixed(data, 33)
