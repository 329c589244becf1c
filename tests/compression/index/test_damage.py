"""Positions from damaged bytes. Oracle: the rule that any byte string is k ascending positions below n or a PayloadError,
and that neither takes more memory than n and the bytes warrant."""

import random

import pytest
import torch
from torch import Tensor

from compression import PayloadError
from compression.entropy import compress, pack_symbols
from compression.index import IndexFormat, decode_index, encode_index
from tests.compression.damage import LargestTensor

WRITTEN = [IndexFormat.BITMAP, IndexFormat.ELIAS_FANO, IndexFormat.RICE, IndexFormat.GAPS]
SPARSE = [*WRITTEN, IndexFormat.SEEDED]


def tensor(data: bytes) -> Tensor:
    return torch.tensor(list(data), dtype=torch.uint8)


def check(form: IndexFormat, data: Tensor, n: int, k: int) -> bool:
    """Whether `data` was decoded; if so, the positions are valid."""
    try:
        found = decode_index(form, data, n, k)
    except PayloadError:
        return False
    assert found.dtype == torch.int64
    listed = found.tolist()
    assert len(listed) == k
    assert listed == sorted(set(listed))
    assert not listed or (listed[0] >= 0 and listed[-1] < n)
    return True


def bases() -> list[tuple[IndexFormat, int, int, bytes]]:
    generator, found = torch.Generator().manual_seed(1), []
    for n in (0, 1, 7, 8, 9, 40, 1000, 70_000):
        for density in (0.0, 0.02, 0.4, 1.0):
            kept = torch.randperm(n, generator=generator)[: min(200, round(density * n))].sort().values
            for form in WRITTEN:
                found.append((form, n, kept.numel(), encode_index(form, kept, n).numpy().tobytes()))
    return found


def damage(data: bytearray, rng: random.Random) -> bytearray:
    kind = rng.randrange(5)
    if kind == 0 and data:
        for _ in range(rng.randint(1, 3)):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == 1 and data:
        data = data[: rng.randrange(len(data))]
    elif kind == 2:
        data += rng.randbytes(rng.randint(1, 9))
    elif kind == 3 and data:
        start = rng.randrange(len(data))
        data[start:] = rng.randbytes(len(data) - start)
    return data


@pytest.mark.slow
def test_damaged_bytes_are_valid_or_refused() -> None:
    """20,000 flipped, cut, lengthened and overwritten encodings, some for another n, k or format; both outcomes occur."""
    rng, cases = random.Random(7), bases()
    decoded = dict.fromkeys(SPARSE, 0)
    for _ in range(20_000):
        form, n, k, base = rng.choice(cases)
        data = bytes(damage(bytearray(base), rng))
        if rng.random() < 0.2:
            form = rng.choice(SPARSE)
        if rng.random() < 0.2:
            n, k = rng.choice([(n, k + 1), (n, max(0, k - 1)), (n + 1, k), (max(0, n - 1), k), (n, n), (k, n)])
        decoded[form] += check(form, tensor(data), n, k)
    assert all(decoded[form] > 100 for form in WRITTEN)
    assert sum(decoded.values()) < 15_000


