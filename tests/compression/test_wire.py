"""The wire format. Oracles: payloads written out by hand from the header table; the rule that what differs from them is a
PayloadError. Random damage: test_fuzz.py."""

import struct
from dataclasses import replace
from typing import Any

import pytest
import torch
import zstandard
from torch import Tensor

from compression import PayloadError, Sparse, make_codec
from compression.draws import random_positions
from compression.entropy import compress
from compression.index import IndexFormat
from compression.values import BF16, FP16, FP32, INT4, INT8, SIGN, Qsgd, ValueFormat
from compression.wire import HEADER_BYTES, Header, Kind, dense_bytes, read, read_header, write
from tests.compression.damage import cases, header, made, tensor

GOLDEN = {
    # 1.0, -2.0 and 0.5 at 3, 4 and 17 of 20. l = floor(log2(20 / 3)) = 2. Low parts 3, 0, 1 of two bits each: 01 00 11 =
    # 0x13. High parts 0, 1, 4: bits 0 + 0, 1 + 1 and 4 + 2 are set: 0100 0101 = 0x45.
    "Elias-Fano, bf16": (
        "4c 46  02  00  02  02  00  00   14 00 00 00  03 00 00 00  02 00 00 00  06 00 00 00   13  45   80 3f  00 c0  00 3f",
        Sparse(20, torch.tensor([3, 4, 17]), torch.tensor([1.0, -2.0, 0.5])),
        BF16,
    ),
    # 1.5, 2.0 and -1.0 at 0, 2 and 8 of 9. Elias-Fano would need 1 + 1 bytes too, and the simpler format wins: a bitmap,
    # lowest position in the lowest bit: 0000 0101, 0000 0001.
    "bitmap, fp16": (
        "4c 46  02  00  01  01  00  00   09 00 00 00  03 00 00 00  02 00 00 00  06 00 00 00   05 01   00 3e  00 40  00 bc",
        Sparse(9, torch.tensor([0, 2, 8]), torch.tensor([1.5, 2.0, -1.0])),
        FP16,
    ),
    # 16 neighbours from 48 on, of 100000: gaps 48 and fifteen zeros. Parameter 0 takes 48 + 16 bits, 1 takes 16 low bits and
    # 24 + 16, 2 takes 32 and 12 + 16: so 1 = 01. Low bits: all zero, 00 00. Unary: 24 zeros and 16 ones: 00 00 00 ff ff.
    # -1.0 sixteen times: the mean magnitude 1.0 in fp32, then a bit each, set for minus.
    "Rice, sign": (
        "4c 46  02  00  03  07  00  00   a0 86 01 00  10 00 00 00  08 00 00 00  06 00 00 00   01  00 00  00 00 00 ff ff   "
        "00 00 80 3f  ff ff",
        Sparse(100_000, torch.arange(48, 64), -torch.ones(16)),
        SIGN,
    ),
    # Both of two, no positions.
    "dense, fp32": (
        "4c 46  02  00  00  00  00  00   02 00 00 00  02 00 00 00  00 00 00 00  08 00 00 00   00 00 80 3f  00 00 00 c0",
        Sparse(2, None, torch.tensor([1.0, -2.0])),
        FP32,
    ),
    # Three values that need no rounding: scale 7.0, then levels 7, -7 and 0, each plus 7, two in a byte, the first lowest.
    "dense, int4": (
        "4c 46  02  00  00  04  00  00   03 00 00 00  03 00 00 00  00 00 00 00  06 00 00 00   00 00 e0 40   0e 07",
        Sparse(3, None, torch.tensor([7.0, -7.0, 0.0])),
        INT4,
    ),
    # One value: the norm of its block is 2.0, so its level is 1 of 1, plus 1; two bits. The parameter is the levels.
    "dense, qsgd:1": (
        "4c 46  02  00  00  08  01  00   01 00 00 00  01 00 00 00  00 00 00 00  05 00 00 00   00 00 00 40   02",
        Sparse(1, None, torch.tensor([2.0])),
        Qsgd.of(1),
    ),
}


