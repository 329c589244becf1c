"""Payloads put together by hand, payloads of every codec, and ways to damage them that know the header's fields."""

import random
import resource
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from compression import Sparse, make_codec
from compression.draws import random_positions
from compression.entropy import compress, symbol_bytes
from compression.index import IndexFormat, encode_index, seeded
from compression.values import BF16, FP32, INT8, LOG3, LOG4, SIGN, Qsgd, ValueFormat, value_of
from compression.wire import HEADER_BYTES, read, write
from tests.compression.cases import layers

HEADER = struct.Struct("<2sBBBBBBIIII")
INDEX_LENGTH, VALUE_LENGTH = 16, 20  # where these fields lie
MORE_BYTES = 1 << 29
NUMBERS = (0, 1, 2, 8, 9, 40, 176, 999, 1001, 2**16, 2**31 - 1, 2**31, 2**32 - 1)


def header(**fields: int) -> bytes:
    """A header with the fields of the table in `compression/wire.py`; 0 where not given."""
    names = ("version", "kind", "index", "value", "parameter", "entropy", "n", "k", "index_bytes", "value_bytes")
    return HEADER.pack(b"LF", *{**dict.fromkeys(names, 0), "version": 2, **fields}.values())


def made(positions: bytes = b"", values: bytes = b"", **fields: int) -> bytes:
    """A payload whose section lengths are right unless `fields` say otherwise."""
    lengths = {"index_bytes": len(positions), "value_bytes": len(values)}
    return header(**{**lengths, **fields}) + positions + values


def tensor(data: bytes | bytearray) -> Tensor:
    """Uint8, a copy."""
    return torch.frombuffer(bytearray(data), dtype=torch.uint8) if data else torch.empty(0, dtype=torch.uint8)


