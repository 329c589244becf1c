"""fp32, fp16, bf16. Oracles: round to nearest even on the bit patterns (bf16), NumPy's float16 (fp16)."""

import numpy as np
import pytest
import torch
from hypothesis import given
from torch import Tensor

from compression.values import BF16, FP16, FP32, ValueFormat
from tests.compression.cases import EXAMPLES, bits, vectors

BF16_MAX = 0x7F7F
every = pytest.mark.parametrize("form", [FP32, FP16, BF16], ids=str)


def bf16_bits(x: np.ndarray) -> np.ndarray:
    """The upper half of the fp32 pattern, rounded to nearest even; saturated at the largest finite number."""
    pattern = x.view(np.uint32).astype(np.uint64)
    rounded = (pattern + 0x7FFF + ((pattern >> 16) & 1)) >> 16
    sign, magnitude = rounded & 0x8000, rounded & 0x7FFF
    return (sign | np.minimum(magnitude, BF16_MAX)).astype(np.uint16)


def check(form: ValueFormat, x: Tensor, written: bytes, restored: bytes) -> None:
    side, codes = form.quantise(x)
    assert side.numel() == form.side_bytes(x.numel()) == 0
    assert codes.numpy().tobytes() == written
    assert bits(form.restore(side, codes, x.numel())) == restored


@EXAMPLES
@given(vectors())
def test_bf16_rounds_to_nearest_even_and_saturates(x: Tensor) -> None:
    """Little-endian 16-bit patterns; decoding puts zeros below them."""
    expected = bf16_bits(x.numpy())
    check(BF16, x, expected.astype("<u2").tobytes(), (expected.astype(np.uint32) << 16).tobytes())


@EXAMPLES
@given(vectors())
def test_fp16_rounds_as_numpy_and_saturates(x: Tensor) -> None:
    """+-65504 is the largest; denormal halves and signed zeros survive."""
    expected = np.clip(x.numpy(), -65504, 65504).astype("<f2")
    check(FP16, x, expected.tobytes(), expected.astype(np.float32).tobytes())


@EXAMPLES
@given(vectors())
def test_fp32_is_exact(x: Tensor) -> None:
    """The little-endian patterns themselves, denormals and -0.0 included."""
    check(FP32, x, x.numpy().astype("<f4").tobytes(), bits(x))


@every
def test_restores_from_any_offset_and_stride(form: ValueFormat) -> None:
    """A payload may start at an odd byte of a longer tensor, or be every other byte of one."""
    x = torch.randn(5, generator=torch.Generator().manual_seed(0))
    side, codes = form.quantise(x)
    expected = form.restore(side, codes.clone(), 5)
    for offset in range(5):
        longer = torch.cat((torch.zeros(offset, dtype=torch.uint8), codes))
        assert torch.equal(form.restore(side, longer[offset:], 5), expected)
    assert torch.equal(form.restore(side, torch.stack((codes, codes), 1).flatten()[::2], 5), expected)


@every
def test_one_value_or_none_of_any_stride(form: ValueFormat) -> None:
    """PyTorch calls such tensors contiguous although their stride is not 1."""
    assert form.restore(*form.quantise(torch.tensor(2.0).expand(1)), 1).tolist() == [2.0]
    assert form.quantise(torch.ones(2, 2).t().flatten()[4::3])[1].tolist() == []
    nothing = torch.zeros(2, dtype=torch.uint8)[2::2]
    assert form.restore(nothing, nothing, 0).tolist() == []
