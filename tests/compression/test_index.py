"""Position formats. Oracle: Elias-Fano as defined by Elias (1974), bit by bit on a Python integer."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from compression import PayloadError
from compression.index import IndexFormat, choose, decode_index, encode_index, index_bytes
from tests.compression.cases import EXAMPLES

SPARSE = [IndexFormat.BITMAP, IndexFormat.ELIAS_FANO]


@st.composite
def positions(draw: st.DrawFn) -> tuple[int, list[int]]:
    n = draw(st.one_of(st.integers(0, 40), st.sampled_from([63, 64, 65, 1023, 1024, 1025, 100_000])))
    return n, sorted(draw(st.sets(st.integers(0, n - 1), max_size=50))) if n else []


def elias_fano(n: int, chosen: list[int]) -> bytes:
    """l = floor(log2(n / k)) low bits of each position; then, in unary, the steps of the high parts."""
    k = len(chosen)
    if not k:
        return b""
    low = math.floor(math.log2(n / k))
    lows = sum((p & ((1 << low) - 1)) << (i * low) for i, p in enumerate(chosen))
    highs = sum(1 << ((p >> low) + i) for i, p in enumerate(chosen))
    return lows.to_bytes(-(-k * low // 8), "little") + highs.to_bytes(-(-(k + ((n - 1) >> low) + 1) // 8), "little")


@EXAMPLES
@given(positions())
def test_elias_fano_bytes(case: tuple[int, list[int]]) -> None:
    """Equal to the definition, byte for byte, and as long as predicted."""
    n, chosen = case
    data = encode_index(IndexFormat.ELIAS_FANO, torch.tensor(chosen, dtype=torch.int64), n)
    assert data.numpy().tobytes() == elias_fano(n, chosen)
    if chosen:
        bits = len(chosen) * (2 + math.log2(n / len(chosen)))
        assert 8 * data.numel() <= bits + 1 + 2 * 7  # two parts, each filled up to a byte


@pytest.mark.parametrize("form", SPARSE)
@EXAMPLES
@given(case=positions())
def test_back_again(form: IndexFormat, case: tuple[int, list[int]]) -> None:
    """Decoding gives the positions; the length is a function of (n, k)."""
    n, chosen = case
    data = encode_index(form, torch.tensor(chosen, dtype=torch.int64), n)
    assert data.numel() == index_bytes(form, n, len(chosen))
    assert decode_index(form, data, n, len(chosen)).tolist() == chosen


@pytest.mark.parametrize("n", [1, 2, 7, 8, 9, 64, 65])
def test_every_position_and_the_whole_range(n: int) -> None:
    """k = n, and each single position."""
    for chosen in [torch.arange(n), *torch.arange(n).split(1)]:
        for form in SPARSE:
            data = encode_index(form, chosen, n)
            assert torch.equal(decode_index(form, data, n, chosen.numel()), chosen)


def test_large_vector_of_positions() -> None:
    """Positions beyond 2^31, where a 32-bit integer would wrap."""
    n = (1 << 32) - 1
    chosen = torch.tensor([0, 1, (1 << 31) - 1, 1 << 31, n - 2, n - 1])
    data = encode_index(IndexFormat.ELIAS_FANO, chosen, n)
    assert data.numpy().tobytes() == elias_fano(n, chosen.tolist())
    assert torch.equal(decode_index(IndexFormat.ELIAS_FANO, data, n, 6), chosen)


@EXAMPLES
@given(st.integers(0, 5000), st.data(), st.sampled_from([2, 4]))
def test_the_smallest_format_is_chosen(n: int, data: st.DataObject, width: int) -> None:
    """Oracle: all three sizes written out; never above the dense one."""
    k = data.draw(st.integers(0, n))
    sizes = [width * n, -(-n // 8) + width * k, len(elias_fano(n, list(range(k)))) + width * k]
    form = choose(n, k, width)
    assert sizes[form] == min(sizes)
    assert form == sizes.index(min(sizes))


@pytest.mark.parametrize("form", SPARSE)
def test_every_single_bit_flip_is_noticed_or_another_valid_set(form: IndexFormat) -> None:
    """40 coordinates, 5 positions: no flip gives positions that do not ascend, or lie outside."""
    n, chosen = 40, torch.tensor([0, 7, 8, 31, 39])
    good = encode_index(form, chosen, n)
    refused = 0
    for bit in range(8 * good.numel()):
        data = good.clone()
        data[bit // 8] ^= 1 << (bit % 8)
        try:
            found = decode_index(form, data, n, 5)
        except PayloadError:
            refused += 1
        else:
            assert found.tolist() == sorted(set(found.tolist()))
            assert 0 <= int(found[0]) <= int(found[-1]) < n
            assert found.tolist() != chosen.tolist()
    assert refused >= good.numel()


def test_positions_out_of_range_or_repeated_are_refused() -> None:
    """Elias-Fano parts made by hand: the last position n, and one position twice."""
    beyond = torch.tensor(
        list(elias_fano(12, [0, 5, 11])), dtype=torch.uint8
    )  # as if n were 10: same l = 2 and lengths
    assert index_bytes(IndexFormat.ELIAS_FANO, 10, 3) == beyond.numel()
    for _, data in [("beyond", beyond), ("twice", torch.tensor(list(elias_fano(12, [3, 3, 8])), dtype=torch.uint8))]:
        with pytest.raises(PayloadError):
            decode_index(IndexFormat.ELIAS_FANO, data, 10, 3)


def test_a_dense_payload_has_no_positions() -> None:
    """A mistake of the caller, not of the sender."""
    with pytest.raises(ValueError, match="no positions"):
        decode_index(IndexFormat.DENSE, torch.empty(0, dtype=torch.uint8), 0, 0)