@pytest.mark.parametrize("form", WRITTEN)
def test_every_single_bit_flip_is_refused_or_another_valid_set(form: IndexFormat) -> None:
    """40 coordinates, 5 positions."""
    n, chosen = 40, torch.tensor([0, 7, 8, 31, 39])
    good = encode_index(form, chosen, n)
    for bit in range(8 * good.numel()):
        data = good.clone()
        data[bit // 8] ^= 1 << (bit % 8)
        check(form, data, n, 5)


def gaps_part(classes: list[int], below: bytes) -> bytes:
    frame = compress(pack_symbols(tensor(bytes(classes)), 4)).numpy().tobytes()
    return len(frame).to_bytes(4, "little") + frame + below


REFUSED = {
    "bitmap of fewer": (IndexFormat.BITMAP, b"\0", 1, 1),
    "bitmap of more": (IndexFormat.BITMAP, b"\1", 1, 0),
    "bitmap beyond n": (IndexFormat.BITMAP, b"\2", 1, 1),
    "bitmap too long": (IndexFormat.BITMAP, b"\1\0", 1, 1),
    "Elias-Fano of fewer": (IndexFormat.ELIAS_FANO, b"\0", 1, 1),
    "Elias-Fano beyond n": (IndexFormat.ELIAS_FANO, b"\2", 1, 1),
    "Elias-Fano with a stray bit": (IndexFormat.ELIAS_FANO, b"\5", 1, 1),
    "Elias-Fano too long": (IndexFormat.ELIAS_FANO, b"\1\0", 1, 1),
    "Rice without unary part": (IndexFormat.RICE, b"\0", 1, 1),
    "Rice of fewer": (IndexFormat.RICE, b"\0\0", 1, 1),
    "Rice of more": (IndexFormat.RICE, b"\0\3", 2, 1),
    "Rice beyond n": (IndexFormat.RICE, b"\0\2", 1, 1),
    "Rice with a byte too many": (IndexFormat.RICE, b"\0\1\0", 1, 1),
    "Rice with a stray parameter bit": (IndexFormat.RICE, b"\x20\1", 1, 1),
    "Rice with a stray low bit": (IndexFormat.RICE, b"\1\2\1", 1, 1),
    "Rice with a parameter of 31 and no low bits": (IndexFormat.RICE, b"\x1f\1", 1, 1),
    "gaps without length": (IndexFormat.GAPS, b"\0\0\0", 1, 1),
    "gaps with a long frame": (IndexFormat.GAPS, b"\xff\xff\xff\xff" + gaps_part([0], b"")[4:], 1, 1),
    "gaps with a stray class": (IndexFormat.GAPS, gaps_part([0, 1], b""), 2, 1),
    "gaps beyond n": (IndexFormat.GAPS, gaps_part([1], b"\0"), 1, 1),
    "gaps with a stray low bit": (IndexFormat.GAPS, gaps_part([1], b"\2"), 9, 1),
    "gaps with a byte too many": (IndexFormat.GAPS, gaps_part([0], b"\0"), 1, 1),
    "a small gap written out": (IndexFormat.GAPS, gaps_part([15], (2**15 - 2).to_bytes(2, "little")), 2**16, 1),
    "k > n": (IndexFormat.GAPS, gaps_part([0, 0], b""), 1, 2),
}


@pytest.mark.parametrize(("form", "data", "n", "k"), REFUSED.values(), ids=REFUSED.keys())
def test_refused(form: IndexFormat, data: bytes, n: int, k: int) -> None:
    """Each differs in one thing from an encoding that is fine (the next test)."""
    with pytest.raises(PayloadError):
        decode_index(form, tensor(data), n, k)


def test_what_the_refused_ones_differ_from() -> None:
    """The encodings of position 0 of 1, and a gap that needs the escape."""
    for form, data in (("BITMAP", b"\1"), ("ELIAS_FANO", b"\1"), ("RICE", b"\0\1"), ("GAPS", gaps_part([0], b""))):
        assert decode_index(IndexFormat[form], tensor(data), 1, 1).tolist() == [0]
    assert decode_index(IndexFormat.RICE, tensor(b"\1\1\1"), 2, 1).tolist() == [1]
    assert decode_index(IndexFormat.GAPS, tensor(gaps_part([1], b"\1")), 9, 1).tolist() == [2]
    escaped = gaps_part([15], (2**15 - 1).to_bytes(2, "little"))
    assert decode_index(IndexFormat.GAPS, tensor(escaped), 2**16, 1).tolist() == [2**15 - 1]


def test_gaps_that_would_overflow() -> None:
    """Parameter 31 with long unary parts, 200 times: sums beyond 2^63 in a naive decoder."""
    parameters = int("11111" * 13, 2).to_bytes(9, "little")
    data = parameters + b"\xff" * (200 * 31 // 8) + b"\x80" * 200
    assert not check(IndexFormat.RICE, tensor(data), 2**32 - 1, 200)
    many = gaps_part([15] * 3000, b"\xff" * (3000 * 4))
    assert not check(IndexFormat.GAPS, tensor(many), 2**32 - 1, 3000)


@pytest.mark.parametrize("n", [100, 2**31, 2**32 - 1])
@pytest.mark.parametrize("k", [1, 100, 2**31, 2**32 - 1])
@pytest.mark.parametrize("form", [IndexFormat.BITMAP, IndexFormat.ELIAS_FANO, IndexFormat.RICE])
def test_few_bytes_cannot_make_the_decoder_allocate(form: IndexFormat, n: int, k: int) -> None:
    """Whatever n and k are claimed, 200 bytes take no more than they could hold."""
    with LargestTensor() as largest:
        assert not check(form, torch.zeros(200, dtype=torch.uint8), n, k)
    assert largest.elements <= 1600


def test_a_frame_that_expands_is_bounded_by_k() -> None:
    """A frame of few bytes for a million classes, asked for 100 positions: refused before the million are there."""
    data = tensor(gaps_part([0] * 1_000_000, b""))
    assert data.numel() < 1000
    with LargestTensor() as largest:
        assert not check(IndexFormat.GAPS, data, 1_000_000, 100)
    assert largest.elements <= 1000