def hexadecimal(data: Tensor) -> str:
    return data.numpy().tobytes().hex(" ")


@pytest.mark.parametrize(("text", "sparse", "value"), GOLDEN.values(), ids=GOLDEN.keys())
def test_golden_payloads(text: str, sparse: Sparse, value: ValueFormat) -> None:
    """Written by hand from the table in `compression/wire.py`: the format cannot change unnoticed."""
    data, _ = write(sparse, value)
    assert hexadecimal(data) == bytes.fromhex(text).hex(" ")
    decoded = read(tensor(bytes.fromhex(text)), sparse.n)
    assert str(decoded.indices) == str(sparse.indices)
    assert decoded.values.tolist() == sparse.values.tolist()


def test_golden_seeded_payload() -> None:
    """The positions are the key, 258 = 02 01 and zeros; 2.0 three times in bf16."""
    positions = random_positions(258, 30, 3, "cpu")
    data, _ = write(Sparse(30, positions, torch.full((3,), 2.0)), BF16, key=258, seeded=True)
    text = "4c 46 02 00 04 02 00 00  1e 00 00 00 03 00 00 00 08 00 00 00 06 00 00 00  02 01 00 00 00 00 00 00  "
    assert hexadecimal(data) == bytes.fromhex(text + "00 40 00 40 00 40").hex(" ")
    assert str(read(data, 30).indices) == str(positions)


def test_entropy_coded_values_are_a_zstandard_frame_after_the_scales() -> None:
    """Any zstd decoder reads the codes: 200 times the largest of int8, 254; the flag is the eighth byte."""
    data, decoded = write(Sparse(200, None, torch.full((200,), 3.0)), INT8, coded=True)
    raw = data.numpy().tobytes()
    assert raw[7] == 1
    assert raw[24:28] == struct.pack("<f", 3.0)
    assert zstandard.ZstdDecompressor().decompress(raw[28:], max_output_size=1000) == b"\xfe" * 200
    assert len(raw) < 60
    assert torch.equal(read(data, 200).values, decoded.values)
    noise = torch.randn(200, generator=torch.Generator().manual_seed(0))
    assert (
        write(Sparse(200, None, noise.view(torch.int32).bitwise_and_(0x3FFFFFFF).view(torch.float32)), FP32)[0][7] == 0
    )


def test_an_entropy_stage_that_does_not_pay_is_left_out() -> None:
    """One value; the payload is the one without the stage."""
    for value in (FP32, BF16, INT8, SIGN):
        sparse = Sparse(9, torch.tensor([4]), torch.tensor([0.3]))
        assert torch.equal(write(sparse, value, coded=True)[0], write(sparse, value)[0])


def test_kinds() -> None:
    """The kind is the fourth byte; a payload of another kind is refused."""
    for kind in Kind:
        data, _ = write(Sparse(1, None, torch.ones(1)), FP32, kind)
        assert data[3] == kind
        assert read(data, 1, kind).values.tolist() == [1.0]
        for other in set(Kind) - {kind}:
            with pytest.raises(PayloadError, match=f"of kind {kind.name} .*; expected {other.name}"):
                read(data, 1, other)


