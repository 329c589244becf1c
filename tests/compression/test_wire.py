"""The wire format. Oracles: payloads written out by hand from the header table; for damaged bytes, the rule that they
are a valid vector or a PayloadError, and nothing else."""

import random
import struct
import tracemalloc

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from compression import PayloadError, Sparse, make_codec
from compression.index import IndexFormat
from compression.values import ValueFormat
from compression.wire import HEADER_BYTES, Kind, dense_bytes, read, read_header, split_payloads, write


def payload(text: str) -> Tensor:
    return torch.tensor(list(bytes.fromhex(text)), dtype=torch.uint8)


def hexadecimal(data: Tensor) -> str:
    return data.numpy().tobytes().hex(" ")


def header(**fields: int) -> bytes:
    known = {"version": 1, "kind": 0, "index": 0, "value": 0, "zero": 0, "n": 0, "k": 0, **fields}
    return struct.pack("<2sBBBBHII", b"LF", *known.values())


GOLDEN = [
    # 1.0, -2.0 and 0.5 at 3, 4 and 17 of 20 in bf16. Elias-Fano: l = floor(log2(20 / 3)) = 2. Low parts 3, 0, 1 of two
    # bits each: 01 00 11 = 0x13. High parts 0, 1, 4: bits 0 + 0, 1 + 1 and 4 + 2 are set: 0100 0101 = 0x45.
    (
        "4c 46  01  00  02  02  00 00  14 00 00 00  03 00 00 00   13  45   80 3f  00 c0  00 3f",
        Sparse(20, torch.tensor([3, 4, 17]), torch.tensor([1.0, -2.0, 0.5])),
        ValueFormat.BF16,
    ),
    # 1.5, 2.0 and -1.0 at 0, 2 and 8 of 9 in fp16. Elias-Fano would need 1 + 1 bytes too, and the simpler format wins:
    # a bitmap, lowest position in the lowest bit: 0000 0101, 0000 0001.
    (
        "4c 46  01  00  01  01  00 00  09 00 00 00  03 00 00 00   05 01   00 3e  00 40  00 bc",
        Sparse(9, torch.tensor([0, 2, 8]), torch.tensor([1.5, 2.0, -1.0])),
        ValueFormat.FP16,
    ),
    # Both of two in fp32, no positions.
    (
        "4c 46  01  00  00  00  00 00  02 00 00 00  02 00 00 00   00 00 80 3f  00 00 00 c0",
        Sparse(2, None, torch.tensor([1.0, -2.0])),
        ValueFormat.FP32,
    ),
]


@pytest.mark.parametrize(("text", "sparse", "value"), GOLDEN, ids=["elias-fano", "bitmap", "dense"])
def test_golden_payloads(text: str, sparse: Sparse, value: ValueFormat) -> None:
    """Written by hand from the table in `compression/wire.py`: the format cannot change unnoticed."""
    data, _ = write(sparse, value)
    assert hexadecimal(data) == hexadecimal(payload(text))
    decoded = read(payload(text), sparse.n)
    assert str(decoded.indices) == str(sparse.indices)
    assert decoded.values.tolist() == sparse.values.tolist()


def test_kinds() -> None:
    """The kind is the fourth byte; a payload of another kind is refused."""
    data, _ = write(Sparse(1, None, torch.ones(1)), ValueFormat.FP32, Kind.BUFFERS)
    assert data[3] == 1
    assert read(data, 1, Kind.BUFFERS).values.tolist() == [1.0]
    with pytest.raises(PayloadError, match="expected UPDATE"):
        read(data, 1)