class LargestTensor(TorchDispatchMode):
    """Elements of the largest tensor that any operation returned."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor):
            self.elements = max(self.elements, result.numel())
        return result


@contextmanager
def bounded_memory(more: int = MORE_BYTES) -> Iterator[None]:
    """No more than so many bytes of address space on top of what there is, where the system can say so: an allocation beyond
    fails with an error that is no PayloadError."""
    if sys.platform != "linux":
        yield
        return
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    before = resource.getrlimit(resource.RLIMIT_AS)
    limit = used + more
    resource.setrlimit(resource.RLIMIT_AS, (limit if before[1] == -1 else min(limit, before[1]), before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@dataclass(frozen=True)
class Case:
    """A payload that is fine, and who reads it."""

    n: int
    payload: bytes
    decode: Callable[[Tensor], Sparse]


def check(sparse: Sparse, n: int) -> None:
    """n coordinates; finite fp32 values, all or at ascending positions within range."""
    assert sparse.n == n
    assert sparse.values.dtype == torch.float32
    assert bool(torch.isfinite(sparse.values).all())
    if sparse.indices is None:
        assert sparse.values.shape == (n,)
        return
    assert sparse.indices.dtype == torch.int64
    assert sparse.indices.shape == sparse.values.shape
    if sparse.kept:
        assert bool((sparse.indices.diff() > 0).all())
        assert int(sparse.indices[0]) >= 0
        assert int(sparse.indices[-1]) < n


SPECS = (
    *("none", "fp16", "bf16+zstd", "int8", "int4+zstd", "log3", "log4+zstd", "log2", "sign+zstd", "qsgd:3", "qsgd:9+zstd"),
    *("topk:0.02", "topk:0.1+bf16+zstd", "topk:0.4+fp16", "prune:0.95+int8+zstd", "prune:1+zstd", "threshold:1e30"),
    *("dct:16+topk:0.2+log2+zstd", "dct:8", "topk:0.1,chunk=16"),
    *("threshold:1+sign+zstd", "randk:0.1+log3", "randk:0.5+zstd", "cost:0.2+int4", "cost:0.3+log4+zstd"),
    *("powersgd:1", "powersgd:2+bf16+zstd", "powersgd:1+int4"),
)  # fmt: skip
SIZES = (0, 1, 9, 40, 257, 1000)


def update(n: int) -> Tensor:
    """Values that compress a little, larger in the first tenth."""
    x = torch.randn(n, generator=torch.Generator().manual_seed(n)).mul_(8).round_().div_(8)
    x[n // 10 :] *= 0.125
    return x


def of_codec(spec: str, n: int) -> Case:
    """What the codec makes of an update."""
    codec, layout = make_codec(spec), layers(n)
    payload, _ = codec.encode(update(n), layout, key=n)
    return Case(n, payload.numpy().tobytes(), lambda data: codec.decode(data, n, layout))


def of_format(form: IndexFormat, value: ValueFormat, *, coded: bool, n: int) -> Case:
    """A payload in an index format that the codec might not choose."""
    positions = random_positions(7, n, n // 5, "cpu")
    k = positions.numel()
    values = torch.ones(k).index_fill_(0, torch.arange(0, k, 9), -1.0)  # any format compresses 300 of these
    packed, _ = write(Sparse(k, None, values), value, coded=coded, key=1)
    fields = {"index": int(form), "value": value.code, "parameter": value.parameter, "entropy": int(packed[7])}
    index = seeded.encode(7) if form is IndexFormat.SEEDED else encode_index(form, positions, n)
    data = made(index.numpy().tobytes(), packed[HEADER_BYTES:].numpy().tobytes(), **fields, n=n, k=k)
    return Case(n, data, lambda payload: read(payload, n))


def cases() -> list[Case]:
    """Every codec at every size, and every index format with values of every width, coded and not."""
    sparse = [form for form in IndexFormat if form is not IndexFormat.DENSE]
    values = (FP32, BF16, INT8, LOG3, LOG4, SIGN, Qsgd.of(1))
    found = [of_codec(spec, n) for spec in SPECS for n in SIZES]
    return found + [
        of_format(form, value, coded=coded, n=n)
        for form in sparse
        for value in values
        for coded in (False, True)
        for n in (9, 300, 1500)
    ]


def damaged(case: Case, others: list[Case], rng: random.Random) -> bytes:
    """The payload, damaged in one way or in two; one in thirty is left as it is."""
    data = bytearray(case.payload)
    if rng.random() < 1 / 30:
        return bytes(data)
    for _ in range(rng.choice((1, 1, 2))):
        if len(data) < HEADER_BYTES:
            break
        if data:
            data = rng.choice(WAYS)(data, others, rng)
    return bytes(data)


Damage = Callable[[bytearray, list[Case], random.Random], bytearray]


def _flip(data: bytearray, others: list[Case], rng: random.Random) -> bytearray:
    for _ in range(rng.randint(1, 3)):
        data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return data


def _cut(data: bytearray, others: list[Case], rng: random.Random) -> bytearray:
    return data[: rng.randrange(len(data))]


def _lengthen(data: bytearray, others: list[Case], rng: random.Random) -> bytearray:
    return data + rng.randbytes(rng.randint(1, 9))


def _overwrite(data: bytearray, others: list[Case], rng: random.Random) -> bytearray:
    start = rng.randrange(len(data))
    stop = min(len(data), start + rng.choice((1, 4, 8, len(data))))
    data[start:stop] = rng.choice((bytes(stop - start), b"\xff" * (stop - start), rng.randbytes(stop - start)))
    return data


def _number(data: bytearray, others: list[Case], rng: random.Random) -> bytearray:
    """n, k or a section's length, by another number or by one more or less."""
    at = rng.choice((8, 12, 12, INDEX_LENGTH, VALUE_LENGTH))
    (old,) = struct.unpack_from("<I", data, at)
    struct.pack_into("<I", data, at, rng.choice((rng.choice(NUMBERS), old + 1, old - 1)) % 2**32)
    return data