FLOAT = struct.pack("<f", 1.0)
PLUS = FLOAT + b"\0"  # 1.0 as sign
FRAME = compress(tensor(b"\x00\x00\x80\x3f")).numpy().tobytes()
ONE: dict[str, Any] = {"n": 1, "k": 1}
BITMAP, ELIAS_FANO, RICE, SEEDED, GAPS = (form for form in IndexFormat if form is not IndexFormat.DENSE)
GOOD = (
    made(values=FLOAT, **ONE),
    made(values=PLUS, value=7, **ONE),
    made(values=FRAME, entropy=1, **ONE),
    *(made(b"\1", FLOAT, index=form, **ONE) for form in (BITMAP, ELIAS_FANO)),
    made(b"\0\1", FLOAT, index=RICE, **ONE),
    made(bytes(8), FLOAT, index=SEEDED, **ONE),
    made(struct.pack("<I", 10) + compress(tensor(b"\0")).numpy().tobytes(), FLOAT, index=GAPS, **ONE),
)
REFUSED = {
    "nothing": b"",
    "half a header": header(**ONE)[:23],
    "no values": header(**ONE),
    "too short": GOOD[0][:-1],
    "too long": GOOD[0] + b"\0",
    "magic": b"FL" + GOOD[0][2:],
    "version 1": made(values=FLOAT, version=1, **ONE),
    "version 3": made(values=FLOAT, version=3, **ONE),
    "kind": made(values=FLOAT, kind=3, **ONE),
    "index format": made(values=FLOAT, index=6, **ONE),
    "value format": made(values=FLOAT, value=9, **ONE),
    "a parameter of fp32": made(values=FLOAT, parameter=1, **ONE),
    "qsgd without levels": made(values=PLUS, value=8, **ONE),
    "qsgd with 128 levels": made(values=PLUS, value=8, parameter=128, **ONE),
    "entropy coder": made(values=FRAME, entropy=2, **ONE),
    "another n": made(values=2 * FLOAT, n=2, k=2),
    "n = 2^32 - 1": made(values=FLOAT, n=2**32 - 1, k=2**32 - 1),
    "k > n": made(b"\1", 2 * FLOAT, index=BITMAP, n=1, k=2),
    "k > n, huge": made(b"\1", FLOAT, index=ELIAS_FANO, n=1, k=2**32 - 1),
    "dense, but k < n": made(n=1, k=0),
    "dense, but positions": made(b"\1", FLOAT, **ONE),
    "positions of 2^32 - 1 bytes": made(b"\1", FLOAT, index=BITMAP, index_bytes=2**32 - 1, **ONE),
    "positions longer by the values": made(b"\1", FLOAT, index=BITMAP, index_bytes=5, **ONE),
    "values of 2^32 - 1 bytes": made(values=FLOAT, value_bytes=2**32 - 1, **ONE),
    "coded values of 2^32 - 1 bytes": made(values=FRAME, entropy=1, value_bytes=2**32 - 1, **ONE),
    "values of the width of bf16": made(values=FLOAT[:2], **ONE),
    "NaN": made(values=struct.pack("<f", float("nan")), **ONE),
    "infinity": made(values=struct.pack("<f", float("-inf")), **ONE),
    "fp16 infinity": made(values=b"\x00\x7c", value=1, **ONE),
    "bf16 NaN": made(values=b"\xff\xff", value=2, **ONE),
    "no code": made(values=FLOAT, value=7, **ONE),
    "a stray bit after the codes": made(values=FLOAT + b"\2", value=7, **ONE),
    "a scale that is NaN": made(values=b"\xff\xff\xff\x7f\0", value=7, **ONE),
    "a code of int4 beyond the largest": made(values=FLOAT + b"\x0f", value=4, **ONE),
    "coded, but plain": made(values=FLOAT, entropy=1, **ONE),
    "coded, but no scale": made(values=FRAME[:3], value=7, entropy=1, **ONE),
    "coded, a frame cut": made(values=FRAME[:-1], entropy=1, **ONE),
    "coded, a byte after the frame": made(values=FRAME + b"\0", entropy=1, **ONE),
    "coded, a frame of three bytes": made(values=compress(tensor(b"abc")).numpy().tobytes(), entropy=1, **ONE),
    "coded, infinity": made(values=compress(tensor(b"\0\0\x80\x7f")).numpy().tobytes(), entropy=1, **ONE),
    "bitmap of fewer": made(b"\0", FLOAT, index=BITMAP, **ONE),
    "bitmap of more": made(b"\1", index=BITMAP, n=1, k=0),
    "bitmap beyond n": made(b"\2", FLOAT, index=BITMAP, **ONE),
    "bitmap with a stray bit": made(b"\3", FLOAT, index=BITMAP, **ONE),
    "Elias-Fano of fewer": made(b"\0", FLOAT, index=ELIAS_FANO, **ONE),
    "Elias-Fano beyond n": made(b"\2", FLOAT, index=ELIAS_FANO, **ONE),
    "Rice without a one": made(b"\0\0", FLOAT, index=RICE, **ONE),
    "Rice beyond n": made(b"\0\2", FLOAT, index=RICE, **ONE),
    "half a key": made(bytes(4), FLOAT, index=SEEDED, **ONE),
    "a key of 2^63": made(bytes(7) + b"\x80", FLOAT, index=SEEDED, **ONE),
    "gaps without a frame": made(bytes(4), FLOAT, index=GAPS, **ONE),
    "gaps with a frame beyond the end": made(b"\xff" + GOOD[-1][25:-4], FLOAT, index=GAPS, **ONE),
}