ONE = header(n=1, k=1)
FLOAT = struct.pack("<f", 1.0)
REFUSED = {
    "nothing": b"",
    "half a header": ONE[:15],
    "no values": ONE,
    "too short": ONE + FLOAT[:3],
    "too long": ONE + FLOAT + b"\0",
    "magic": b"FL" + ONE[2:] + FLOAT,
    "version": header(version=2, n=1, k=1) + FLOAT,
    "kind": header(kind=9, n=1, k=1) + FLOAT,
    "index format": header(index=3, n=1, k=1) + FLOAT,
    "value format": header(value=3, n=1, k=1) + FLOAT,
    "reserved": header(zero=1, n=1, k=1) + FLOAT,
    "another n": header(n=2, k=2) + 2 * FLOAT,
    "n = 2^32 - 1": header(n=2**32 - 1, k=2**32 - 1) + FLOAT,
    "k > n": header(index=1, n=1, k=2) + b"\1" + 2 * FLOAT,
    "k > n, huge": header(index=2, n=1, k=2**32 - 1) + FLOAT,
    "dense, but k < n": header(n=1, k=0),
    "NaN": ONE + struct.pack("<f", float("nan")),
    "infinity": ONE + struct.pack("<f", float("-inf")),
    "fp16 infinity": header(value=1, n=1, k=1) + b"\x00\x7c",
    "bf16 NaN": header(value=2, n=1, k=1) + b"\xff\xff",
    "bitmap of fewer": header(index=1, n=1, k=1) + b"\0" + FLOAT,
    "bitmap of more": header(index=1, n=1, k=0) + b"\1",
    "bitmap beyond n": header(index=1, n=1, k=1) + b"\2" + FLOAT,
    "bitmap with a stray bit": header(index=1, n=1, k=1) + b"\3" + FLOAT,
    "Elias-Fano of fewer": header(index=2, n=1, k=1) + b"\0" + FLOAT,
    "Elias-Fano of more": header(index=2, n=1, k=1) + b"\3" + FLOAT,
    "Elias-Fano beyond n": header(index=2, n=1, k=1) + b"\2" + FLOAT,
    "Elias-Fano with a stray bit": header(index=2, n=1, k=1) + b"\5" + FLOAT,
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED.keys())
def test_refused_for_one_coordinate(data: bytes) -> None:
    """Each differs in one thing from a payload that is fine (the last assertion)."""
    with pytest.raises(PayloadError):
        read(torch.tensor(list(data), dtype=torch.uint8), 1)
    for good in (ONE + FLOAT, header(index=1, n=1, k=1) + b"\1" + FLOAT, header(index=2, n=1, k=1) + b"\1" + FLOAT):
        assert read(torch.tensor(list(good), dtype=torch.uint8), 1).dense().tolist() == [1.0]


