"""Value formats. Oracles: round to nearest even on the bit patterns (bf16), NumPy's float16 (fp16)."""

import numpy as np
import torch
from hypothesis import given
from torch import Tensor

from compression.values import VALUE_NAMES, ValueFormat, decode_values, encode_values, value_bytes
from tests.compression.cases import EXAMPLES, bits, vectors

BF16_MAX = 0x7F7F


def bf16_bits(x: np.ndarray) -> np.ndarray:
    """The upper half of the fp32 pattern, rounded to nearest even; saturated at the largest finite number."""
    pattern = x.view(np.uint32).astype(np.uint64)
    rounded = (pattern + 0x7FFF + ((pattern >> 16) & 1)) >> 16
    sign, magnitude = rounded & 0x8000, rounded & 0x7FFF
    return (sign | np.minimum(magnitude, BF16_MAX)).astype(np.uint16)


@EXAMPLES
@given(vectors())
def test_bf16_rounds_to_nearest_even_and_saturates(x: Tensor) -> None:
    """Little-endian 16-bit patterns; decoding puts zeros below them."""
    expected = bf16_bits(x.numpy())
    data = encode_values(ValueFormat.BF16, x)
    assert data.numpy().tobytes() == expected.astype("<u2").tobytes()
    decoded = decode_values(ValueFormat.BF16, data)
    assert bits(decoded) == (expected.astype(np.uint32) << 16).tobytes()


@EXAMPLES
@given(vectors())
def test_fp16_rounds_as_numpy_and_saturates(x: Tensor) -> None:
    """+-65504 is the largest; denormal halves and signed zeros survive."""
    expected = np.clip(x.numpy(), -65504, 65504).astype("<f2")
    data = encode_values(ValueFormat.FP16, x)
    assert data.numpy().tobytes() == expected.tobytes()
    assert bits(decode_values(ValueFormat.FP16, data)) == expected.astype(np.float32).tobytes()


@EXAMPLES
@given(vectors())
def test_fp32_is_exact(x: Tensor) -> None:
    """The little-endian patterns themselves, denormals and -0.0 included."""
    data = encode_values(ValueFormat.FP32, x)
    assert data.numpy().tobytes() == x.numpy().astype("<f4").tobytes()
    assert bits(decode_values(ValueFormat.FP32, data)) == bits(x)


def test_decodes_from_any_offset_and_stride() -> None:
    """A payload may start at an odd byte of a longer tensor, or be every other byte of one."""
    x = torch.randn(5, generator=torch.Generator().manual_seed(0))
    for form in ValueFormat:
        data = encode_values(form, x)
        expected = decode_values(form, data.clone())
        for offset in range(5):
            longer = torch.cat((torch.zeros(offset, dtype=torch.uint8), data))
            assert torch.equal(decode_values(form, longer[offset:]), expected)
        assert torch.equal(decode_values(form, torch.stack((data, data), 1).flatten()[::2]), expected)


def test_one_value_or_none_of_any_stride() -> None:
    """PyTorch calls such tensors contiguous although their stride is not 1."""
    for form in ValueFormat:
        assert decode_values(form, encode_values(form, torch.tensor(2.0).expand(1))).tolist() == [2.0]
        assert encode_values(form, torch.ones(2, 2).t().flatten()[4::3]).tolist() == []
        assert decode_values(form, torch.zeros(2, dtype=torch.uint8)[2::2]).tolist() == []


def test_codes_and_widths() -> None:
    """Numbers that stand in payload headers must not change."""
    assert {name: (int(form), value_bytes(form)) for name, form in VALUE_NAMES.items()} == {
        "fp32": (0, 4),
        "fp16": (1, 2),
        "bf16": (2, 2),
    }