def test_the_payloads_that_the_refused_ones_differ_from() -> None:
    """One coordinate, 1.0, in each index format and three value sections."""
    for good in GOOD:
        assert read(tensor(good), 1).dense().tolist() == [1.0]


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED.keys())
def test_refused_for_one_coordinate(data: bytes) -> None:
    """Each differs in one thing from a payload that is fine (the test above)."""
    with pytest.raises(PayloadError):
        read(tensor(data), 1)


def test_lengths_are_in_the_header() -> None:
    """`read_header(...).payload_bytes` is the length, for every codec and size; the dense baseline is 24 + 4 n."""
    for case in cases():
        assert read_header(tensor(case.payload)).payload_bytes == len(case.payload)
    assert dense_bytes(10) == 24 + 40 == HEADER_BYTES + 40
    assert make_codec("none").encode(torch.ones(10))[0].numel() == 64


def test_lengths_beyond_four_bytes() -> None:
    """2^30 fp32 values take 2^32 bytes: the field holds its largest number, and the length follows from k and the format.

    The oracle is arithmetic: 4 k for fp32, k + 4 k / 256 for int8. A field that is smaller by one is refused, and a vector
    of 2^32 coordinates has no header.
    """
    for value, k, length in ((FP32, 1 << 30, 1 << 32), (INT8, (1 << 32) - 256, (1 << 32) - 256 + (1 << 26) - 4)):
        written = Header(Kind.UPDATE, IndexFormat.DENSE, value, False, k, k, 0, length)
        data = written.to_bytes()
        assert data[20:] == b"\xff" * 4
        assert read_header(tensor(data)) == written
        with pytest.raises(PayloadError, match="take another number"):
            read_header(tensor(data[:20] + b"\xfe\xff\xff\xff"))
    shorter = Header(Kind.UPDATE, IndexFormat.DENSE, FP32, False, (1 << 30) - 1, (1 << 30) - 1, 0, (1 << 32) - 4)
    assert shorter.to_bytes()[20:] == b"\xfc\xff\xff\xff"
    assert read_header(tensor(shorter.to_bytes())) == shorter
    with pytest.raises(ValueError, match="4294967296 coordinates"):
        replace(shorter, n=1 << 32, k=1 << 32).to_bytes()


def test_sparse_vectors_add_up() -> None:
    """`dense` and `add_to` against NumPy-style indexing, sparse and dense; `dense` is a copy."""
    values = torch.tensor([2.0, -1.0])
    sparse = Sparse(4, torch.tensor([1, 3]), values)
    assert sparse.dense().tolist() == [0, 2, 0, -1]
    assert sparse.add_to(torch.ones(4), 0.5).tolist() == [1, 2, 1, 0.5]
    assert Sparse(2, None, values).add_to(torch.ones(2), 2.0).tolist() == [5, -1]
    Sparse(2, None, values).dense().zero_()
    sparse.dense().zero_()
    assert values.tolist() == [2.0, -1.0]