def bases() -> list[tuple[int, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    specs = ("none", "bf16", "topk:0.02", "topk:0.1+bf16", "topk:0.4+fp16", "threshold:1e30", "prune:0.95")
    found = []
    for n in (0, 1, 7, 8, 9, 40, 1000):
        for spec in specs:
            found.append((n, make_codec(spec).encode(torch.randn(n, generator=generator))[0]))
    return found


def damage(data: bytearray, rng: random.Random) -> bytearray:
    kind = rng.randrange(7)
    if kind == 0:
        for _ in range(rng.randint(1, 4)):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == 1:
        data = data[: rng.randrange(len(data))]
    elif kind == 2:
        data += rng.randbytes(rng.randint(1, 9))
    elif kind == 3:
        field = rng.choice([8, 12])
        data[field : field + 4] = struct.pack("<I", rng.choice([0, 1, 2, 40, 999, 1001, 2**31, 2**32 - 1]))
    elif kind == 4:
        data[rng.choice([2, 3, 4, 5])] = rng.choice([0, 1, 2, 3, 255])
    elif kind == 5 and len(data) > HEADER_BYTES:
        start = rng.randrange(HEADER_BYTES, len(data))
        data[start:] = rng.randbytes(len(data) - start)
    else:
        data = bytearray(rng.randbytes(rng.randrange(60)))
        if rng.random() < 0.8:
            data[:HEADER_BYTES] = header(
                index=rng.randrange(3), value=rng.randrange(3), n=rng.randrange(50), k=rng.randrange(50)
            )
    return data


def check(data: Tensor, n: int) -> bool:
    """Whether `data` was decoded; if so, the vector is a valid one."""
    try:
        sparse = read(data, n)
    except PayloadError:
        return False
    assert sparse.n == n
    assert sparse.values.dtype == torch.float32
    assert bool(torch.isfinite(sparse.values).all())
    if sparse.indices is None:
        assert sparse.kept == n
    else:
        assert sparse.indices.shape == sparse.values.shape
        found = sparse.indices.tolist()
        assert found == sorted(set(found))
        assert not found or (found[0] >= 0 and found[-1] < n)
    return True


def test_damaged_payloads_are_valid_or_refused() -> None:
    """20,000 flipped, cut, lengthened, rewritten and random byte strings; both outcomes occur often."""
    rng, cases, decoded = random.Random(7), bases(), 0
    for _ in range(20_000):
        n, base = rng.choice(cases)
        data = bytes(damage(bytearray(base.numpy().tobytes()), rng))
        decoded += check(torch.tensor(list(data), dtype=torch.uint8), n)
    assert 1000 < decoded < 19_000


def test_damaged_streams_are_cut_into_payloads_or_refused() -> None:
    """`split_payloads` on up to three payloads, one of them damaged: pieces that join to the stream, or PayloadError."""
    rng, cases, split = random.Random(8), bases(), 0
    for _ in range(2000):
        parts = [rng.choice(cases)[1].numpy().tobytes() for _ in range(rng.randint(1, 3))]
        hit = rng.randrange(len(parts))
        parts[hit] = bytes(damage(bytearray(parts[hit]), rng))
        data = torch.tensor(list(b"".join(parts)), dtype=torch.uint8)
        try:
            found = split_payloads(data, len(parts))
        except PayloadError:
            continue
        split += 1
        assert len(found) == len(parts)
        assert torch.equal(torch.cat(found), data)
    assert 100 < split < 1900


def test_splits_what_was_laid_end_to_end() -> None:
    """Each piece decodes although it starts at any offset, and an incomplete or overlong stream is refused."""
    cases = bases()
    data = torch.cat([part for _, part in cases])
    for (n, whole), part in zip(cases, split_payloads(data, len(cases)), strict=True):
        assert torch.equal(part, whole)
        assert torch.equal(read(part, n).dense(), read(whole, n).dense())
    assert split_payloads(data[:0], 0) == []
    for stream, count in ((data, len(cases) + 1), (data, len(cases) - 1), (data[:-1], len(cases)), (data[:0], 1)):
        with pytest.raises(PayloadError):
            split_payloads(stream, count)


class LargestTensor(TorchDispatchMode):
    """Elements of the largest tensor that any operation returned."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.elements = max(self.elements, result.numel())
        return result


@pytest.mark.parametrize("k", [0, 1, 100, 2**31, 2**32 - 1])
@pytest.mark.parametrize("n", [100, 2**31, 2**32 - 1])
@pytest.mark.parametrize("index", list(IndexFormat))
def test_a_header_cannot_make_the_decoder_allocate(index: IndexFormat, n: int, k: int) -> None:
    """Whatever the header claims, 200 bytes for 100 coordinates take no more memory than those need."""
    data = torch.zeros(200, dtype=torch.uint8)
    data[:HEADER_BYTES] = torch.tensor(list(header(index=index, n=n, k=k)), dtype=torch.uint8)
    with LargestTensor():
        check(data, 100)  # modules that PyTorch imports when they are first needed take memory too
    tracemalloc.start()
    try:
        with LargestTensor() as largest:
            check(data, 100)
            with pytest.raises(PayloadError):
                split_payloads(data, 2)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
    assert largest.elements <= 800


def test_lengths_are_in_the_header() -> None:
    """`read_header(...).payload_bytes` is the length, for every codec and size; the dense baseline is 16 + 4 n."""
    for n, data in bases():
        found = read_header(data)
        assert (found.n, found.payload_bytes) == (n, data.numel())
        assert data.numel() <= dense_bytes(n) == 16 + 4 * n


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
