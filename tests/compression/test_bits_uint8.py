"""Packing of uint8. Oracle: packing of the same numbers as int64, which test_bits.py checks against whole numbers."""

import types

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import compression.bits
from tests.compression.cases import EXAMPLES
from tests.compression.test_bits import elsewhere

both = pytest.mark.parametrize("module", [compression.bits, elsewhere()], ids=["cpu", "elsewhere"])


@both
@EXAMPLES
@given(data=st.data(), width=st.integers(0, 8))
def test_uint8_and_back(module: types.ModuleType, data: st.DataObject, width: int) -> None:
    """The same bytes as from int64, of a strided view too; unpacked as uint8."""
    values = torch.tensor(data.draw(st.lists(st.integers(0, (1 << width) - 1), max_size=40)), dtype=torch.int64)
    packed = module.pack_fixed(values, width)
    assert torch.equal(module.pack_fixed(values.to(torch.uint8), width), packed)
    strided = torch.stack((values, values), 1)[:, 0].to(torch.uint8)
    assert torch.equal(module.pack_fixed(strided, width), packed)
    unpacked = module.unpack_fixed(packed, width, len(values), torch.uint8)
    assert unpacked.dtype == torch.uint8
    assert torch.equal(unpacked.long(), values)


@pytest.mark.parametrize("width", range(1, 33))
def test_many_groups(width: int) -> None:
    """Both parts of the module agree on 1,003 values, more than 64 bits many times over."""
    values = torch.randint(0, 1 << width, (1003,), generator=torch.Generator().manual_seed(width))
    packed = compression.bits.pack_fixed(values, width)
    assert torch.equal(packed, elsewhere().pack_fixed(values, width))
    assert torch.equal(compression.bits.unpack_fixed(packed, width, 1003), values)
