"""log4 and log3. Oracle: the promise in float64 logarithms, lo and hi from NumPy bit patterns."""

import numpy as np
import pytest
import torch
from hypothesis import given
from torch import Tensor

from compression.errors import PayloadError
from compression.values import LOG2, LOG3, LOG4
from compression.values.logarithmic import Logarithmic
from tests.compression.cases import EXAMPLES
from tests.compression.values.examples import ANY, block_by_block, there_and_back

BF16_MAX = float(np.uint32(0x7F7F0000).view(np.float32))
both = pytest.mark.parametrize("form", [LOG4, LOG3, LOG2], ids=str)


def outwards(magnitudes: np.ndarray) -> tuple[float, float]:
    """Smallest and largest, rounded outwards to bfloat16, hi not beyond its largest number."""
    low, high = (int(x.view(np.uint32)) for x in (magnitudes.min(), magnitudes.max()))
    high = min(-(-high // 0x10000) * 0x10000, 0x7F7F0000)
    return float(np.uint32(low & 0xFFFF0000).view(np.float32)), float(np.uint32(high).view(np.float32))


@both
@EXAMPLES
@given(x=ANY)
def test_within_half_a_grid_ratio(form: Logarithmic, x: Tensor) -> None:
    """Signs kept; magnitudes off by at most (hi / lo)^(1 / 2m); zeros stay zero, tiny ones may become zero."""
    m = form.magnitudes
    restored = there_and_back(form, x)
    for v, out in zip(block_by_block(x.numpy(), 256), block_by_block(restored, 256), strict=True):
        magnitude = np.abs(v)
        floor = max(float(magnitude.max()) * 2.0**-24, 2.0**-100)
        tiny = magnitude < floor
        assert (out[v == 0] == 0).all()
        if tiny.all():
            assert (out == 0).all()
            continue
        low, high = outwards(magnitude[~tiny])
        if tiny.any():
            low *= (low / high) ** (2 / m) * (1 - 2**-7)
        half = np.log(high / low) / (2 * m) + 1e-6
        kept = ~tiny | (out != 0)
        reached = np.minimum(magnitude[kept].astype(np.float64), BF16_MAX)
        assert (np.abs(np.log(np.abs(out[kept]) / reached)) <= half).all()
        assert (np.sign(out[kept]) == np.sign(v[kept])).all()


@both
def test_grid(form: Logarithmic) -> None:
    """From lo = 1 to hi = 16 the middles are 16^((2i + 1) / 2m), correctly rounded but for a last bit."""
    m = form.magnitudes
    x = torch.cat((torch.tensor([1.0, 16.0]), 16 ** torch.rand(254, generator=torch.Generator().manual_seed(0))))
    expected = 16.0 ** ((2 * np.arange(m) + 1) / (2 * m))
    assert np.allclose(np.unique(there_and_back(form, x)), expected, rtol=2e-7, atol=0)
    assert np.allclose(np.unique(there_and_back(form, -x)), -expected[::-1], rtol=2e-7, atol=0)


@both
def test_side_information(form: Logarithmic) -> None:
    """lo in the lower half of the word, hi in the upper; lo negative with zeros about; nothing for a block of zeros."""
    plain = form.quantise(torch.tensor([1.0, -4.0, 2.0]))[0]
    assert plain.numpy().tobytes() == bytes.fromhex("803f8040")
    with_zero = form.quantise(torch.tensor([0.0, -4.0, 4.0]))[0]
    assert with_zero.numpy().tobytes() == bytes.fromhex("80c08040")
    assert there_and_back(form, torch.tensor([0.0, -4.0, 4.0])).tolist() == [0.0, -4.0, 4.0]
    assert form.quantise(torch.zeros(3))[0].tolist() == [0, 0, 0, 0]
    assert form.quantise(torch.zeros(3))[1].tolist() == [0, 0, 0]


@both
@pytest.mark.parametrize(
    "word",
    ["8040803f", "803f80bf", "803f807f", "803fc07f", "0000803f", "803f0000", "c07f803f"],
    ids=["lo above hi", "hi negative", "hi infinite", "hi NaN", "lo zero", "hi zero", "lo NaN"],
)
def test_refuses_impossible_pairs(form: Logarithmic, word: str) -> None:
    """Pairs that no sender writes."""
    side = torch.frombuffer(bytearray.fromhex(word), dtype=torch.uint8)
    with pytest.raises(PayloadError, match="no such pair"):
        form.restore(side, torch.zeros(5, dtype=torch.uint8), 5)