def _byte(data: bytearray, others: list[Case], rng: random.Random) -> bytearray:
    """Version, kind, index format, value format, its parameter, entropy flag."""
    data[rng.choice((2, 3, 4, 4, 5, 5, 6, 7, 7))] = rng.choice((*range(10), 127, 128, 255))
    return data


def _sections(data: bytearray) -> tuple[bytearray, bytes, bytes]:
    """Header, positions, values; as far as there are so many bytes."""
    split = HEADER_BYTES + min(struct.unpack_from("<I", data, INDEX_LENGTH)[0], len(data))
    return data[:HEADER_BYTES], bytes(data[HEADER_BYTES:split]), bytes(data[split:])


def _joined(head: bytearray, positions: bytes, values: bytes) -> bytearray:
    """With section lengths that are right, so that the decoder looks further than those."""
    struct.pack_into("<II", head, INDEX_LENGTH, len(positions), len(values))
    return head + positions + values


def _within(data: bytes, rng: random.Random) -> bytes:
    """A section with bits flipped, or bytes left out, put in or written over."""
    found = bytearray(data)
    at, size = rng.randrange(len(found) + 1), rng.randint(1, 5)
    kind = rng.choice((0, 0, 1, 2, 3, 3))  # most keep the length, which is checked first
    if kind == 0 and found:
        found[rng.randrange(len(found))] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del found[at : at + size]
    elif kind == 2:
        found[at:at] = rng.randbytes(size)
    else:
        found[at : at + size] = rng.choice((b"\0", b"\xff", rng.randbytes(1))) * len(found[at : at + size])
    return bytes(found)


def _positions(data: bytearray, others: list[Case], rng: random.Random) -> bytearray:
    head, positions, values = _sections(data)
    return _joined(head, _within(positions, rng), values)


def _values(data: bytearray, others: list[Case], rng: random.Random) -> bytearray:
    head, positions, values = _sections(data)
    return _joined(head, positions, _within(values, rng))


def _other_section(data: bytearray, others: list[Case], rng: random.Random) -> bytearray:
    """Positions or values of another payload, with the format's code."""
    head, positions, values = _sections(data)
    other = rng.choice(others)
    theirs, their_positions, their_values = _sections(bytearray(other.payload))
    if rng.random() < 0.5:
        head[4] = theirs[4]
        return _joined(head, their_positions, values)
    head[5:8] = theirs[5:8]
    return _joined(head, positions, their_values)


def _frame(data: bytearray, others: list[Case], rng: random.Random) -> bytearray:
    """Values as a whole frame of other symbols, of the right number or not, or of a great many."""
    head, positions, values = _sections(data)
    k = min(struct.unpack_from("<I", data, 12)[0], 4000)
    try:
        value = value_of(head[5], head[6])
    except ValueError:
        return data
    size = max(0, symbol_bytes(value.width, k) + rng.choice((0, 0, 0, 1, -1, 30_000)))
    top = rng.choice((1, 3, 16, 128, 256))
    frame = compress(tensor(bytes(rng.choices(range(top), k=min(size, 300))) * (size // 300 + 1))[:size])
    head[7] = 1
    return _joined(head, positions, values[: value.side_bytes(k)] + frame.numpy().tobytes())


def _random(data: bytearray, others: list[Case], rng: random.Random) -> bytearray:
    """Any bytes under a header that might be one."""
    n = struct.unpack_from("<I", data, 8)[0]
    fields = {"kind": data[3], "index": rng.randrange(6), "value": rng.randrange(9), "entropy": rng.randrange(2)}
    k = rng.randint(0, min(n, 60))
    return bytearray(made(rng.randbytes(rng.randint(0, 30)), rng.randbytes(rng.randint(0, 60)), **fields, n=n, k=k))


WAYS: tuple[Damage, ...] = (
    *(_flip, _cut, _lengthen, _overwrite, _number, _byte),
    *(_positions, _positions, _values, _values, _other_section, _frame, _random),
)
