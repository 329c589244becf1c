"""Bit packing. Oracle: one Python integer in which bit i of the sequence is bit i, as little-endian bytes.

The part for other devices is run on the CPU too, from a copy of the module's source without its CPU branch.
"""

import types
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import compression.bits
from tests.compression.cases import EXAMPLES


def elsewhere() -> types.ModuleType:
    source = Path(compression.bits.__file__).read_text(encoding="utf-8")
    assert source.count('device.type == "cpu"') == 6
    module = types.ModuleType("bits_elsewhere")
    module.__package__ = "compression"
    exec(source.replace('device.type == "cpu"', 'device.type == "nowhere"'), module.__dict__)
    return module


both = pytest.mark.parametrize("module", [compression.bits, elsewhere()], ids=["cpu", "elsewhere"])


def as_bytes(number: int, bit_count: int) -> bytes:
    return number.to_bytes(-(-bit_count // 8), "little")


@both
@EXAMPLES
@given(flags=st.lists(st.booleans(), max_size=70))
def test_bits_and_back(module: types.ModuleType, flags: list[bool]) -> None:
    """Bytes equal the integer's; unpacking ignores what lies beyond `count`."""
    bits = torch.tensor(flags, dtype=torch.bool)
    packed = module.pack_bits(bits)
    assert packed.dtype == torch.uint8
    assert packed.numpy().tobytes() == as_bytes(sum(flag << i for i, flag in enumerate(flags)), len(flags))
    assert torch.equal(module.unpack_bits(packed, len(flags)), bits)
    if len(flags) % 8:
        packed[-1] |= 0x80
        count = len(flags) // 8 * 8
        assert torch.equal(module.unpack_bits(packed, count), bits[:count])


@both
@EXAMPLES
@given(data=st.data(), width=st.integers(0, 32))
def test_fixed_width_and_back(module: types.ModuleType, data: st.DataObject, width: int) -> None:
    """Value i occupies bits i * width to (i + 1) * width of the integer."""
    values = data.draw(st.lists(st.integers(0, (1 << width) - 1), max_size=20))
    packed = module.pack_fixed(torch.tensor(values, dtype=torch.int64), width)
    number = sum(value << (i * width) for i, value in enumerate(values))
    assert packed.numpy().tobytes() == as_bytes(number, len(values) * width)
    unpacked = module.unpack_fixed(packed, width, len(values))
    assert unpacked.dtype == torch.int64
    assert unpacked.tolist() == values


@both
@EXAMPLES
@given(flags=st.lists(st.booleans(), max_size=40))
def test_positions_of_true_entries(module: types.ModuleType, flags: list[bool]) -> None:
    """Oracle: a list comprehension."""
    found = module.flat_nonzero(torch.tensor(flags, dtype=torch.bool))
    assert found.dtype == torch.int64
    assert found.tolist() == [i for i, flag in enumerate(flags) if flag]


def test_takes_strided_views() -> None:
    """A slice with a step packs like its copy."""
    bits = torch.from_numpy(np.random.default_rng(0).random(99) < 0.5)
    assert torch.equal(compression.bits.pack_bits(bits[::3]), compression.bits.pack_bits(bits[::3].clone()))
    values = torch.arange(64)
    assert torch.equal(compression.bits.pack_fixed(values[::2], 7), compression.bits.pack_fixed(values[::2].clone(), 7))


@both
@EXAMPLES
@given(values=st.lists(st.floats(width=32, allow_nan=False), max_size=20), bound=st.floats(width=32, allow_nan=False))
def test_compare(module: types.ModuleType, values: list[float], bound: float) -> None:
    """Oracle: Python's comparisons, with a number and with a tensor that broadcasts."""
    x, out = torch.tensor(values).view(1, -1), torch.empty(1, len(values), dtype=torch.uint8)
    for y in (bound, torch.tensor([[bound]])):
        assert module.compare("less", x, y, out).view(-1).tolist() == [value < bound for value in values]
        assert module.compare("greater_equal", x, y, out).view(-1).tolist() == [value >= bound for value in values]
